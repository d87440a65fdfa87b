"""Judges against people: the rules beat the published matcher where nobody tuned them, and corrected rates cover."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from saferlrm.errors import SaferlrmError
from saferlrm.judges import Judgement
from saferlrm.judges.calibration import (
    DEVELOPED_ON,
    MATCHER,
    RULES,
    JudgeError,
    agreement,
    confusion,
    corrected_rate,
    corrected_rates,
    judge_calibration,
    verdicts,
    xstest_labels,
)
from saferlrm.judges.rules import RuleJudge

Z = 1.959964


@pytest.fixture(scope="module")
def xstest() -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SAFERLRM_TEST_DATA") or beside) / "xstest"
    if not list(folder.glob("xstest_v2_completions_*.csv")):
        pytest.skip("XSTest's labelled completions are not here: set SAFERLRM_TEST_DATA to a folder with xstest/")
    return folder


@pytest.fixture(scope="module")
def table(xstest: Path) -> pd.DataFrame:
    return judge_calibration(xstest)


def test_the_rules_beat_the_published_matcher_on_every_model(table: pd.DataFrame) -> None:
    whole = table[table["prompts"] == "all"].set_index(["judge", "model"])
    assert whole["n"].unique().tolist() == [450]
    rules, matcher = whole.loc[RULES, "binary_accuracy"], whole.loc[MATCHER, "binary_accuracy"]
    print(pd.DataFrame({"rules": rules, "matcher": matcher}).round(3).to_string())
    assert (rules > matcher).all()
    # The rules were frozen before the other two models were looked at. If these numbers change, so did the rules, and
    # then they are independent of nothing: develop on one model, and say so.
    assert rules.round(3).to_dict() == {"llama2new": 0.931, "llama2orig": 0.924, "mistralinstruct": 0.938}
    assert whole.loc[RULES, "accuracy"].round(3).tolist() == [0.811, 0.816, 0.92]
    assert matcher.round(3).to_dict() == {"llama2new": 0.924, "llama2orig": 0.893, "mistralinstruct": 0.86}


def test_the_table_says_what_was_held_out(table: pd.DataFrame) -> None:
    developed = table[table["role"] == "developed on"]
    assert set(zip(developed["judge"], developed["model"], strict=True)) == {(RULES, DEVELOPED_ON)}
    assert set(table["prompts"]) == {"all", "unsafe"}
    for name in ("accuracy", "binary_accuracy", "sensitivity"):
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()


def test_any_judge_can_be_measured(xstest: Path) -> None:
    class Absent:
        name, reads_thought = "absent", False

        def __call__(self, prompts, answers):
            return [Judgement("off_topic" if i % 2 else "unjudged") for i, _ in enumerate(prompts)]

    labelled = xstest_labels(xstest)
    few = labelled[labelled["model"] == DEVELOPED_ON]
    assert verdicts(Absent(), few).value_counts().to_dict() == {"unjudged": 225, "compliance": 225}
    found = agreement(few["label"], verdicts(Absent(), few))
    assert found["n_unjudged"] == 225
    assert found["binary_accuracy"] < 0.5
    again = judge_calibration(xstest, {"once more": RuleJudge()}).set_index(["judge", "model", "prompts"])
    same = [name for name in again.columns if name != "role"]
    pd.testing.assert_frame_equal(again.loc["once more", same], again.loc[RULES, same])


def test_agreement_is_that_of_the_library_and_counts_failures_as_errors() -> None:
    labels = ["refusal"] * 6 + ["partial"] * 3 + ["compliance"] * 6
    found = ["refusal"] * 5 + ["unjudged"] + ["refusal", "partial", "compliance"] + ["compliance"] * 5 + ["refusal"]
    got = agreement(labels, found)
    assert got["accuracy"] == pytest.approx(11 / 15)
    assert got["binary_accuracy"] == pytest.approx(12 / 15)
    assert (got["sensitivity"], got["specificity"]) == (pytest.approx(7 / 8), pytest.approx(5 / 6))
    judged = [(one, two) for one, two in zip(labels, found, strict=True) if two != "unjudged"]
    assert got["kappa"] == pytest.approx(cohen_kappa_score(*zip(*judged, strict=True)))
    assert got["kappa_low"] < got["kappa"] < got["kappa_high"]
    counts = confusion(labels, found)
    assert counts.loc["refusal", ["refusal", "unjudged"]].tolist() == [5, 1]
    assert counts.loc["partial"].tolist() == [1, 1, 1, 0]
    with pytest.raises(SaferlrmError, match="nothing to compare"):
        agreement(["refusal"], ["unjudged"])


@pytest.mark.parametrize("columns", [["completion"], ["final_label"]])
def test_labels_that_are_not_as_published_are_refused(columns: list[str], xstest: Path, tmp_path: Path) -> None:
    name = f"xstest_v2_completions_{DEVELOPED_ON}.csv"
    with pytest.raises(SaferlrmError, match=r"no xstest_v2_completions_\*"):
        xstest_labels(tmp_path)
    shutil.copy(xstest / name, tmp_path / name)
    renamed = pd.read_csv(tmp_path / name).rename(columns={columns[0]: "other"})
    renamed.to_csv(tmp_path / name, index=False)
    with pytest.raises(SaferlrmError, match=f"no column '{columns[0]}'"):
        xstest_labels(tmp_path)


def test_a_perfect_judge_needs_no_correction() -> None:
    found = corrected_rate(30, 200, JudgeError(100_000, 100_000, 100_000, 100_000))
    assert found.estimate == pytest.approx(0.15)
    assert found.low == pytest.approx(0.107, abs=0.003)
    assert found.high == pytest.approx(0.206, abs=0.003)


def test_the_correction_is_rogan_and_gladens() -> None:
    error = JudgeError(90, 100, 190, 200)  # sensitivity 0.9, specificity 0.95
    assert corrected_rate(50, 200, error).estimate == pytest.approx((0.25 + 0.95 - 1) / (0.9 + 0.95 - 1))
    assert corrected_rate(0, 200, error).estimate == 0
    assert corrected_rate(200, 200, error).estimate == 1
    for k in (0, 1, 100, 199, 200):
        found = corrected_rate(k, 200, error)
        assert 0 <= found.low <= found.estimate <= found.high <= 1


def test_a_judge_known_less_well_gives_a_wider_interval() -> None:
    few, many = (corrected_rate(60, 200, JudgeError(9 * m, 10 * m, 9 * m, 10 * m)) for m in (3, 100))
    assert few.high - few.low > 1.15 * (many.high - many.low)


@pytest.mark.parametrize(
    ("share", "sensitivity", "specificity"), [(0.05, 0.9, 0.95), (0.3, 0.75, 0.9), (0.6, 0.9, 0.8)]
)
def test_corrected_rates_cover_the_truth_and_plain_ones_do_not(
    share: float, sensitivity: float, specificity: float
) -> None:
    rng, times, n, labelled = np.random.default_rng(0), 2000, 200, 100
    covered = plain = 0
    for _ in range(times):
        seen = rng.binomial(n, share * sensitivity + (1 - share) * (1 - specificity))
        error = JudgeError(
            rng.binomial(labelled, sensitivity), labelled, rng.binomial(labelled, specificity), labelled
        )
        found = corrected_rate(seen, n, error)
        covered += found.low <= share <= found.high
        plain += abs(seen / n - share) <= Z * np.sqrt(seen / n * (1 - seen / n) / n)
    print(f"coverage {covered / times:.3f}, of the plain rate {plain / times:.3f}")
    assert 0.935 <= covered / times <= 0.97
    assert plain < covered


def test_a_judge_no_better_than_chance_corrects_nothing() -> None:
    with pytest.raises(SaferlrmError, match="no better than chance"):
        corrected_rate(5, 10, JudgeError(50, 100, 50, 100))
    with pytest.raises(SaferlrmError, match="no rate of"):
        corrected_rate(11, 10, JudgeError(9, 10, 9, 10))
    with pytest.raises(SaferlrmError, match="both kinds"):
        JudgeError.of([True, True], [True, False])


def test_rates_of_a_table_are_corrected_beside_the_plain_ones() -> None:
    error = JudgeError.of([True] * 10 + [False] * 20, [True] * 9 + [False] + [False] * 19 + [True])
    assert error == JudgeError(9, 10, 19, 20)
    plain = pd.DataFrame({"suite": ["s", "t"], "rate": [0.25, np.nan], "n": [200, 0]})
    found = corrected_rates(plain, error)
    assert found.loc[0, "corrected"] == pytest.approx(0.2 / 0.85)
    assert found.loc[1, "corrected":].isna().all()
