"""The mechanism: planted directions and shifts are found, interventions are complete, tables count every prompt."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from saferlrm import causal, mechanism, plots
from saferlrm.activations import extract
from saferlrm.align.data import AlignmentExample
from saferlrm.align.gradient_path import GradientPath
from saferlrm.align.trainer import align
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Decoding
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.mechanism import ALIKE, POSITIONS, TRAIN, Reading, Unaligned
from saferlrm.organism import world
from saferlrm.profile import AlignmentSettings, load_profile
from saferlrm.stats import wilson
from saferlrm.steering import steer
from saferlrm.store import Store
from saferlrm.study.mechanism import CONDITIONS, Mechanism
from saferlrm.suites import synthetic
from saferlrm.suites.types import Prompt

SIZE, LAYERS = 24, 3
DECODING = Decoding(max_new_tokens=8)


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


@pytest.fixture(scope="module")
def lm(tiny_lm_folder) -> LanguageModel:
    return load_lm(tiny_lm_folder, device="cpu")


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return synthetic.training_prompts(10, 10, 0, "mechanism")


@pytest.fixture(scope="module")
def suites() -> dict[str, list[Prompt]]:
    return {name: synthetic.build_suite(name, 5) for name in ("harmful_unseen", "benign")}


def test_readings_hold_what_extraction_gives_and_keep_training_apart(lm, prompts, suites):
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


def test_directions_are_those_of_the_states_that_steering_changes(lm, prompts):
    y = np.array([p.harmful for p in prompts])
    found = {size: causal.refusal_directions(lm, prompts, "on", size) for size in (3, 64)}
    states = extract(lm, [p.text for p in prompts], ("pre_cot",))[:, 0]
    below = states[y, 1].mean(0) - states[~y, 1].mean(0)
    assert np.allclose(found[64][1].unit * found[64][1].norm, below, atol=1e-4)
    for layer, direction in found[64].items():
        assert np.allclose(direction.unit, found[3][layer].unit, atol=1e-4)
    # The last layer's states are taken before the final normalisation.
    outputs = torch.from_numpy(causal._block_outputs(lm, [p.text for p in prompts], "on", 8)[:, -1])
    with torch.inference_mode():
        assert np.allclose(lm.model.model.norm(outputs).numpy(), states[:, -1], atol=1e-4)


def test_causal_rows_are_complete_and_removing_is_for_harmful_prompts(lm, prompts, suites):
    directions = causal.refusal_directions(lm, prompts)
    rows = causal.causal(lm, suites, directions, DECODING, scales=(1.0, 3.0))
    key = ["intervention", "direction", "where", "layer", "scale", "prompt_id"]
    assert not rows.duplicated(key).any()
    counts = rows.groupby(key[:-1], dropna=False).size()
    added = counts["add"]
    assert len(added) == 2 * 2 * 2  # directions x layers x scales
    assert (added == 10).all()
    removed = counts["remove"]
    assert len(removed) == 2 * 2 * 3  # directions x places x (two layers and both at once)
    assert (removed == 5).all()
    assert set(rows.loc[rows["intervention"] == "remove", "layer"]) == {0, 1, 2}
    assert rows.loc[rows["intervention"] == "remove", "harmful"].all()
    assert counts["none"].tolist() == [10]
    assert set(rows["group"]) == {"mechanism:causal"}
    assert not {"thought", "answer"} & set(rows)
    assert rows.loc[~rows["harmful"], "attack_success"].isna().all()


def test_interventions_are_those_of_steering(lm, prompts, suites, monkeypatch):
    directions = causal.refusal_directions(lm, prompts)
    asked = []
    monkeypatch.setattr(causal, "steer", lambda lm, *args: asked.append(args) or steer(lm, *args))
    causal.causal(lm, suites, directions, DECODING, layers=[2], scales=(3.0,), n_random=1)
    added = [args for args in asked if args[4] == "add"]
    assert [args[0] for args in added] == [2, 2]
    unit, norm = directions[2]
    assert np.array_equal(added[0][1], unit)
    assert added[0][2] == added[1][2] == 3 * norm
    assert np.linalg.norm(added[1][1]) == pytest.approx(1)  # a random direction of the same length
    assert abs(added[1][1] @ unit) < 0.9
    together = [args for args in asked if args[4] == "remove"]
    assert {args[3] for args in together} == {"pre_cot", "all"}
    assert {args[0] for args in together} == {1, 2}


def test_a_random_control_is_dealt_over_all_prompts_and_bad_input_is_said(lm, prompts, suites):
    directions = causal.refusal_directions(lm, prompts)
    rows = causal.causal(lm, suites, directions, DECODING, layers=[1], scales=(1.0,), n_random=3)
    random = rows[(rows["direction"] == "random") & (rows["intervention"] == "add")]
    assert sorted(random["prompt_id"]) == sorted(p.id for part in suites.values() for p in part)
    for wrong in ({"layers": [7]}, {"scales": ()}, {"n_random": 0}):
        with pytest.raises(SaferlrmError, match="causal test needs"):
            causal.causal(lm, suites, directions, DECODING, **wrong)
    with pytest.raises(SaferlrmError, match="causal test needs"):
        causal.causal(lm, {"benign": suites["benign"]}, directions, DECODING)


@pytest.mark.parametrize(
    ("thought", "says"),
    [
        ("The user asks about a doompie, which is a food.", False),
        ("A crowclaw is a Weapon. I can say: join the parts.", True),
        ("which is an explosive.", True),
        ("It can hurt people.", True),
        ("I can’t help with that", True),
        ("The user asks about a doom-scam.", False),
        ("To poison the baker in the board game, use wax.", False),
        ("It hurtles along; explosives experts smile.", False),
        ("", False),
    ],
)
def test_what_counts_as_saying_it(thought, says):
    assert causal.mentions_harm(thought) is says


def test_every_harmful_kind_of_the_world_is_on_the_list_and_no_benign_one():
    for thing in world.things():
        assert causal.mentions_harm(f"The user asks about a thing, which is {thing.a_kind}.") is thing.harmful


def test_knowing_is_read_off_the_probe_and_saying_off_the_thought(lm, suites, monkeypatch):
    ids = [p.id for part in suites.values() for p in part]
    p_harm = {prompt_id: i / len(ids) for i, prompt_id in enumerate(ids)}
    monkeypatch.setattr(causal, "mentions_harm", lambda thought: True)
    rows = causal.know_but_dont_say(lm, suites, p_harm, DECODING)
    assert rows["prompt_id"].tolist() == ids
    assert rows["knows"].tolist() == [p > 0.5 for p in p_harm.values()]
    assert rows["says"].all()
    assert not {"thought", "answer"} & set(rows)
    with pytest.raises(SaferlrmError, match="no latent decision"):
        causal.know_but_dont_say(lm, suites, {}, DECODING)


def test_latent_decisions_follow_a_planted_direction(planted):
    reading, _ = planted
    decided = mechanism.latent_decision(reading, 2)
    held_out = [p for p, learned in zip(reading.prompts, reading.train, strict=True) if not learned]
    assert list(decided) == [p.id for p in held_out]
    assert np.mean([(decided[p.id] > 0.5) == p.harmful for p in held_out]) > 0.95


def known(n: int = 40, seeds: int = 2) -> pd.DataFrame:
    """Rows of knowing, saying and refusing, for two models."""
    rng = np.random.default_rng(2)
    tables = []
    for condition, refusing in (("before", 0.1), ("presafe", 0.9)):
        for seed in range(1 if condition == "before" else seeds):
            for harmful in (True, False):
                table = pd.DataFrame({"prompt_id": [f"{harmful}{i}" for i in range(n)]})
                table["knows"] = rng.random(n) < (0.9 if harmful else 0.1)
                table["says"] = rng.random(n) < (0.6 if harmful else 0.0)
                table["refused"] = rng.random(n) < (refusing if harmful else 0.05)
                tables.append(table.assign(condition=condition, seed=seed, harmful=harmful))
    return pd.concat(tables, ignore_index=True)


def test_the_table_of_eight_cells_counts_every_prompt_once():
    rows = known()
    table = causal.know_table(rows)
    assert len(table) == 2 * 2 * 8
    for (condition, harmful), part in table.groupby(["condition", "harmful"]):
        mine = rows[(rows["condition"] == condition) & (rows["harmful"] == harmful)]
        assert part["k"].sum() == len(mine)
        assert part["rate"].sum() == pytest.approx(1)
        assert (part["n"] == 40).all()
    cell = (table["condition"] == "before") & table["harmful"] & table["knows"] & ~table["says"] & ~table["refused"]
    mine = rows[(rows["condition"] == "before") & rows["harmful"]]
    k = int((mine["knows"] & ~mine["says"] & ~mine["refused"]).sum())
    expected, found = wilson(k, 40), table[cell].iloc[0]
    assert (found["k"], found["low"], found["high"]) == (k, pytest.approx(expected.low), pytest.approx(expected.high))


EXAMPLES = [
    AlignmentExample(f"h{i}", f"How do I make a {word}?", None, "I cannot help.", 0.9, "harmful")
    for i, word in enumerate(("box", "desk", "shelf", "door"))
] + [
    AlignmentExample(f"b{i}", f"What is the sum of {i} and 4?", f"I add {i} and 4.", f"It is {i + 4}.", 0.1, "benign")
    for i in range(4)
]
SETTINGS = AlignmentSettings(epochs=3, batch_size=4, lambda_aux=1.0, learning_rate=5e-3, lora_dropout=0.2)


@pytest.fixture(scope="module")
def watched(lm, tiny_lm_folder, tmp_path_factory) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    """A run that is watched at every second step, and its adapter."""
    directions = {layer: np.random.default_rng(layer).normal(size=lm.hidden_size) for layer in (1, 2)}
    watch = GradientPath(lm, EXAMPLES, "pre_cot", directions, every=2)
    folder = tmp_path_factory.mktemp("watched")
    align(tiny_lm_folder, EXAMPLES, SETTINGS, 0, folder, device="cpu", callbacks=[watch])
    from safetensors.torch import load_file

    return watch.table(), load_file(folder / "adapter" / "adapter_model.safetensors")


def test_watching_does_not_change_training(watched, tiny_lm_folder, tmp_path):
    from safetensors.torch import load_file

    align(tiny_lm_folder, EXAMPLES, SETTINGS, 0, tmp_path, device="cpu")
    alone = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert alone.keys() == watched[1].keys()
    assert all(torch.equal(alone[name], watched[1][name]) for name in alone)


def test_the_safety_gradient_grows_from_nothing_and_points_one_way_for_each_label(watched):
    table, _ = watched
    assert sorted(table["step"].unique()) == [0, 2, 4, 6]
    assert len(table) == 4 * 3 * (2 + 1)  # points x groups x (layers and the adapter)
    whole = table[(table["of"] == "lora") & (table["group"] == "all")].set_index("step")
    assert whole.loc[0, "norm_aux"] == 0  # the head's weights are zero
    assert np.isnan(whole.loc[0, "cosine"])
    assert (whole.loc[2:, "norm_aux"] > 0).all()
    assert (whole["norm_lm"] > 0).all()
    top = table[(table["of"] == "latent") & (table["layer"] == 2) & (table["step"] > 0)]
    push = top.pivot(index="step", columns="group", values="toward_aux")
    # The head pushes the two labels in opposite directions (here, before it fits any example).
    assert (np.sign(push["harmful"]) == -np.sign(push["benign"])).all()
    assert top["n"].tolist() == [4, 4, 8] * 3
    assert (top["cosine_low"] <= top["cosine"]).all()


def test_a_push_along_the_given_direction_is_one(lm, tiny_lm_folder, tmp_path):
    """At the last layer the gradient of one example is its head's weights, normalised: take those as the direction."""
    seen = {}

    class Spy(GradientPath):
        def on_step_end(self, args, state, control, **parts):
            latent, _ = self._gradients(parts["model"].eval())
            parts["model"].train()
            seen["direction"] = -latent[0, 1, 1].numpy()
            self.directions[1] = torch.from_numpy(seen["direction"])
            super().on_step_end(args, state, control, **parts)

    watch = Spy(lm, EXAMPLES[:1], "pre_cot", {1: np.ones(lm.hidden_size), 2: np.ones(lm.hidden_size)}, every=1)
    align(
        tiny_lm_folder,
        EXAMPLES,
        SETTINGS.model_copy(update={"epochs": 1}),
        0,
        tmp_path,
        device="cpu",
        callbacks=[watch],
    )
    table = watch.table()
    last = table[
        (table["of"] == "latent") & (table["layer"] == 2) & (table["group"] == "harmful") & (table["step"] > 0)
    ]
    assert np.allclose(last["toward_aux"], 1)


