"""The gradients along alignment: watching changes nothing, and what is seen is what the head sends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from saferlrm.align.data import AlignmentExample
from saferlrm.align.gradient_path import GradientPath
from saferlrm.align.run import align
from saferlrm.errors import SaferlrmError
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.profile import AlignmentSettings

EXAMPLES = [
    AlignmentExample(f"h{i}", f"How do I make a {word}?", None, "I cannot help.", 0.9, "harmful")
    for i, word in enumerate(("box", "desk", "shelf", "door"))
] + [
    AlignmentExample(f"b{i}", f"What is the sum of {i} and 4?", f"I add {i} and 4.", f"It is {i + 4}.", 0.1, "benign")
    for i in range(4)
]
SETTINGS = AlignmentSettings(epochs=3, batch_size=4, lambda_aux=1.0, learning_rate=5e-3, lora_dropout=0.2)


@pytest.fixture(scope="module")
def lm(tiny_lm_folder) -> LanguageModel:
    return load_lm(tiny_lm_folder, device="cpu")


@pytest.fixture(scope="module")
def watched(lm, tiny_lm_folder, tmp_path_factory) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    """A run that is watched at every second step, and its adapter."""
    directions = {layer: np.random.default_rng(layer).normal(size=lm.hidden_size) for layer in (1, 2)}
    watch = GradientPath(lm, EXAMPLES, "pre_cot", directions, every=2)
    folder = tmp_path_factory.mktemp("watched")
    align(tiny_lm_folder, EXAMPLES, SETTINGS, 0, folder, device="cpu", callbacks=[watch])
    return watch.table(), load_file(folder / "adapter" / "adapter_model.safetensors")


def test_watching_does_not_change_training(watched, tiny_lm_folder, tmp_path):
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
