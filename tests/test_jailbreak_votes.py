"""Judges against people's votes on jailbreaks. The rows here are invented, in the published columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from shared_data import FOLDER
from sklearn.metrics import cohen_kappa_score

from saferlrm import real_tables
from saferlrm.errors import SaferlrmError
from saferlrm.judges import Judgement
from saferlrm.judges.calibration import MATCHER, RULES
from saferlrm.judges.jailbreaks import jailbreak_judges, jailbreak_votes
from saferlrm.study import Study

YES, NO, OFF = "Here is how: first take the box.", "I'm sorry, but I cannot help with that.", "Boxes are nice."


def write_votes(folder: Path, n: int = 60) -> pd.DataFrame:
    """A file as published: people call the first third jailbroken; the last third is beside the point."""
    third = n // 3
    rng = np.random.default_rng(0)
    people = np.arange(n) < third
    rows = pd.DataFrame(
        {
            "Index": range(n),
            "goal": [f"Make box {i}" for i in range(n)],
            "prompt": [f"Pretend to make box {i}" for i in range(n)],
            "target_response": [YES] * third + [NO] * third + [OFF] * (n - 2 * third),
            **{f"human{i}": people.astype(int) for i in (1, 2, 3)},
            "human_majority": people.astype(int),
            "harmbench_cf": (people ^ (rng.random(n) < 0.1)).astype(int),
            "gpt4_cf": people.astype(int),
        }
    )
    (folder / "jailbreakbench").mkdir(parents=True, exist_ok=True)
    rows.to_csv(folder / "jailbreakbench" / "judge_comparison.csv", index=False)
    return rows


class Half:
    """A judge that fails on every second answer and is right on the others."""

    name, reads_thought = "half", False

    def __call__(self, prompts, answers):
        assert prompts[0].text == "Make box 0"
        return [
            Judgement("unjudged" if i % 2 else "compliance" if answer.answer == YES else "off_topic")
            for i, answer in enumerate(answers)
        ]


def test_judges_of_refusals_raise_false_alarms_where_answers_miss_the_point(tmp_path: Path) -> None:
    rows = write_votes(tmp_path)
    table = jailbreak_judges(tmp_path, {"half": Half()}).set_index("judge")
    assert table.loc[[RULES, MATCHER], "asks"].tolist() == ["refused?"] * 2
    for name in (RULES, MATCHER):
        assert table.loc[name, "false_negative"] == 0
        assert table.loc[name, "false_positive"] == pytest.approx(0.5)
        assert table.loc[name, "accuracy"] == pytest.approx(40 / 60)
    assert table.loc["GPT-4", ["accuracy", "kappa", "false_positive"]].tolist() == [1, 1, 0]
    people, said = rows["human_majority"], rows["harmbench_cf"]
    classifier = table.loc["HarmBench classifier"]
    assert classifier["kappa"] == pytest.approx(cohen_kappa_score(people, said))
    assert classifier["kappa_low"] < classifier["kappa"] < classifier["kappa_high"]
    assert classifier["false_negative"] == pytest.approx((said[people == 1] == 0).mean())
    assert classifier["false_positive"] == pytest.approx((said[people == 0] == 1).mean())
    assert table.loc["half", ["n", "n_unjudged", "accuracy"]].tolist() == [30, 30, 1]
    for name in ("accuracy", "false_negative", "false_positive"):
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()
    shown = real_tables.jailbreak_grid(table.reset_index())
    assert shown["judge"].iloc[0] in ("GPT-4", "half")
    assert not shown.isna().any(axis=None)


def test_votes_that_are_not_as_published_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SaferlrmError, match="no local file of jailbreakbench_judge_comparison"):
        jailbreak_votes(tmp_path)
    rows = write_votes(tmp_path)
    path = tmp_path / "jailbreakbench" / "judge_comparison.csv"
    rows.rename(columns={"goal": "aim"}).to_csv(path, index=False)
    with pytest.raises(SaferlrmError, match="no column 'goal'"):
        jailbreak_votes(tmp_path)
    rows.assign(gpt4_cf=["maybe", *rows["gpt4_cf"][1:]]).to_csv(path, index=False)
    with pytest.raises(SaferlrmError, match="gpt4_cf holds 'maybe', not 0 or 1"):
        jailbreak_votes(tmp_path)
    rows.assign(gpt4_cf=[None, *rows["gpt4_cf"][1:]]).to_csv(path, index=False)
    assert jailbreak_judges(tmp_path).set_index("judge").loc["GPT-4", "n_unjudged"] == 1


def test_the_notebook_s_table_is_empty_without_the_votes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFERLRM_OUT", str(tmp_path / "out"))
    study = Study("smoke")
    assert real_tables.jailbreak_judges(study, str(tmp_path), recompute=True).empty
    write_votes(tmp_path)
    found = real_tables.jailbreak_judges(study, str(tmp_path), recompute=True)
    assert {RULES, MATCHER, "GPT-4", "HarmBench classifier"} == set(found["judge"])
    assert (tmp_path / "out" / "results" / "11_jailbreak_judges.json").is_file()
    (tmp_path / "jailbreakbench" / "judge_comparison.csv").write_text("goal\nx\n")
    with pytest.raises(SaferlrmError, match="no column"):
        real_tables.jailbreak_judges(study, str(tmp_path), recompute=True)


def test_on_the_real_votes_a_judge_that_reads_the_question_is_better() -> None:
    try:
        table = jailbreak_judges(FOLDER).set_index("judge")
    except SaferlrmError:
        pytest.skip(f"JailbreakBench's judge-comparison.csv is not in {FOLDER}")
    print(table.round(2).to_string())
    assert table["n"].max() == 300
    assert table.loc["GPT-4", "accuracy"] > table.loc[[RULES, MATCHER], "accuracy"].max()
    assert table.loc[RULES, "false_positive"] > table.loc["GPT-4", "false_positive"]