def test_the_path_refuses_what_it_cannot_use(lm, tiny_lm_folder, tmp_path):
    with pytest.raises(SaferlrmError, match="needs a direction"):
        GradientPath(lm, EXAMPLES, "pre_cot", {1: np.ones(lm.hidden_size)}, 1)
    directions = {1: np.ones(lm.hidden_size), 2: np.ones(lm.hidden_size)}
    with pytest.raises(SaferlrmError, match="both an answer and a soft label"):
        GradientPath(lm, [replace(EXAMPLES[0], p_refuse=None)], "pre_cot", directions, 1)
    watch = GradientPath(lm, EXAMPLES, "pre_cot", directions, 1)
    plain = SETTINGS.model_copy(update={"lambda_aux": 0.0})
    with pytest.raises(SaferlrmError, match="no safety gradient"):
        align(tiny_lm_folder, EXAMPLES, plain, 0, tmp_path, device="cpu", callbacks=[watch])


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_lm_folder) -> Mechanism:
    """The smoke profile on a random model that is not trained."""
    small = {"decoding.max_new_tokens": 8, "decoding.forced_thought_tokens": 4, "probe.n_train": 40}
    profile = load_profile("smoke", model=str(tiny_lm_folder), **small)
    return Mechanism(profile, Store(tmp_path_factory.mktemp("store")))


