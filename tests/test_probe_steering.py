"""The probe's own direction: what it is, that it reads harm, and that a push along it is what the probe sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saferlrm import causal
from saferlrm.lm import LanguageModel
from saferlrm.probe_steering import probe_directions
from saferlrm.steering import steer
from saferlrm.study import Study
from saferlrm.suites import synthetic
from saferlrm.suites.types import Prompt


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    """The model organism: something of harm has to be readable."""
    return Study("organism").load()


@pytest.fixture(scope="module")
def groups() -> dict[str, list[Prompt]]:
    held = [prompt for name in synthetic.CONTRASTS["direct"] for prompt in synthetic.build_suite(name, 60)]
    return {"train": synthetic.training_prompts(150, 150, 0, "probe"), "direct": held}


def test_the_direction_reads_held_out_harm_better_than_the_class_means(lm, groups) -> None:
    directions, readable = probe_directions(lm, groups["train"], groups["train"], {"direct": groups["direct"]})
    assert set(directions) == set(range(1, lm.n_layers + 1))
    table = readable.set_index(["layer", "direction"])["auroc"]
    assert table[lm.n_layers, "probe"] > 0.75
    assert table[lm.n_layers, "probe"] > table[lm.n_layers, "refusal"]
    assert len(readable) == 2 * lm.n_layers
    assert (readable["n"] == len(groups["direct"])).all()
    means = causal.refusal_directions(lm, groups["train"])
    for layer, direction in directions.items():
        assert np.linalg.norm(direction.unit) == pytest.approx(1)
        assert direction.norm == pytest.approx(means[layer].norm)  # pushed as far as the other


def test_a_push_moves_what_the_probe_sees_by_its_length_and_removal_takes_it_all(lm, groups) -> None:
    directions, _ = probe_directions(lm, groups["train"], groups["train"], {"direct": groups["direct"]})
    text, layer = [groups["direct"][0].text], 2
    unit, norm = directions[layer]
    seen = {}
    for name, scale, change in (("none", 0.0, "add"), ("added", norm, "add"), ("removed", 1.0, "remove")):
        with steer(lm, layer, unit, scale, "pre_cot", change):
            states = causal._block_outputs(lm, text, "on", 1)
        seen[name] = float(states[0, layer - 1] @ unit)
    # The hook that reads is registered after the one that steers, so it sees what the next layer gets.
    assert seen["added"] - seen["none"] == pytest.approx(norm, rel=1e-3)
    assert seen["removed"] == pytest.approx(0, abs=1e-3)


def test_labels_that_say_nothing_give_a_direction_that_reads_nothing(lm, groups) -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation([prompt.harmful for prompt in groups["train"]])
    dealt = [replace(prompt, harmful=bool(label)) for prompt, label in zip(groups["train"], labels, strict=True)]
    _, readable = probe_directions(lm, dealt, groups["train"], {"direct": groups["direct"]})
    blind = readable[(readable["direction"] == "probe") & (readable["layer"] == lm.n_layers)].iloc[0]
    assert blind["auroc"] < 0.72

