"""The labels of the alignment set and the alignment runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saferlrm import distributed
from saferlrm.align import methods
from saferlrm.align.data import AlignmentExample
from saferlrm.align.gradient import safety_gradient
from saferlrm.align.run import align
from saferlrm.classifier import predict
from saferlrm.conditions import BEFORE
from saferlrm.generate import answer
from saferlrm.judges.rules import refusal_class
from saferlrm.lm import LanguageModel
from saferlrm.profile import AlignmentSettings
from saferlrm.self_refusals import write_refusals
from saferlrm.store import Artefact, say
from saferlrm.study.alignment_set import AlignmentSet
from saferlrm.study.base import digest
from saferlrm.suites.types import Prompt


class Aligning(AlignmentSet):
    """Stages of auxiliary-supervision fine-tuning."""

    def soft_labels(self) -> np.ndarray:
        """The classifier's p(refuse) for each example of the alignment set."""
        examples, _ = self.alignment_set()
        prompts = [example.prompt for example in examples]

        def build(folder: Path) -> None:
            pd.DataFrame({"id": [e.id for e in examples], "p_refuse": predict(self.classifier(), prompts)}).to_parquet(
                folder / "labels.parquet", index=False
            )

        settings = self._classifier_settings() | {"prompts": digest(prompts)}
        path = self.stage("soft_labels", settings, {}, build, "saferlrm.classifier").path
        return pd.read_parquet(path / "labels.parquet")["p_refuse"].to_numpy()

    def more_answers(self) -> pd.DataFrame:
        """Further answers to the alignment prompts, for hard decisions and for rivals.

        Columns ``id``, ``refused`` (without thinking), and for harmful prompts ``thought`` (the model's own),
        ``hinted_thought``, ``hinted_answer`` and ``hinted_refused`` (made to refuse, see
        :mod:`saferlrm.self_refusals`), and ``way``, by what it was made to.
        """
        examples, _ = self.alignment_set()

        def build(folder: Path) -> None:
            self._generate_more_answers(examples).to_parquet(folder / "answers.parquet", index=False)

        declared = {
            "model": self.model_key,
            "examples": digest([asdict(e) for e in examples]),
            "decoding": asdict(self.decoding()),
            "dtype": self.profile.dtype,
        } | self.judged_by()
        path = self.stage("more_answers", declared, {}, build, "saferlrm.judges", "saferlrm.self_refusals").path
        return pd.read_parquet(path / "answers.parquet")

    def _generate_more_answers(self, examples: list[AlignmentExample]) -> pd.DataFrame:
        batch, lm = self.profile.decoding.batch_size, self.load()
        harmful = [e for e in examples if e.source == "harmful"]
        asked = [e.prompt for e in harmful]
        off = answer(lm, [e.prompt for e in examples], "off", self.decoding(), batch, progress="hard decisions")
        own = answer(lm, asked, "on", self.decoding(), batch, progress="thoughts about harmful prompts")
        judge = self.judge()
        written = write_refusals(lm, [_asked(e) for e in examples], judge, self.decoding(), batch)
        decided = judge([_asked(e) for e in examples], off)
        # A label cannot be missing: where the judge fails, the refusal rules decide.
        refused = [
            refusal_class(r.answer) != "compliance" if j.refused is None else j.refused
            for r, j in zip(off, decided, strict=True)
        ]
        if failed := sum(j.refused is None for j in decided):
            say(f"more_answers: the judge failed on {failed} of {len(decided)} answers; the refusal rules decide there")
        if written.failed:
            say(f"more_answers: the judge failed on {written.failed} of {len(harmful)} refusals, which are left out")
        table = pd.DataFrame({"id": [e.id for e in examples], "refused": refused})
        more = pd.DataFrame(
            {
                "id": [e.id for e in harmful],
                "thought": [r.thought for r in own],
                "hinted_thought": [r.thought for r in written.answers],
                "hinted_answer": [r.answer for r in written.answers],
                "hinted_refused": written.refused,
                "way": f"{written.way} (best of {written.tried} ways)",
            }
        )
        return table.merge(more, on="id", how="left")

    def decision_prompts(self) -> tuple[AlignmentExample, ...]:
        """Further training prompts with the classifier's p(refuse) and no answer."""
        n = self.profile.alignment.n_decision
        prompts = self.training_prompts(n - n // 2, n // 2, "decision_only")

        def build(folder: Path) -> None:
            labels = predict(self.classifier(), [p.text for p in prompts]) if prompts else []
            pd.DataFrame({"p_refuse": labels}).to_parquet(folder / "labels.parquet", index=False)

        settings = self._classifier_settings() | {"prompts": digest(p.text for p in prompts)}
        path = self.stage("decision_prompts", settings, {}, build, "saferlrm.classifier").path
        labels = pd.read_parquet(path / "labels.parquet")["p_refuse"]
        return tuple(
            AlignmentExample(p.id, p.text, None, None, float(label), "decision")
            for p, label in zip(prompts, labels, strict=True)
        )

    def sources(self, method: str) -> methods.LabelSources:
        """What a method's labels and conversations are made of, in the order of the alignment set."""
        examples, _ = self.alignment_set()
        wanted = methods.get_method(method)
        found: dict[str, Any] = {"gold": np.array([float(example.source == "harmful") for example in examples])}
        if wanted.needs == "soft":
            found["soft"] = self.soft_labels()
        if wanted.decisions:
            found["decision_prompts"] = self.decision_prompts()
        if wanted.needs in ("decisions", "thoughts", "hinted"):
            more = self.more_answers()
            kept = more[more["hinted_refused"].fillna(False).astype(bool)]
            found["decisions"] = more["refused"].to_numpy(float)
            found["thoughts"] = dict(more.dropna(subset="thought")[["id", "thought"]].itertuples(index=False))
            found["hinted"] = {row.id: (row.hinted_thought, row.hinted_answer) for row in kept.itertuples()}
        return methods.LabelSources(**found)

    def _prepared(self, method: str, seed: int) -> tuple[list[AlignmentExample], AlignmentSettings]:
        """What a method trains on with this seed: all examples, or the subset that the seed draws."""
        examples, _ = self.alignment_set()
        a, sources = self.profile.alignment, self.sources(method)
        rng = np.random.default_rng([self.profile.data_seed, seed])
        drawn: list[int] = []
        for source, most in (("harmful", a.subset_harmful), ("benign", a.subset_benign)):
            # The same for every method, and smaller subsets lie within larger ones.
            drawn += list(rng.permutation([i for i, e in enumerate(examples) if e.source == source])[:most])
        chosen = sorted(int(i) for i in drawn)
        labels = {name: getattr(sources, name) for name in ("soft", "decisions", "gold")}
        some = replace(sources, **{name: None if all_ is None else all_[chosen] for name, all_ in labels.items()})
        return methods.prepare(method, [examples[i] for i in chosen], some, a, seed)

    def aligned(self, method: str, seed: int | None = None) -> Artefact:
        """The adapter of one method and seed (``adapter/``, which peft alone loads), its history and its cost."""
        seed = self.profile.seeds[0] if seed is None else seed
        labelled, settings = self._prepared(method, seed)
        fingerprint = digest([asdict(e) for e in labelled])

        loading = self.profile.loading
        if distributed.shared_out():  # every process has a card of its own, and FSDP shards what does not fit
            loading = loading.model_copy(update={"device_map": "single"})

        def build(folder: Path) -> None:
            align(
                self.model,
                labelled,
                settings,
                seed,
                folder,
                dtype=self.profile.dtype,
                device=self.profile.device,
                loading=loading,
            )

        declared = {
            "method": method,
            "seed": seed,
            "model": self.model_key,
            "examples": fingerprint,
            "alignment": settings.model_dump(mode="json"),
        }
        return self.stage("aligned", declared, {}, build, "saferlrm.align.run")

    def history(self, method: str, seed: int | None = None) -> pd.DataFrame:
        """Losses of an alignment run, one row per logging step."""
        return pd.DataFrame(json.loads((self.aligned(method, seed).path / "history.json").read_text()))

    def histories(self, names: Sequence[str] = ("sft", "presafe")) -> pd.DataFrame:
        """Losses of every method and alignment seed, one below the other, with ``method`` and ``seed``."""
        calls = self._runs(names)
        tables = self.side_by_side("history", calls)
        named = [table.assign(method=name, seed=seed) for table, (name, seed) in zip(tables, calls, strict=True)]
        return pd.concat(named, ignore_index=True)

    def gradients(self, n_examples: int = 64) -> pd.DataFrame:
        """Norm and cosine of the language-modelling and the safety gradient by layer, at the start of alignment."""
        labelled, settings = self._prepared("presafe", self.profile.seeds[0])
        rng = np.random.default_rng(self.profile.data_seed)
        few = [labelled[i] for i in sorted(rng.permutation(len(labelled))[:n_examples])]
        fingerprint = digest([asdict(e) for e in few])

        def build(folder: Path) -> None:
            safety_gradient(self.load(), few, settings).to_parquet(folder / "gradients.parquet", index=False)

        declared = {
            "model": self.model_key,
            "examples": fingerprint,
            "alignment": settings.model_dump(mode="json"),
        }
        path = self.stage("gradients", declared, {}, build, "saferlrm.align.gradient").path
        return pd.read_parquet(path / "gradients.parquet")

    def lm(self, method: str = BEFORE, seed: int | None = None) -> LanguageModel:
        """The model before alignment, or aligned by ``method`` with ``seed``."""
        adapter = None if method == BEFORE else self.aligned(method, seed).path / "adapter"
        return self.load(adapter)

    def _runs(self, names: Sequence[str]) -> list[tuple[str, int]]:
        """Every method with each alignment seed; what the methods share is computed here, once for all workers."""
        if self._workers(names) > 1:
            for name in names:
                self.sources(name)
        return [(name, seed) for name in names for seed in self.profile.seeds]


def _asked(example: AlignmentExample) -> Prompt:
    """An example's prompt, for a judge."""
    return Prompt(example.id, example.prompt, "alignment", example.source == "harmful")
