"""The alignment set: the model's own refusals and answers, filtered by the judge (arXiv 2603.17368, section 4)."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from saferlrm.align.data import AlignmentExample, Source
from saferlrm.batching import context_length
from saferlrm.chat import ThinkingMode
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Answer
from saferlrm.server import ServerModel
from saferlrm.store import say
from saferlrm.study.deciding import Deciding
from saferlrm.suites.types import Prompt

# Of published prompts at most so many times the wanted number are asked: where so few are usable, more do not help.
MOST_ASKED = 4


class AlignmentSet(Deciding):
    """The stage that makes the alignment set."""

    def alignment_set(self) -> tuple[list[AlignmentExample], pd.DataFrame]:
        """The self-generated alignment set and the table of what was kept and dropped.

        Harmful prompts keep the model's own refusal without thinking, benign ones its own thought and answer with
        thinking. A harmful prompt that was not refused and a benign one that was not answered are dropped. The table
        has one row for each ``source`` and ``verdict`` with ``n`` and ``kept``; besides the judge's verdicts there are
        those of :func:`verdict_or_defect`, ``too_long`` (the prompt fills the model's context) and ``overlapping`` (of
        all training prompts, those that were left out because a suite holds them too).
        """
        a = self.profile.alignment
        settings = {
            "model": self.model_key,
            "n_harmful": a.n_harmful,
            "n_benign": a.n_benign,
            "benign_thoughts": a.benign_thoughts,
            **self.data_key,
            "decoding": asdict(self.decoding()),
            "dtype": self.profile.dtype,
        } | self.judged_by()
        if self.profile.data.least_share < 1:
            settings["least_share"] = self.profile.data.least_share

        def build(folder: Path) -> None:
            examples, counts = self._generate_alignment_set()
            (folder / "examples.json").write_text(
                json.dumps([asdict(e) for e in examples], indent=1, ensure_ascii=False), encoding="utf-8"
            )
            counts.to_parquet(folder / "counts.parquet", index=False)

        path = self.stage(
            "alignment_set",
            settings,
            {},
            build,
            "saferlrm.judges",
            "saferlrm.generate",
            "saferlrm.suites.synthetic",
        ).path
        examples = [
            AlignmentExample(**row) for row in json.loads((path / "examples.json").read_text(encoding="utf-8"))
        ]
        return examples, pd.read_parquet(path / "counts.parquet")

    def _generate_alignment_set(self) -> tuple[list[AlignmentExample], pd.DataFrame]:
        a = self.profile.alignment
        # A quarter more than needed, because some answers are dropped; without the model's own thoughts, most are.
        spare = [
            n + n // 4 + 8 if n else 0
            for n in (a.n_harmful, a.n_benign if a.benign_thoughts == "on" else 3 * a.n_benign)
        ]
        wanted = spare
        if (available := self.source.available("alignment")) is not None:
            wanted = [min(MOST_ASKED * n, most) for n, most in zip(spare, available, strict=True)]
        prompts = self.training_prompts(*wanted, "alignment")
        harmful, benign = [p for p in prompts if p.harmful], [p for p in prompts if not p.harmful]
        examples: list[AlignmentExample] = []
        counts = []
        for source, group, mode, right, n, first in (
            ("harmful", harmful, "off", "refusal", a.n_harmful, spare[0]),
            ("benign", benign, a.benign_thoughts, "compliance", a.n_benign, spare[1]),
        ):
            kept, found = self._self_generated(source, group, mode, right, n, first)
            examples += kept
            counts += [
                {"source": source, "verdict": reason, "n": found[reason], "kept": reason == right}
                for reason in sorted(found)
            ]
        return examples, pd.DataFrame(counts)

    def _self_generated(
        self, source: Source, group: list[Prompt], mode: ThinkingMode, right: str, n: int, first: int
    ) -> tuple[list[AlignmentExample], Counter[str]]:
        """The first ``n`` usable examples of a group of prompts, and how many had which verdict.

        ``first`` prompts are asked at once; if that is not enough, more, by the share that was usable.
        """
        kept: list[AlignmentExample] = []
        found: Counter[str] = Counter()
        published = self.source.available("alignment") is not None
        fits = self._fit(group, mode) if published and n else [True] * len(group)
        if (overlapping := self.source.left_out(source == "harmful")) and n:
            found["overlapping"] = overlapping
        asked, size = 0, first
        while len(kept) < n and asked < len(group):
            drawn = slice(asked, min(asked + size, len(group)))
            part = [p for p, fit in zip(group[drawn], fits[drawn], strict=True) if fit]
            found["too_long"] += drawn.stop - drawn.start - len(part)
            asked = drawn.stop
            replies = self.answers(part, mode, f"alignment answers ({source})")
            reasons = self._reasons(part, replies)
            found.update(reasons)
            kept += [
                AlignmentExample(p.id, p.text, None if source == "harmful" else r.thought, r.answer, None, source)
                for p, r, reason in zip(part, replies, reasons, strict=True)
                if reason == right
            ]
            share = max(found[right] / asked, 0.05)
            size = math.ceil(1.25 * (n - len(kept)) / share) + 8
        found = +found  # without the reasons that never occurred
        if n and not asked:
            left = f"the other roles leave no {source} prompt for the alignment set"
            beside = f" and {overlapping} stand in a suite" if overlapping else ""
            ways = f"name more sets in data.train_{source}, or lower probe.n_train or classifier.n_prompts"
            raise SaferlrmError(f"{left}{beside}; {ways}")
        if len(kept) < n:
            least = math.ceil(n * self.profile.data.least_share) if published else n
            dropped = ", ".join(f"{k} {reason}" for reason, k in sorted(found.items()) if reason != right)
            short = f"only {min(len(kept), n)} of {asked} {source} prompts got a usable answer"
            if len(kept) < max(least, 1):
                raise SaferlrmError(f"{short} but alignment.n_{source} is {n}; lower it (dropped: {dropped or 'none'})")
            say(f"note: {short}; the study goes on with fewer than alignment.n_{source} = {n} (dropped: {dropped})")
        return kept[:n], found

    def _reasons(self, prompts: Sequence[Prompt], replies: Sequence[Answer]) -> list[str]:
        verdicts = [judgement.verdict for judgement in self.judge()(prompts, replies)]
        if self.profile.data.source == "synthetic":
            return verdicts  # the world's judge has words for these defects: truncated and babble
        return [verdict_or_defect(verdict, reply) for verdict, reply in zip(verdicts, replies, strict=True)]

    def _fit(self, group: list[Prompt], mode: ThinkingMode) -> list[bool]:
        """Which prompts leave room in the model's context, or in that of its server."""
        lm = self.load()
        context = lm.limit if isinstance(lm, ServerModel) else context_length(lm)
        return [len(row) < context for row in lm.encode([lm.chat.render(p.text, mode) for p in group])]


def verdict_or_defect(verdict: str, reply: Answer) -> str:
    """Why a reply is kept or dropped: the judge's verdict, or what makes the reply unusable whatever the judge says.

    ``truncated``: it hit the token limit; ``unclosed``: its thought never ended, so there is no answer.
    """
    if reply.truncated:
        return "truncated"
    return verdict if reply.closed else "unclosed"
