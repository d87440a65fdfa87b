"""Conditions and their cards: the same side by side as one after the other, tidy, and collected as one stage."""

from __future__ import annotations

import pandas as pd
import pytest
from typer.testing import CliRunner

from saferlrm import ablations, conditions
from saferlrm.cli import app
from saferlrm.conditions import CARD_SUITES, condition
from saferlrm.errors import SaferlrmError
from saferlrm.finished import FinishedStore
from saferlrm.profile import load_profile
from saferlrm.store import Store
from saferlrm.study import Study
from saferlrm.verdicts import Results

LISTED = [condition("before"), condition("sft/few"), condition("gold/few"), condition("safety_tax/few", "rivals")]


def study_in(folder, workers: int = 1) -> Study:
    return Study(load_profile("smoke", **{"evidence.workers": workers}), Store(folder))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Study, pd.DataFrame]:
    study = study_in(tmp_path_factory.mktemp("store"))
    return study, study.cards(LISTED, (0, 1))


def test_a_card_has_one_row_for_each_prompt_and_mode_and_no_text(made):
    _, rows = made
    assert not rows.duplicated(["condition", "seed", "suite", "mode", "prompt_id", "sample"]).any()
    assert not {"thought", "answer", "text"} & set(rows)
    assert set(rows["suite"]) == set(CARD_SUITES) | {"harmful_unseen"}
    assert set(rows[rows["condition"] == "before"]["mode"]) == {"off", "on", "prefilled"}
    assert set(rows[rows["condition"] == "sft/few"]["mode"]) == {"on", "prefilled"}
    assert rows.groupby("condition")["seed"].nunique().to_dict() == {
        one.name: 2 - (one.method == "before") for one in LISTED
    }
    assert (rows.groupby(["condition", "seed", "suite", "mode"]).size() == 8).all()


def test_two_workers_find_what_one_process_finds(made, tmp_path):
    rows = study_in(tmp_path, workers=2).cards(LISTED, (0, 1))
    pd.testing.assert_frame_equal(rows, made[1])


def test_the_small_set_is_drawn_by_the_seed_and_is_the_same_for_every_method(made):
    study, _ = made
    few = study.of(condition("sft/few"))
    prompts = {
        (method, seed): [e.prompt for e in few._prepared(method, seed)[0]]
        for method in ("sft", "gold")
        for seed in (0, 1)
    }
    assert prompts["sft", 0] == prompts["gold", 0]
    assert prompts["sft", 0] != prompts["sft", 1]
    assert len(prompts["sft", 0]) == 8
    smaller = study.of(condition("sft", alignment={"subset_harmful": 2, "subset_benign": 1}))._prepared("sft", 0)[0]
    assert {e.prompt for e in smaller} < set(prompts["sft", 0])


def test_hard_decisions_and_thoughts_come_from_the_model_itself(made):
    study, _ = made
    examples, _ = study.alignment_set()
    more = study.more_answers().set_index("id")
    assert list(more.index) == [e.id for e in examples]
    harmful = [e.id for e in examples if e.source == "harmful"]
    assert more.loc[harmful, "refused"].all()  # they are in the set because the model refused them
    assert more.loc[harmful, "thought"].str.startswith("The user asks").all()
    assert more.drop(harmful)["thought"].isna().all()


def test_a_collected_table_is_one_stage_that_needs_no_adapter(made):
    study, rows = made
    calls = []

    def build() -> pd.DataFrame:
        calls.append(1)
        return rows

    first = study.collected("some_table", build, conditions=["x"])
    finished = Study(study.profile, FinishedStore(study.store.root))
    second = finished.collected("some_table", build, conditions=["x"])
    pd.testing.assert_frame_equal(first, second)
    assert calls == [1]
    assert [found.stage for found in finished.store.found.values()] == ["some_table"]
    quick = study.like(evidence=study.profile.evidence.model_copy(update={"quick": False, "workers": 1}))
    quick.collected("some_table", build, conditions=["x"])
    assert calls == [1]
    study.collected("some_table", build, conditions=["x", "y"])
    assert calls == [1, 1]


