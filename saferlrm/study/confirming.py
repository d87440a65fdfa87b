"""The head's one apparent gain tried again: on fresh alignment seeds, and on organisms grown for the purpose.

None of this is part of ``make study``: each is asked once, by the rules of :mod:`saferlrm.confirmation`, and writes its
tidy rows to ``results/tidy``, where the ledger and notebook 09 read them.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from saferlrm import conditions
from saferlrm.answers import BOTH
from saferlrm.conditions import BEFORE, FEW
from saferlrm.confirmation import ENDINGS, FURTHER, FURTHER_ORGANISMS, HEAD, PLAIN, TABLE
from saferlrm.errors import SaferlrmError
from saferlrm.generate import answer
from saferlrm.judges import is_refusal
from saferlrm.study.controls import Controls

# Where the head looked useful on the first three alignment seeds, the seeds on which that is tried again, what could
# explain it away, and how many times longer an answer may be when the token limit is the suspect.
CONFIRMED_ORGANISM, FRESH_SEEDS = 2, tuple(range(3, 13))
CONFIRMED = (BEFORE, PLAIN, HEAD, *(f"{name}/{FEW}" for name in ("detached", "shuffled", "random")))
LONGER = 4
MADE_OF_FURTHER = (BEFORE, PLAIN, HEAD, f"shuffled/{FEW}")


class Confirming(Controls):
    """Stages that try again what was seen and not asked."""

    def carry_rows(self) -> None:
        """Puts the rows of these stages, where they are there, beside the others: the ledger reads one folder."""
        if self.out != self.home:
            for name in (TABLE, ENDINGS, FURTHER):
                if len(rows := self.saved_rows(name)):
                    self.save_rows(name, rows)

    def confirmation(self) -> pd.DataFrame:
        """The head with few examples on the organism on which it looked useful, on alignment seeds that are fresh.

        With the controls that could explain a gain away, and (group ``robustness:truncation``) unseen requests where an
        answer may be :data:`LONGER` times as long. Also writes ``confirmation_endings``; see :meth:`endings_of`.

        Raises:
            SaferlrmError: the model under study is no organism.
        """
        study = self.of_organism(CONFIRMED_ORGANISM)
        rows = study.cards([conditions.condition(name) for name in CONFIRMED], FRESH_SEEDS)
        aligned = [(name, seed) for name in (PLAIN, HEAD) for seed in FRESH_SEEDS]
        limits = (LONGER * self.profile.decoding.max_new_tokens,)
        cut = study.side_by_side("truncation_of", [(*one, limits) for one in aligned])
        rows = pd.concat([rows, *cut], ignore_index=True)
        self.save_rows(TABLE, rows)
        ended = study.side_by_side("endings_of", aligned)
        self.save_rows(ENDINGS, pd.concat(ended, ignore_index=True))
        return rows

    def endings_of(self, base: str, seed: int) -> pd.DataFrame:
        """How one model's answers to unseen requests and jailbreaks end, and whether a refusal stands in the thought.

        Columns ``prompt_id``, ``suite``, ``verdict``, ``closed`` (the thought), ``thought_refuses``, ``condition``,
        ``seed``. The verdict is on what the user sees: a refusal in a thought that never closes is none.
        """
        trained = self.trained(base, seed)

        def build(folder: Path) -> None:
            lm, judge, tables = self.loaded(trained), self.judge(), []
            for suite, prompts in self.first(BOTH).items():
                texts, batch = [prompt.text for prompt in prompts], self.profile.decoding.batch_size
                replies = answer(lm, texts, "on", self.decoding(), batch)
                table = {
                    "prompt_id": [prompt.id for prompt in prompts],
                    "suite": suite,
                    "verdict": [found.verdict for found in judge(prompts, replies)],
                    "closed": [reply.closed for reply in replies],
                    "thought_refuses": [is_refusal(reply.thought) for reply in replies],
                }
                tables.append(pd.DataFrame(table))
            pd.concat(tables, ignore_index=True).to_parquet(folder / "rows.parquet", index=False)

        settings = {"suites": BOTH, "base": base}
        path = self.stage_of_model("endings_of_model", settings, trained, build, "saferlrm.generate").path
        return pd.read_parquet(path / "rows.parquet").assign(condition=base, seed=seed)

    def further_organisms(self) -> pd.DataFrame:
        """The head with few examples on :data:`FURTHER_ORGANISMS`, whether or not they show the phenomenon.

        They are grown first, a quarter of an hour each on two cores.

        Raises:
            SaferlrmError: the model under study is no organism.
        """
        if self.profile.model != "organism":
            raise SaferlrmError(f"{self.profile.model} has no growth seeds; choose a profile of the organism")
        self.side_by_side("organism", [(seed,) for seed in FURTHER_ORGANISMS])
        listed = [conditions.condition(name) for name in MADE_OF_FURTHER]
        studies = [self.of_organism(seed) for seed in FURTHER_ORGANISMS]
        rows = pd.concat([study.cards(listed, self.profile.evidence.seeds) for study in studies], ignore_index=True)
        self.save_rows(FURTHER, rows)
        return rows