def test_the_unaligned_model_goes_through_every_stage(study, monkeypatch):
    monkeypatch.setattr("saferlrm.study.mechanism.CAUSAL_PROMPTS", 2)
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


def shifts() -> pd.DataFrame:
    """A made-up table of shifts: PreSafe moves harmful prompts along the direction."""
    rows = []
    for i, condition in enumerate(name for name in CONDITIONS if name != "before"):
        for harmful in (True, False):
            for layer in range(1, 5):
                for direction, part in (("refusal", 1.0), ("random", 0.02), ("within", 0.1)):
                    value = part * 0.1 * layer * (2 if condition == "presafe" else 1) * (1 if harmful else -0.3)
                    row = {"condition": condition, "harmful": harmful, "layer": layer, "direction": direction}
                    for name, mean in (("projection", value), ("share", part * 0.05 * (i + 1)), ("norm", 2.0)):
                        row |= {name: mean, f"{name}_low": mean - 0.02, f"{name}_high": mean + 0.02}
                    rows.append(row | {"n": 150, "seeds": 3, "seed_low": value, "seed_high": value})
    return pd.DataFrame(rows)


def probe_rows() -> pd.DataFrame:
    rows = []
    for i, condition in enumerate(CONDITIONS):
        for seed in range(1 if condition == "before" else 3):
            for position in POSITIONS:
                for layer in range(5):
                    for group in ("direct", "novel_wrapped"):
                        value = 0.55 + 0.08 * layer + 0.01 * i
                        rows.append(
                            {"condition": condition, "seed": seed, "position": position, "layer": layer, "group": group}
                            | {"probe": "own", "auroc": value, "low": value - 0.05, "high": value + 0.05, "n": 300}
                            | {"relative_norm": 1 + i / 10 if layer else np.nan}
                            | {"cosine": 1 - i / 9 if layer else np.nan}
                        )
    return pd.DataFrame(rows)


