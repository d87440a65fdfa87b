"""The stages of notebook 01 on a random model: what they hold, and that they are kept."""

from __future__ import annotations

import pandas as pd
import pytest

from saferlrm.errors import SaferlrmError
from saferlrm.profile import load_profile
from saferlrm.ship import LEFT_OUT
from saferlrm.store import Store
from saferlrm.study import Study, prerequisites
from saferlrm.study.prerequisites import Prerequisites


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_lm_folder) -> Prerequisites:
    overrides = {"decoding.max_new_tokens": 36, "decoding.forced_thought_tokens": 12, "evidence.suite_size": 4}
    profile = load_profile("smoke", model=str(tiny_lm_folder), **overrides)
    return Prerequisites(profile, Store(tmp_path_factory.mktemp("store")))


def test_samples_of_problems_and_requests(study, monkeypatch):
    monkeypatch.setattr(prerequisites, "SAMPLES", 3)
    rows = study.self_consistency()
    counts = rows.groupby(["suite", "regime"]).size()
    assert set(counts) == {4 * 3}
    assert set(counts["reasoning"].index) == {one.name for one in prerequisites.REGIMES}
    assert set(counts["benign"].index) == {one.name for one in prerequisites.DECIDED}
    monkeypatch.setattr(prerequisites, "sampled", None)
    pd.testing.assert_frame_equal(study.self_consistency(), rows)


def test_lengths_of_thought_keep_room_for_an_answer(study):
    rows = study.thought_budgets()
    assert set(rows["budget"]) == {"cut", "own", "forced"}
    assert rows["tokens"].max() < study.profile.decoding.max_new_tokens
    assert rows.groupby(["budget", "tokens"], dropna=False)["prompt_id"].nunique().eq(4 * 3).all()


def test_hints_are_put_into_the_first_problems(study):
    rows = study.hints()
    assert set(rows["mode"]) == {"off", "on"}
    assert rows["prompt_id"].nunique() == 4


def test_a_puzzle_is_redacted_where_nobody_can_tell_harm(study):
    assert "Redacted" in study.puzzle("Tom has 3 apples.", harmless=False).data
    assert "Redacted" not in study.puzzle("Tom has 3 apples.").data


def test_sizes_are_grown_evaluated_and_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFERLRM_OUT", str(tmp_path / "out"))
    monkeypatch.setattr(prerequisites, "SIZES", (64, 128))
    tokens = {"growth.pretrain_tokens": 4000, "growth.posttrain_tokens": 4000, "growth.num_layers": 1}
    small = {"evidence.suite_size": 4, "decoding.max_new_tokens": 33, "growth.vocab_size": 400}
    study = Prerequisites(load_profile("smoke", **tokens, **small), Store(tmp_path / "store"))
    assert study.measured_sizes().empty
    table = study.sizes()
    assert table.groupby(["hidden_size", "mode", "metric"]).size().eq(1).all()
    assert table.groupby("hidden_size")["parameters"].first().is_monotonic_increasing
    assert set(table["trained_tokens"]) == {8000}
    assert study.measured_sizes()["rate"].tolist() == pytest.approx(table["rate"].tolist())


def test_only_organisms_have_sizes_and_they_are_not_shipped(study):
    with pytest.raises(SaferlrmError, match="no other sizes"):
        study.sizes()
    assert "sizes" in LEFT_OUT
    assert {"self_consistency", "thought_budgets", "hints", "sizes", "threshold_validation"} <= set(Study.stages())


def test_thresholds_are_chosen_on_prompts_that_the_classifier_did_not_learn_from(tmp_path, monkeypatch):
    study = Prerequisites("smoke", Store(tmp_path))
    known = pd.DataFrame({"text": [p.text for p in study.training_prompts(24, 24, "validation")][:3], "refused": True})
    monkeypatch.setattr(Prerequisites, "decisions", lambda self: known)
    monkeypatch.setattr(Prerequisites, "classifier", lambda self: tmp_path)
    asked = []
    monkeypatch.setattr(prerequisites, "predict", lambda model, texts: asked.extend(texts) or [0.5] * len(texts))
    rows = study.threshold_validation()
    assert len(rows) == 45
    assert not set(asked) & set(known["text"])
    assert set(rows["harmful"]) == {True, False}
