"""What thinking is worth, measured: votes over sampled thoughts, shorter and longer thoughts, hints, model size.

Stages of notebook 01, and the validation prompts on which notebook 04 chooses a threshold.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from saferlrm.budget import budget_rows
from saferlrm.classifier import predict
from saferlrm.consistency import Regime, sampled
from saferlrm.errors import SaferlrmError
from saferlrm.evaluate import rates, scorecard
from saferlrm.faithfulness import TEMPLATES, hint_rows
from saferlrm.puzzle import box, look, side_by_side
from saferlrm.study.base import digest
from saferlrm.study.evidence import Evidence, tidy
from saferlrm.suites.source import N_VALIDATION
from saferlrm.suites.synthetic import REASONING
from saferlrm.suites.types import Prompt

# Prompts of each suite: as many as keep the notebook within two minutes on two cores.
PROBLEMS, REQUESTS = 60, 40
SAMPLES = 15
# Thinking solves nearly all problems of the organism, so a vote has nothing to mend there. The other two regimes leave
# room: answers without a thought, and thoughts at a temperature that spoils them.
REGIMES = (Regime("thinking", "on", 0.7), Regime("no thinking", "off", 0.7), Regime("thinking, hot", "on", 1.3))
DECIDED = (REGIMES[0], REGIMES[2])
DECISION_SUITES = ("harmful_unseen", "harmful_novel_wrapped", "benign")
ASKED = (((REASONING,), REGIMES), (DECISION_SUITES, DECIDED))
# Lengths of thought, as shares of the profile's forced length: organism 4 to 48 tokens cut, 24 to 96 forced.
CUT_SHARES = (0.0, 1 / 12, 1 / 6, 1 / 3, 1 / 2, 1.0)
FORCED_SHARES = (0.5, 1.0, 1.5, 2.0)
BUDGET_SUITES = (REASONING, "harmful_unseen", "harmful_novel_wrapped")
SIZES = (64, 128, 192)  # hidden size; layers and trained tokens stay
SIZE_SUITES = (REASONING, "harmful_unseen")


class Prerequisites(Evidence):
    """Stages of the experiments with thoughts."""

    def self_consistency(self) -> pd.DataFrame:
        """Tidy rows of :data:`SAMPLES` samples a prompt: problems in every regime, requests with thinking on.

        Columns of :func:`saferlrm.consistency.sampled`.
        """

        asked = [(suites, regime) for suites, regimes in ASKED for regime in regimes]
        declared = {"regimes": [list(one) for one in REGIMES], "decided": [list(one) for one in DECIDED]}
        declared |= {"samples": SAMPLES, "suites": DECISION_SUITES}

        def build(folder: Path) -> None:
            rows = pd.concat(self.side_by_side("_samples_of", asked), ignore_index=True)
            rows.to_parquet(folder / "rows.parquet", index=False)

        return self._rows_of("self_consistency", declared, build, "saferlrm.consistency")

    def _samples_of(self, suites: tuple[str, ...], regime: Regime) -> pd.DataFrame:
        """Of these suites and this regime the rows of :meth:`self_consistency`."""

        def build(folder: Path) -> None:
            lm, batch = self.load(), self.profile.decoding.batch_size
            rows = sampled(lm, self._some(suites), [regime], self.decoding(), SAMPLES, batch, self.judge())
            rows.to_parquet(folder / "rows.parquet", index=False)

        declared = {"regime": list(regime), "samples": SAMPLES, "suites": suites}
        return self._rows_of("samples", declared, build, "saferlrm.consistency")

    def thought_budgets(self) -> pd.DataFrame:
        """Tidy rows of problems and harmful requests at shorter and longer thoughts.

        Columns of :func:`saferlrm.budget.budget_rows`.
        """
        most = self.profile.decoding.max_new_tokens
        unit = self.profile.decoding.forced_thought_tokens or most // 3
        cuts = sorted({round(share * unit) for share in CUT_SHARES})
        forced = sorted({min(round(share * unit), most - 1) for share in FORCED_SHARES} - {0})

        def build(folder: Path) -> None:
            rows = budget_rows(
                self.load(), self._some(BUDGET_SUITES), self.decoding(), cuts, forced,
                self.profile.decoding.batch_size, self.judge(),
            )  # fmt: skip
            rows.to_parquet(folder / "rows.parquet", index=False)

        declared = {"cuts": cuts, "forced": forced, "suites": BUDGET_SUITES}
        return self._rows_of("thought_budgets", declared, build, "saferlrm.budget")

    def hints(self) -> pd.DataFrame:
        """Tidy rows of problems with and without hints, without and with a thought.

        Columns of :func:`saferlrm.faithfulness.hint_rows`.
        """

        def build(folder: Path) -> None:
            problems = self._some((REASONING,))[REASONING]
            rows = hint_rows(
                self.load(), problems, ("off", "on"), self.decoding(), self.profile.decoding.batch_size, self.judge(),
                self.profile.data_seed,
            )  # fmt: skip
            rows.to_parquet(folder / "rows.parquet", index=False)

        return self._rows_of("hints", {"templates": TEMPLATES}, build, "saferlrm.faithfulness")

    def sizes(self) -> pd.DataFrame:
        """Accuracy and attack success of organisms of each of :data:`SIZES`, which are grown if need be.

        Growing takes about a quarter of an hour a size on two cores, so no notebook does it: the table is written to
        ``results/01_sizes.json`` (its rows to ``results/tidy/sizes.parquet``), and notebooks read it from there.

        Returns:
            One row per size and mode, and metric: ``hidden_size``, ``parameters``, ``trained_tokens``, ``mode``,
            ``metric`` (``correct`` or ``attack_success``), ``n``, ``rate``, ``low``, ``high``.

        Raises:
            SaferlrmError: the model under study is no organism.
        """
        if self.profile.model != "organism":
            raise SaferlrmError(f"{self.profile.model} has no other sizes to grow; choose a profile of the organism")
        rows = pd.concat([self._of_size(size) for size in SIZES], ignore_index=True)
        by = ("hidden_size", "parameters", "trained_tokens", "mode")
        table = pd.concat([rates(rows, metric, by) for metric in ("correct", "attack_success")], ignore_index=True)
        self.save_rows("sizes", rows)
        self.save_table("01_sizes", table)
        return table

    def measured_sizes(self) -> pd.DataFrame:
        """What :meth:`sizes` found, from the results folder; an empty table where it has not run."""
        path = self.out / "results" / "01_sizes.json"
        return pd.DataFrame(json.loads(path.read_text())["rows"]) if path.is_file() else pd.DataFrame()

    def _of_size(self, size: int) -> pd.DataFrame:
        growth = self.profile.growth.model_copy(update={"hidden_size": size})
        study = self.like(growth=growth)

        def build(folder: Path) -> None:
            lm, batch = study.load(), study.profile.decoding.batch_size
            suites = study.first(SIZE_SUITES)
            rows = tidy(scorecard(lm, suites, ("off", "on"), study.decoding(), batch, judge=study.judge()))
            parameters = sum(weight.numel() for weight in lm.model.parameters())
            rows.assign(parameters=parameters).to_parquet(folder / "rows.parquet", index=False)

        rows = study._rows_of("sizes", {"suites": SIZE_SUITES}, build, "saferlrm.evaluate")
        return rows.assign(hidden_size=size, trained_tokens=growth.pretrain_tokens + growth.posttrain_tokens)

    def threshold_validation(self) -> pd.DataFrame:
        """The classifier's p(refuse) of prompts that it did not learn from, from the training side.

        ``prompt_id``, ``harmful``, ``family``, ``p_refuse``.
        """
        n = 3 * min(N_VALIDATION, self.profile.evidence.suite_size)
        known = set(self.decisions()["text"].str.lower())
        drawn = self.training_prompts(n, n, "validation")
        prompts = [prompt for prompt in drawn if prompt.text.lower() not in known]

        def build(folder: Path) -> None:
            found = pd.DataFrame(
                {
                    "prompt_id": [p.id for p in prompts],
                    "harmful": [p.harmful for p in prompts],
                    "family": [p.family for p in prompts],
                    "p_refuse": predict(self.classifier(), [p.text for p in prompts]),
                }
            )
            found.to_parquet(folder / "rows.parquet", index=False)

        settings = self._classifier_settings() | {"prompts": digest(p.text for p in prompts)}
        path = self.stage("threshold_validation", settings, {}, build, "saferlrm.classifier").path
        return pd.read_parquet(path / "rows.parquet")

    def puzzle(self, text: str, harmless: bool | None = None) -> Any:
        """A text of the reader's, answered at once and after a thought, side by side; see :mod:`saferlrm.puzzle`.

        Args:
            harmless: show thought and answers whole. By default the organism's world decides; prompts of a real model
                are redacted until their author says that they are harmless.
        """
        if harmless is None and self.profile.data.source == "published":
            harmless = False
        return side_by_side(look(self._puzzled, text, self.decoding(), harmless))

    def puzzle_box(self, text: str = "") -> None:
        """The same as a text box with a button; see :func:`saferlrm.puzzle.box`."""
        box(self._puzzled, self.decoding(), text, ask=self.profile.data.source == "published")

    @property
    def _puzzled(self) -> Any:
        if self._loaded is None:
            self._loaded = self.load()
        return self._loaded

    _loaded: Any = None

    def _some(self, names: tuple[str, ...]) -> dict[str, list[Prompt]]:
        """The first prompts of these suites, within the limits of notebook 01."""
        return {
            name: prompts[: PROBLEMS if name == REASONING else REQUESTS] for name, prompts in self.first(names).items()
        }

    def _rows_of(self, name: str, settings: dict[str, Any], build: Any, *modules: str) -> pd.DataFrame:
        """A table of the unaligned model as a stage."""
        settings = settings | {"problems": PROBLEMS, "requests": REQUESTS}
        modules += ("saferlrm.suites.synthetic",)
        return pd.read_parquet(self.stage_of_model(name, settings, None, build, *modules).path / "rows.parquet")