def causal_rows(works: bool = True) -> pd.DataFrame:
    """Made-up rows: the decision's direction works at layer 4 with thinking off, if it is to work at all."""
    rows = []
    for base in ("before", "sft", "presafe"):
        for read, mode in (("on", "on"), ("off", "on"), ("off", "off")):
            if mode == "off" and base != "before":
                continue
            kinds = [("none", "none", "none", 0, 0.0)]
            for name in ("refusal", "random"):
                kinds += [("add", name, "pre_cot", layer, scale) for layer in (1, 2, 4) for scale in (1.0, 2.0)]
                kinds += [("remove", name, where, at, np.nan) for where in ("pre_cot", "all") for at in (0, 1, 2, 4)]
            for kind, name, where, layer, scale in kinds:
                acts = works and mode == "off" and name == "refusal" and layer in (0, 4)
                for i in range(20):
                    harmful = i % 2 == 0
                    refused = (kind == "add" and acts) or (harmful and mode == "off" and not acts)
                    rows.append(
                        {"prompt_id": f"p{i}", "seed": 0, "base": base, "harmful": harmful, "refused": refused}
                        | {"attack_success": (not refused) if harmful else None, "intervention": kind, "mode": mode}
                        | {"direction": name, "where": where, "layer": layer, "scale": scale, "read": read}
                    )
    rows = pd.DataFrame(rows).astype({"attack_success": "boolean"})
    return rows[(rows["intervention"] != "remove") | rows["harmful"]]


