"""Robustness of the measurement: Safe@k, and what the stages promise, on the smallest study there is."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from saferlrm.errors import SaferlrmError
from saferlrm.profile import load_profile
from saferlrm.safe_at_k import all_safe, safe_at_k, safe_at_k_table
from saferlrm.stats import rate
from saferlrm.store import Store
from saferlrm.study.robustness import Robustness
from saferlrm.suites import synthetic


@pytest.mark.parametrize("n", [1, 3, 5])
def test_safe_at_k_is_the_mean_over_all_subsets_of_k_samples(n):
    safe = np.array(list(itertools.product((False, True), repeat=n)))
    for k in range(1, n + 1):
        brute = [np.mean([all(row[list(chosen)]) for chosen in itertools.combinations(range(n), k)]) for row in safe]
        assert all_safe(safe, k) == pytest.approx(brute)


def test_safe_at_k_is_unbiased():
    rng = np.random.default_rng(0)
    p = 0.8
    found = [all_safe(rng.random((1, 5)) < p, 3)[0] for _ in range(20_000)]
    assert np.mean(found) == pytest.approx(p**3, abs=0.01)


def test_its_ends_are_the_mean_and_the_worst_case_with_the_intervals_of_a_rate():
    rng = np.random.default_rng(1)
    safe = rng.random((60, 5)) < rng.beta(2, 1, 60)[:, None]
    for interval, outcomes in ((safe_at_k(safe, 1), safe), (safe_at_k(safe, 5), safe.all(1))):
        expected = rate(outcomes)
        assert (interval.estimate, interval.low, interval.high) == pytest.approx(
            (expected.estimate, expected.low, expected.high)
        )


@pytest.mark.parametrize("k", [1, 2, 4])
def test_its_intervals_cover(k):
    rng = np.random.default_rng(2)
    truth = np.mean(rng.beta(4, 1, 200_000) ** k)
    hits = 0
    for _ in range(400):
        found = safe_at_k(rng.random((80, 4)) < rng.beta(4, 1, 80)[:, None], k)
        hits += found.low <= truth <= found.high
    assert hits / 400 >= 0.92


def test_the_table_needs_every_sample_of_every_prompt_once():
    rows = pd.DataFrame(
        [{"prompt_id": p, "sample": s, "attack_success": s == 0, "suite": "a"} for p in "xy" for s in range(2)]
    ).astype({"attack_success": "boolean"})
    table = safe_at_k_table(rows, ("suite",))
    assert table["safe"].tolist() == [0.5, 0.0]
    assert table["worst"].tolist() == [0.5, 1.0]
    for wrong in (rows.iloc[1:], pd.concat([rows, rows])):
        with pytest.raises(SaferlrmError, match="one row for each"):
            safe_at_k_table(wrong, ("suite",))
    with pytest.raises(SaferlrmError, match="at least 3 samples"):
        safe_at_k([[True, False]], 3)
    with pytest.raises(SaferlrmError, match="none"):
        safe_at_k_table(rows.assign(attack_success=pd.NA), ("suite",))


def test_the_table_pools_alignment_seeds_but_never_the_answers_of_two_models():
    rng = np.random.default_rng(5)
    rows = pd.DataFrame(
        [
            {"prompt_id": f"p{i}", "sample": s, "seed": seed, "attack_success": rng.random() < 0.3, "suite": "a"}
            for i in range(40)
            for s in range(3)
            for seed in range(2)
        ]
    ).astype({"attack_success": "boolean"})
    one_by_one, pooled = safe_at_k_table(rows, ("suite", "seed")), safe_at_k_table(rows, ("suite",))
    assert pooled["safe"].tolist() == pytest.approx(one_by_one.groupby("k")["safe"].mean().tolist())
    assert pooled["samples"].unique().tolist() == [3]
    assert (pooled["seeds"].unique().tolist(), one_by_one["seeds"].unique().tolist()) == ([2], [1])
    assert ((pooled["low"] < pooled["safe"]) & (pooled["safe"] < pooled["high"])).all()
    alone = rows[rows["seed"] == 1]
    pd.testing.assert_frame_equal(
        safe_at_k_table(alone, ("suite",)), safe_at_k_table(alone.drop(columns="seed"), ("suite",))
    )
    with pytest.raises(SaferlrmError, match="one row for each"):
        safe_at_k_table(rows.iloc[1:], ("suite",))


def test_a_missing_outcome_is_no_safe_one():
    for missing in ([[1.0, np.nan]], [[True, None]], pd.array([True, pd.NA], dtype="boolean")[None]):
        with pytest.raises(SaferlrmError, match="1 of 2 are missing"):
            safe_at_k(np.asarray(missing, dtype=object), 1)


def test_answers_that_were_not_judged_are_left_out_and_counted():
    rng = np.random.default_rng(6)
    rows = pd.DataFrame(
        [
            {"prompt_id": f"p{i}", "sample": s, "seed": seed, "attack_success": rng.random() < 0.2 + 0.01 * i}
            for i in range(50)
            for s in range(4)
            for seed in range(2)
        ]
    ).assign(suite="a", verdict="refusal", harmful=True)
    rows["attack_success"] = rows["attack_success"].astype("boolean")
    whole = safe_at_k_table(rows, ("suite",))
    assert "unjudged" not in whole
    failed = pd.Series(rng.random(len(rows)) < 0.1)
    failed[rows["prompt_id"] == "p0"] = True
    gaps = rows.assign(
        verdict=rows["verdict"].where(~failed, "unjudged"), attack_success=rows["attack_success"].mask(failed)
    )
    benign = rows.head(4).assign(prompt_id="b", harmful=False, attack_success=pd.NA)  # judged, and of no account here
    table = safe_at_k_table(pd.concat([gaps, benign], ignore_index=True), ("suite",))
    assert table["unjudged"].unique().tolist() == [failed.sum()]
    judged = (~failed).groupby([rows["prompt_id"], rows["seed"]]).sum().unstack()
    assert table["n"].tolist() == [int((judged >= k).all(axis=1).sum()) for k in table["k"]]
    assert (table["n"] < whole["n"]).all()
    # Half as many answers, but no other truth: an unjudged answer is neither safe nor a success.
    assert np.allclose(table["safe"], whole["safe"], atol=0.06)
    one = gaps[gaps["seed"] == 0]
    alone = safe_at_k_table(one, ("suite",))
    kept = one[one["attack_success"].notna()].groupby("prompt_id")["attack_success"].mean()
    assert alone["safe"].iloc[0] == pytest.approx(1 - kept.astype(float).mean())
    none = safe_at_k_table(one.assign(verdict="unjudged", attack_success=pd.NA), ("suite",))
    assert (none["n"].tolist(), none["safe"].isna().all()) == ([0] * 4, True)
    assert none["unjudged"].tolist() == [200] * 4
    with pytest.raises(SaferlrmError, match="one row for each"):
        safe_at_k_table(gaps.iloc[1:], ("suite",))


def test_more_tries_are_never_safer_and_groups_keep_apart():
    rng = np.random.default_rng(4)
    rows = pd.DataFrame(
        [
            {"prompt_id": f"p{i}", "sample": s, "attack_success": rng.random() < rate, "base": base, "suite": "a"}
            for base, rate in (("before", 0.6), ("presafe", 0.1))
            for i in range(30)
            for s in range(4)
        ]
    ).astype({"attack_success": "boolean"})
    table = safe_at_k_table(rows, ("base", "suite"))
    for base, part in table.groupby("base"):
        assert part["k"].tolist() == [1, 2, 3, 4]
        assert (part["safe"].diff().dropna() <= 0).all()
        mean = 1 - rows.loc[rows["base"] == base, "attack_success"].astype(float).mean()
        assert part["safe"].iloc[0] == pytest.approx(mean)
        assert (part["worst"] == 1 - part["safe"]).all()
    assert set(table["n"]) == {30}
    benign = rows.assign(prompt_id="b" + rows["prompt_id"], attack_success=pd.NA)
    pd.testing.assert_frame_equal(safe_at_k_table(pd.concat([rows, benign]), ("base", "suite")), table)


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_lm_folder) -> Robustness:
    """The smoke profile on a random model; what is trained is left to the tests of training."""
    profile = load_profile("smoke", model=str(tiny_lm_folder), **{"decoding.max_new_tokens": 40})
    return Robustness(profile, Store(tmp_path_factory.mktemp("store")))


@pytest.mark.parametrize("name", ["organism", "smoke"])
def test_a_rival_is_chosen_on_prompts_that_no_suite_has(name, tmp_path):
    study = Robustness(name, Store(tmp_path))
    train, validation = study.rival_prompts()
    texts = [{prompt.text.lower() for prompt in prompts} for prompts in (train, validation)]
    suites = {p.text.lower() for suite in synthetic.SUITE_NAMES for p in synthetic.build_suite(suite, 300)}
    unseen = suites - {p.text.lower() for p in synthetic.build_suite("harmful_seen", 300)}
    assert not texts[0] & texts[1]
    assert not unseen & (texts[0] | texts[1])
    assert len({prompt.harmful for prompt in validation}) == 2
    assert sum(p.harmful for p in validation) * 2 == len(validation)


def test_rivals_answer_the_prompts_of_the_light_card(study):
    rows = study.decoding_rivals()
    ids = [p.id for suite in study.first(("harmful_unseen", "reasoning")).values() for p in suite]
    for _, part in rows.groupby("method"):
        assert part["prompt_id"].is_unique
        assert set(ids) <= set(part["prompt_id"])
    assert not {"thought", "answer"} & set(rows)
    assert study.rival_choices().groupby("rival")["chosen"].sum().eq(1).all()


def test_the_unaligned_model_goes_through_every_check(study, monkeypatch):
    monkeypatch.setattr("saferlrm.study.robustness.BASES", ("before",))
    monkeypatch.setattr("saferlrm.study.robustness.ALIGNED", ("before",))
    tidy = {"prompt_id", "suite", "mode", "sample", "condition", "group", "method", "value", "seed", "organism", "base"}
    sampled, attacked = study.temperature(), study.adaptive()
    for rows in (sampled, attacked):
        assert tidy <= set(rows)
        assert not rows.duplicated(["condition", "seed", "organism", "suite", "mode", "prompt_id", "sample"]).any()
    cold = sampled[(sampled["value"] == 0) & (sampled["suite"] == "harmful_unseen")]
    none = attacked[attacked["attack"] == "none"]
    assert cold["verdict"].tolist() == none["verdict"].tolist()
    assert set(attacked.groupby("attack")["mode"].first().drop(["none", "unseen_wrapper"])) == {"prefilled"}
    table = study.safe_at_k()
    assert set(table["k"]) == {1, 2}
    assert (table["low"] <= table["safe"]).all()


def test_a_second_call_reads_what_is_there(study, monkeypatch):
    monkeypatch.setattr("saferlrm.study.robustness.BASES", ("before",))
    first = study.temperature()
    monkeypatch.setattr("saferlrm.study.robustness.scorecard", None)
    pd.testing.assert_frame_equal(study.temperature(), first)


def test_aligned_models_go_through_token_limits_and_the_card_of_each_organism(tmp_path, monkeypatch):
    monkeypatch.setattr("saferlrm.study.robustness.ALIGNED", ("before", "presafe", "presafe/few"))
    study = Robustness("smoke", Store(tmp_path))
    cut = study.truncation()
    most = study.profile.decoding.max_new_tokens
    assert set(cut["base"]) == {"before", "sft", "presafe"}
    assert set(cut["value"]) == {most / 8, most / 4, most / 2, most}
    assert (cut["n_tokens"] <= cut["value"]).all()
    before = cut[(cut["base"] == "before")].groupby("value")["truncated"].mean()
    assert before.is_monotonic_decreasing
    assert before.iloc[0] > 0.5
    cards = study.organisms()
    added = {"presafe_decisions/few", "detached_decisions/few"}
    assert set(cards["condition"]) == {"before", "presafe", "presafe/few"} | added
    assert set(cards.loc[cards["condition"] == "before", "mode"]) == {"off", "on", "prefilled"}
    assert set(cards.loc[cards["condition"] == "presafe/few", "mode"]) == {"on", "prefilled"}
    assert set(cards["organism"]) == set(study.profile.evidence.organisms)
    keys = ["condition", "seed", "organism", "suite", "mode", "prompt_id", "sample"]
    assert not cards.duplicated(keys).any()


def test_only_organisms_have_growth_seeds(study):
    with pytest.raises(SaferlrmError, match="has no growth seeds"):
        study.of_organism(study.profile.growth.seed + 1)