def test_sweeps_are_left_out_by_name_and_run_where_they_are_not(made):
    study, _ = made
    with pytest.raises(SaferlrmError, match=r"left out \(evidence.quick\)"):
        study.sweeps()
    assert study.n_layers == 4
    wanted = ("sft/few/rank=1", "sft/few/rank=8")
    listed = [one for one in conditions.sweeps(study.profile, 4) if one.name in wanted]
    rows = study.cards(listed, (0,))
    assert set(rows["level"]) == {"1", "8"}
    assert set(rows["value"]) == {1.0, 8.0}
    assert set(rows["group"]) == {"sweep:rank"}


def test_rates_and_differences_of_controls(made):
    _, rows = made
    found = ablations.control_rates(rows[rows["group"] == "few"])
    assert set(found["condition"]) == {"sft/few", "gold/few"}
    assert found["seeds"].eq(2).all()
    assert (found["low"] <= found["rate"]).all()
    table = ablations.control_differences(rows)
    assert set(zip(table["before"], table["after"], strict=True)) == {("sft/few", "gold/few")}
    assert (table["p_holm"] >= table["p"]).all()
    assert set(table["metric"]) == {"attack_success", "refused", "correct"}


def test_sweeps_compare_what_both_methods_trained():
    rows = []
    for method, rate in (("sft", 4), ("presafe", 2)):
        for level in ("1", "8"):
            rows += [
                {"prompt_id": f"p{i}", "suite": "harmful_unseen", "mode": "on", "seed": s, "method": method,
                 "condition": f"{method}/few/rank={level}", "group": "sweep:rank", "value": float(level),
                 "level": level, "attack_success": i % 8 < rate, "refused": False, "correct": None}
                for i in range(80) for s in range(3)
            ]  # fmt: skip
    table = ablations.sweep_differences(pd.DataFrame(rows))
    assert table["level"].tolist() == ["1", "8"]
    assert (table["difference"] == -0.25).all()
    assert (table["high"] < 0).all()
    assert table["sentence"].str.startswith("PreSafe minus λ = 0: −0.250").all()


def test_tidy_rows_are_saved_without_texts_and_read_by_the_ledger(made, monkeypatch, tmp_path):
    study, rows = made
    monkeypatch.setenv("SAFERLRM_OUT", str(tmp_path))
    fresh = Study(study.profile, study.store)
    fresh.save_rows("controls", rows.assign(answer="secret"))
    found = Results(tmp_path / "results").tidy("controls")
    pd.testing.assert_frame_equal(found, rows)
    assert [p.name for p in (tmp_path / "results" / "tidy").iterdir()] == ["controls.parquet"]


def test_one_command_runs_one_control_at_other_settings(made, monkeypatch):
    study, _ = made
    monkeypatch.setenv("SAFERLRM_HOME", str(study.store.root))
    monkeypatch.setenv("COLUMNS", "200")
    call = ["control", "gold/few", "--set", "lambda_aux=1.0", "--set", "rank=2", "--seeds", "0,1", "--profile", "smoke"]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    assert "minus λ = 0" in result.output
    assert "gold/few" in result.output
    assert "before" in result.output
    for wrong, said in (
        (["control", "gald"], "did you mean 'gold'"),
        (["control", "gold", "--set", "rank"], "has no value"),
        (["control", "gold", "--set", "rank=0"], "alignment.rank"),
        (["control", "gold", "--set", "rnak=2"], "alignment.rnak"),
        (["control", "gold", "--seeds", "a"], "whole numbers"),
    ):
        failed = CliRunner().invoke(app, [*wrong, "--profile", "smoke"])
        assert failed.exit_code != 0
        assert said in str(failed.exception) + failed.output
