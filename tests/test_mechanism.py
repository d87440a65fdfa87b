"""The mechanism: planted directions and shifts are found, and the study's stages keep their promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from saferlrm import mechanism
from saferlrm.activations import extract
from saferlrm.errors import SaferlrmError
from saferlrm.lm import load_lm
from saferlrm.mechanism import ALIKE, POSITIONS, TRAIN, Reading, Unaligned
from saferlrm.profile import load_profile
from saferlrm.store import Store
from saferlrm.study.interventions import Interventions
from saferlrm.suites import synthetic
from saferlrm.suites.types import Prompt

SIZE, LAYERS = 24, 3


def made_up(n_learn: int = 60, n_test: int = 40) -> tuple[tuple[Prompt, ...], np.ndarray]:
    """Prompts without a model: harmful and benign ones to learn from, alike or not, and one held-out group."""
    names = np.repeat([TRAIN, ALIKE, "direct"], [n_learn // 2, n_learn // 2, n_test])
    return tuple(Prompt(f"p{i}", f"text {i}", "made_up", i % 2 == 0) for i in range(len(names))), names


@pytest.fixture(scope="module")
def planted() -> tuple[Reading, np.ndarray]:
    """States that differ by 6 along a known unit vector between the classes, and by noise in all others."""
    prompts, names = made_up()
    rng = np.random.default_rng(0)
    unit = np.eye(SIZE)[3]
    states = rng.normal(size=(len(prompts), len(POSITIONS), LAYERS + 1, SIZE))
    states += 6 * np.array([p.harmful for p in prompts])[:, None, None, None] * unit
    return Reading(prompts, names, states), unit


@pytest.fixture(scope="module")
def unaligned(planted) -> Unaligned:
    return Unaligned.of(planted[0])


def test_a_planted_direction_is_found_by_probe_and_difference(planted, unaligned):
    reading, unit = planted
    for cell, difference in unaligned.differences.items():
        assert difference @ unit / np.linalg.norm(difference) > 0.9
        assert np.linalg.norm(difference) == pytest.approx(6, abs=1.5)
        weights = unaligned.probes[cell].direction
        assert weights.argmax() == unit.argmax()
    table = mechanism.probe_by_layer(reading, unaligned)
    assert len(table) == len(POSITIONS) * (LAYERS + 1) * 2
    assert table["auroc"].min() > 0.97
    assert table["change"].tolist() == [0.0] * len(table)
    assert np.allclose(table[["relative_norm", "cosine"]], 1)


def test_what_training_turns_around_is_seen_in_cosine_transfer_and_change(planted, unaligned):
    reading, unit = planted
    turned = reading.states.copy()
    turned[:, 1, 2] -= 12 * np.array([p.harmful for p in reading.prompts])[:, None] * unit  # at one layer of pre_cot
    table = mechanism.probe_by_layer(replace(reading, states=turned), unaligned)
    here = (table["position"] == "pre_cot") & (table["layer"] == 2)
    assert (table.loc[here, "cosine"] < -0.8).all()
    assert (table.loc[~here, "cosine"] > 0.99).all()
    scores = table[here].set_index("probe")
    assert scores.loc["own", "auroc"] > 0.97
    assert scores.loc["unaligned", "auroc"] < 0.03
    assert scores.loc["unaligned", "change_high"] < -0.9 < scores.loc["own", "change_low"]


def test_equal_states_have_no_direction_and_an_auroc_of_one_half(planted):
    reading, _ = planted
    flat = replace(reading, states=np.zeros_like(reading.states))
    table = mechanism.probe_by_layer(flat, Unaligned.of(flat))
    assert (table["auroc"] == 0.5).all()
    assert table["cosine"].isna().all()
    with pytest.raises(SaferlrmError, match="same mean"):
        mechanism.latent_shift(flat, Unaligned.of(flat))


def test_a_shift_along_the_direction_is_found_in_full_and_one_beside_it_not_at_all(planted, unaligned):
    reading, _ = planted
    moved = reading.states.copy()
    along = {layer: unaligned.differences["pre_cot", layer] for layer in (1, 2)}
    other = np.linalg.svd(along[2][None])[2][1]  # orthogonal to the direction of layer 2
    harmful = np.array([p.harmful for p in reading.prompts])
    moved[harmful, 1, 1] += 0.5 * along[1]
    moved[:, 1, 2] += 3 * other
    rows = mechanism.latent_shift(replace(reading, states=moved), unaligned)
    assert set(rows["prompt_id"]) == {
        p.id for p, name in zip(reading.prompts, reading.groups, strict=True) if name == "direct"
    }
    rows = rows.set_index(["layer", "direction", "harmful"]).sort_index()
    first = rows.loc[(1, "refusal", True)]
    assert np.allclose(first[["projection", "share", "norm"]], [0.5, 1.0, 0.5])
    assert (rows.loc[(1, "refusal", False), "norm"] == 0).all()
    assert rows.loc[(1, "refusal", False), "share"].isna().all()
    for label in (True, False):
        beside = rows.loc[(2, "refusal", label)]
        assert np.allclose(beside[["projection", "share"]], 0)
        assert np.allclose(beside["norm"], 3 / np.linalg.norm(along[2]))
    assert rows.loc[(1, "random", True), "share"].mean() == pytest.approx(1 / SIZE, rel=0.4)
    assert rows.loc[(1, "random", True), "projection"].mean() > 0  # turned as the classes lie


def test_shift_tables_pool_seeds_by_prompt_and_leave_out_what_did_not_move():
    rng = np.random.default_rng(1)
    each = pd.DataFrame({"prompt_id": [f"p{i}" for i in range(30)], "projection": rng.normal(1, 0.2, 30)})
    one = each.assign(condition="sft", harmful=True, layer=1, direction="refusal", seed=0, share=0.25, norm=2.0)
    two = one.assign(seed=1, projection=one["projection"] + 1)
    still = one.assign(condition="none", projection=0.0, share=np.nan)
    table = mechanism.shift_table(pd.concat([one, two, still])).set_index("condition")
    assert table.loc["sft", "projection"] == pytest.approx(each["projection"].mean() + 0.5)
    assert table.loc["sft", "projection_low"] < table.loc["sft", "projection"] < table.loc["sft", "projection_high"]
    assert table.loc["sft", "seed_high"] - table.loc["sft", "seed_low"] == pytest.approx(1)
    assert (table.loc["sft", "n"], table.loc["sft", "seeds"]) == (30, 2)
    assert (table.loc["sft", "projection_high"] - table.loc["sft", "projection_low"]) < 0.3  # prompts, not rows
    assert np.isnan(table.loc["none", "share"])
    assert table.loc["none", "projection"] == 0


def test_latent_decisions_follow_a_planted_direction(planted):
    reading, _ = planted
    decided = mechanism.latent_decision(reading, 2)
    held_out = [p for p, learned in zip(reading.prompts, reading.train, strict=True) if not learned]
    assert list(decided) == [p.id for p in held_out]
    assert np.mean([(decided[p.id] > 0.5) == p.harmful for p in held_out]) > 0.95


def test_readings_hold_what_extraction_gives_and_keep_training_apart(tiny_lm_folder):
    lm, prompts = load_lm(tiny_lm_folder, device="cpu"), synthetic.training_prompts(10, 10, 0, "mechanism")
    suites = {name: synthetic.build_suite(name, 5) for name in ("harmful_unseen", "benign")}
    groups = {TRAIN: prompts[::2], ALIKE: prompts[1::2], "direct": [*suites["harmful_unseen"], *suites["benign"]]}
    reading = mechanism.read(lm, groups)
    assert reading.train.sum() == len(prompts)
    assert reading.alike.sum() == len(prompts) // 2
    assert list(reading.tests()) == ["direct"]
    states = extract(lm, [p.text for p in groups["direct"]], POSITIONS)
    assert np.allclose(reading.states[reading.tests()["direct"]], states, atol=1e-4)
    with pytest.raises(SaferlrmError, match="share some"):
        mechanism.read(lm, groups | {"direct": prompts[:3]})
    with pytest.raises(SaferlrmError, match="held-out"):
        mechanism.read(lm, {ALIKE: prompts})


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_lm_folder) -> Interventions:
    """The smoke profile on a random model that is not trained."""
    small = {"decoding.max_new_tokens": 8, "decoding.forced_thought_tokens": 4, "probe.n_train": 40}
    profile = load_profile("smoke", model=str(tiny_lm_folder), **small)
    return Interventions(profile, Store(tmp_path_factory.mktemp("store")))


def test_the_unaligned_model_goes_through_every_stage(study, monkeypatch):
    monkeypatch.setattr("saferlrm.study.interventions.CAUSAL_PROMPTS", 2)
    before = ("before",)
    probes = study.mechanism_probes(before)
    assert set(probes["position"]) == set(POSITIONS)
    assert set(probes["layer"]) == {0, 1, 2}
    assert set(probes["group"]) == {"direct", "novel_wrapped"}
    rows = study.mechanism_causal(before)
    tidy = {"prompt_id", "suite", "mode", "sample", "condition", "group", "method", "value", "seed", "organism", "base"}
    assert tidy <= set(rows)
    assert not rows.duplicated(["condition", "seed", "suite", "mode", "prompt_id", "sample"]).any()
    assert set(zip(rows["read"], rows["mode"], strict=True)) == {("on", "on"), ("off", "on"), ("off", "off")}
    know = study.mechanism_know(before)
    suites = study.first([name for group in ("direct", "novel_wrapped") for name in synthetic.CONTRASTS[group]])
    assert sorted(know["prompt_id"]) == sorted(p.id for part in suites.values() for p in part)
    monkeypatch.setattr("saferlrm.mechanism.probe_by_layer", None)
    pd.testing.assert_frame_equal(study.mechanism_probes(before), probes)


def test_directions_are_learned_from_prompts_of_one_form_that_no_suite_has(study):
    groups = study._groups
    assert {p.family for p in groups[ALIKE]} == {"seen"}
    assert len({p.harmful for p in groups[ALIKE]}) == 2
    assert not {p.id for p in groups[TRAIN]} & {p.id for p in groups[ALIKE]}
    assert len(groups[TRAIN]) + len(groups[ALIKE]) == study.profile.probe.n_train
