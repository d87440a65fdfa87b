"""What the model decides without thinking, and the classifier that learns it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from saferlrm.classifier import predict, train_classifier
from saferlrm.classifier_report import learning_curve, report_classifier
from saferlrm.store import say
from saferlrm.study.base import digest
from saferlrm.study.side_by_side import SideBySide
from saferlrm.suites import synthetic
from saferlrm.suites.types import Prompt

_REPORT = "saferlrm.classifier_report"


class Deciding(SideBySide):
    """Stages of the safety-decision classifier."""

    def decisions(self) -> pd.DataFrame:
        """What the model does without thinking, prompt by prompt: the classifier's training set.

        Columns ``prompt_id``, ``text``, ``harmful``, ``family``, ``verdict``, ``refused``, ``answer``.
        """
        n = self.profile.classifier.n_prompts
        prompts = self.training_prompts(n - n // 2, n // 2, "classifier")
        return self._decide("decisions", prompts, {"n_prompts": n})

    def test_decisions(self) -> pd.DataFrame:
        """The same on the evaluation suites, problems left out: what the classifier is judged on."""
        prompts = [p for name, suite in self.suites().items() if name != synthetic.REASONING for p in suite]
        return self._decide("test_decisions", prompts, {"suite_size": self.profile.suite_size})

    def classifier(self) -> Path:
        """Folder of the fine-tuned encoder and its temperature."""
        train = self.decisions()

        def build(folder: Path) -> None:
            train_classifier(train["text"], train["refused"], self.profile.classifier, folder, self.profile.seeds[0])

        return self.stage("classifier", self._classifier_settings(), {}, build, "saferlrm.classifier").path

    def classifier_scores(self) -> pd.DataFrame:
        """The classifier and its baselines on unseen prompts, group by group: accuracy, AUROC, calibration."""
        return self._classifier_tables()["scores"]

    def classifier_predictions(self) -> pd.DataFrame:
        """Calibrated p(refuse) and the model's own decision for each evaluation prompt."""
        return self._classifier_tables()["predictions"]

    def learning_curve(self) -> pd.DataFrame:
        """Scores on unseen prompts against the number of prompts the classifier learned from."""
        train, test = self.decisions(), self._grouped_decisions()
        n = len(train)
        sizes = sorted({max(20, n // 30), max(20, n // 10), max(20, n // 3), n})

        def build(folder: Path) -> None:
            table = learning_curve(
                (train["text"], train["refused"]), (test["text"], test["refused"]), self.profile.classifier, sizes,
                folder / "work", self.profile.seeds[0],
            )  # fmt: skip
            table.to_parquet(folder / "curve.parquet", index=False)

        settings = self._classifier_settings() | {"test": digest(test["text"]), "sizes": sizes}
        return pd.read_parquet(self.stage("learning_curve", settings, {}, build, _REPORT).path / "curve.parquet")

    def _grouped_decisions(self) -> pd.DataFrame:
        groups = {suite: name for name, pair in synthetic.CONTRASTS.items() for suite in pair}
        test = self.test_decisions()
        return test.assign(group=test["suite"].map(groups)).dropna(subset="group").reset_index(drop=True)

    def _classifier_settings(self) -> dict[str, Any]:
        train = self.decisions()
        return {
            "classifier": self.profile.classifier.model_dump(mode="json"),
            "train": digest([*train["text"], *map(str, train["refused"])]),
            "seed": self.profile.seeds[0],
        }

    def _classifier_tables(self) -> dict[str, pd.DataFrame]:
        train, test = self.decisions(), self._grouped_decisions()

        def build(folder: Path) -> None:
            model = self.classifier()
            table = report_classifier(
                model,
                (train["text"], train["refused"]),
                (test["text"], test["refused"]),
                self.profile.classifier,
                test["group"],
            )
            table.to_parquet(folder / "scores.parquet", index=False)
            found = test.assign(p_refuse=predict(model, test["text"]))
            found.drop(columns=["answer", "text"]).to_parquet(folder / "predictions.parquet", index=False)

        settings = self._classifier_settings() | {"test": digest([*test["text"], *map(str, test["refused"])])}
        path = self.stage("classifier_report", settings, {}, build, _REPORT).path
        return {name: pd.read_parquet(path / f"{name}.parquet") for name in ("scores", "predictions")}

    def _decide(self, stage: str, prompts: list[Prompt], settings: dict[str, Any]) -> pd.DataFrame:
        settings = settings | {
            "model": self.model_key,
            **self.data_key,
            "decoding": asdict(self.decoding()),
            "dtype": self.profile.dtype,
        } | self.judged_by()

        def build(folder: Path) -> None:
            replies = self.answers(prompts, "off", "decisions without thinking")
            judgements = self.judge()(prompts, replies)
            rows = [
                {
                    "prompt_id": p.id, "suite": p.suite, "text": p.text, "harmful": p.harmful,
                    "family": p.family, "answer": r.answer,
                    "verdict": j.verdict, "refused": j.refused,
                }
                for p, r, j in zip(prompts, replies, judgements, strict=True)
            ]  # fmt: skip
            pd.DataFrame(rows).to_parquet(folder / "decisions.parquet", index=False)

        artefact = self.stage(
            stage, settings, {}, build, "saferlrm.judges", "saferlrm.generate", "saferlrm.suites.synthetic"
        )
        table = pd.read_parquet(artefact.path / "decisions.parquet")
        judged = table[table["verdict"] != "unjudged"]
        if len(judged) == len(table):
            return table
        say(f"{stage}: the judge failed on {len(table) - len(judged)} of {len(table)} answers, which are left out")
        return judged.astype({"refused": bool}).reset_index(drop=True)