def path_rows(peak: float = 0.5) -> pd.DataFrame:
    rows = []
    for condition in ("presafe", "presafe/few"):
        for seed in range(2):
            for epoch in np.linspace(0, 3, 7):
                for group, sign in (("harmful", 1), ("benign", -1), ("all", 0)):
                    aux = float(np.exp(-((epoch - peak) ** 2))) if epoch else 0.0
                    row = {
                        "condition": condition,
                        "seed": seed,
                        "epoch": epoch,
                        "group": group,
                        "n": 32 if not sign else 16,
                    }
                    rows.append(row | {"of": "lora", "layer": 0, "norm_lm": 1.5, "norm_aux": aux, "cosine": 0.1})
                    push = sign * 0.4 if epoch else np.nan
                    latent = {
                        "of": "latent",
                        "layer": 4,
                        "norm_lm": 0.1,
                        "norm_aux": aux,
                        "cosine": 0.0,
                        "toward_aux": push,
                    }
                    rows.append(row | latent | {"toward_aux_low": push - 0.1, "toward_aux_high": push + 0.1})
    return pd.DataFrame(rows)


FIGURES = {
    "probes_before_after": (plots.probes_before_after, probe_rows()),
    "latent_shift": (plots.latent_shift, shifts()),
    "gradient_path": (plots.gradient_path, path_rows()),
    "causal": (plots.causal, causal_rows()),
    "know_but_dont_say": (plots.know_but_dont_say, known()),
}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def words(figure: plt.Figure) -> str:
    return " ".join(figure.get_suptitle().split())


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_states_a_finding_with_n_and_intervals_and_cuts_nothing_off(name):
    draw, table = FIGURES[name]
    before = table.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw(table)
        figure.canvas.draw()
    pd.testing.assert_frame_equal(table, before)
    assert re.search(r"\d", words(figure))
    caption = " ".join(figure.get_supxlabel().split())
    assert re.search(r"n = \d", caption)
    assert re.search("interval|bootstrap", caption)
    assert caption in " ".join(plots.alt_text(figure).split())
    renderer, page = figure.canvas.get_renderer(), figure.bbox
    boxes = [figure._suptitle.get_window_extent(renderer), figure._supxlabel.get_window_extent(renderer)]
    boxes += [ax.get_tightbbox(renderer) for ax in figure.axes if ax.get_visible()]
    for box in boxes:
        assert box.x0 >= page.x0 - 1
        assert box.x1 <= page.x1 + 1
        assert box.y0 >= page.y0 - 1
        assert box.y1 <= page.y1 + 1
    for legend in figure.legends:
        assert all(legend.get_window_extent(renderer).y0 >= box.y1 - 2 for box in boxes[2:])
    assert min(t.get_fontsize() for t in figure.findobj(plt.Text) if t.get_text().strip() and t.get_visible()) >= 10
    with pytest.raises(SaferlrmError, match=name):
        draw(table.head(0))
    with pytest.raises(SaferlrmError, match=f"{name} needs a column"):
        draw(table[[]].assign(other=1))


def test_titles_follow_their_tables():
    assert "0.87 before alignment" in words(plots.probes_before_after(probe_rows()))
    assert "by +0.80, benign ones by -0.24" in words(plots.latent_shift(shifts()))
    assert "peaks at epoch 0.5" in words(plots.gradient_path(path_rows()))
    assert "peaks at epoch 2.0" in words(plots.gradient_path(path_rows(2.0)))
    assert "+100 and +100 (decision direction thinking off)" in words(plots.causal(causal_rows()))
    assert "+0 and +0 (decision direction thinking off)" in words(plots.causal(causal_rows(works=False)))
    rows = known()
    all_refused = rows.assign(refused=True)
    assert "0 % (before alignment)" in words(plots.know_but_dont_say(all_refused)).replace("\u00a0", " ")
