"""Interventions are complete and are those of steering; what is known, said and done counts every prompt once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mechanism_tables import known

from saferlrm import causal
from saferlrm.activations import extract
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Decoding
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.organism import world
from saferlrm.stats import wilson
from saferlrm.steering import steer
from saferlrm.suites import synthetic
from saferlrm.suites.types import Prompt

DECODING = Decoding(max_new_tokens=8)


@pytest.fixture(scope="module")
def lm(tiny_lm_folder) -> LanguageModel:
    return load_lm(tiny_lm_folder, device="cpu")


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return synthetic.training_prompts(10, 10, 0, "mechanism")


@pytest.fixture(scope="module")
def suites() -> dict[str, list[Prompt]]:
    return {name: synthetic.build_suite(name, 5) for name in ("harmful_unseen", "benign")}


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
