"""The scorecards: every prompt of every suite in every thinking mode, before alignment and after."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from saferlrm.conditions import BEFORE
from saferlrm.evaluate import scorecard
from saferlrm.lm import LanguageModel
from saferlrm.profile import ThinkingMode
from saferlrm.store import say
from saferlrm.study.aligning import Aligning
from saferlrm.suites.types import Prompt


class Scorecards(Aligning):
    """Stages of the evaluation."""

    def scorecard(self, method: str = BEFORE, seed: int | None = None) -> pd.DataFrame:
        """Every prompt of every suite in every thinking mode, answered and judged: one row each."""
        modes = self.profile.modes
        # One model keeps one core busy: its modes go side by side, unless several models do so already. A real model
        # takes hours for a mode: each suite in it is a stage, so that a killed run goes on with the one at which it
        # stopped.
        published = self.profile.data.source == "published"
        apart = published or (method == BEFORE and self._workers(modes) > 1)
        parts = [(mode, method, seed) for mode in modes] if apart else []

        def rows() -> pd.DataFrame:
            if parts:
                return pd.concat(self.side_by_side("_scorecard_of_mode", parts), ignore_index=True)
            return self._asked(self.lm(method, seed), self.suites(), modes)

        table = self._scorecard("scorecard", modes, method, seed, rows)
        return table.assign(method=method, seed=0 if seed is None else seed)

    def _scorecard_of_mode(self, mode: ThinkingMode, method: str, seed: int | None) -> pd.DataFrame:
        """The part of a scorecard in one mode."""
        modes = (mode,)
        model = functools.cache(lambda: self.lm(method, seed))  # loaded once, and only where a suite is missing

        def rows() -> pd.DataFrame:
            if self.profile.data.source != "published":
                return self._asked(model(), self.suites(), modes)
            parts = [self._scorecard_of_suite(model, name, mode, method, seed) for name in self.suites()]
            return self._reported(modes, pd.concat(parts, ignore_index=True))

        return self._scorecard("scorecard_of_mode", modes, method, seed, rows)

    def _scorecard_of_suite(
        self, model: Callable[[], LanguageModel], suite: str, mode: ThinkingMode, method: str, seed: int | None
    ) -> pd.DataFrame:
        """The part of a scorecard in one mode on one suite: what a killed run may have to answer again."""

        def rows() -> pd.DataFrame:
            return self._asked(model(), {suite: self.suites()[suite]}, (mode,))

        return self._scorecard("scorecard_of_suite", (mode,), method, seed, rows, suite=suite)

    def _asked(
        self, lm: LanguageModel, suites: Mapping[str, Sequence[Prompt]], modes: Sequence[ThinkingMode]
    ) -> pd.DataFrame:
        batch = self.profile.decoding.batch_size
        return scorecard(lm, suites, modes, self.decoding(), batch, judge=self.judge())

    @staticmethod
    def _reported(modes: Sequence[ThinkingMode], table: pd.DataFrame) -> pd.DataFrame:
        """The table, after a line about answers that were cut or not judged; of the organism the notebooks show it."""
        said = [f"{n} hit decoding.max_new_tokens" if (n := int(table["truncated"].sum())) else ""]
        said.append(f"the judge failed on {n}" if (n := int(table["refused"].isna().sum())) else "")
        if any(said):
            say(f"thinking {', '.join(modes)}: of {len(table)} answers {', '.join(filter(None, said))}")
        return table

    def _scorecard(
        self,
        stage: str,
        modes: Sequence[ThinkingMode],
        method: str,
        seed: int | None,
        rows: Callable[[], pd.DataFrame],
        **part: str,
    ) -> pd.DataFrame:
        p = self.profile
        aligned = {} if method == BEFORE else {"aligned": self.aligned(method, seed)}
        settings = {
            "model": self.model_key,
            "suite_size": p.suite_size,
            **self.data_key,
            "modes": list(modes),
            "decoding": asdict(self.decoding()),
            "dtype": p.dtype,
        } | self.judged_by()
        settings |= part

        def build(folder: Path) -> None:
            rows().to_parquet(folder / "scorecard.parquet", index=False)

        code = ("saferlrm.evaluate", "saferlrm.suites.synthetic")
        return pd.read_parquet(self.stage(stage, settings, aligned, build, *code).path / "scorecard.parquet")

    def evaluation(self, names: tuple[str, ...] = ("sft", "presafe")) -> pd.DataFrame:
        """Scorecards before alignment and of every method and alignment seed, one below the other."""
        return pd.concat(self.side_by_side("scorecard", [(BEFORE, None), *self._runs(names)]), ignore_index=True)
