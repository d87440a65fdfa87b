"""Whether a treatment took: what the head learned, how far the weights moved, how many answers changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from saferlrm import findings
from saferlrm.align.weights import save_adapter
from saferlrm.lm import load_lm
from saferlrm.manipulation import answers_that_differ, head_learned, read_history, update_distances


def history(*losses: float, accuracy: float = 0.8) -> pd.DataFrame:
    return pd.DataFrame({"aux_loss": losses, "head_accuracy": accuracy})


def test_a_head_that_copies_its_labels_reaches_their_own_entropy_and_a_blind_one_the_constant() -> None:
    labels = np.array([0.9, 0.9, 0.9, 0.1, -1.0])  # the last has none
    q = labels[:4]
    copied = float(-(q * np.log(q) + (1 - q) * np.log(1 - q)).mean())
    blind = float(-(0.7 * np.log(0.7) + 0.3 * np.log(0.3)))
    found = head_learned(history(0.7, 0.6, 0.5, 0.4, 0.3), labels)
    assert found["copy"] == pytest.approx(copied)
    assert found["constant"] == pytest.approx(blind)
    assert found["copy"] < found["constant"] < np.log(2)
    assert (found["first"], found["last"]) == (0.7, 0.3)
    assert (found["accuracy"], found["majority"]) == (0.8, 0.75)


def adapter(folder: Path, tiny: Path, scale: float, seed: int) -> Path:
    """A real LoRA adapter with random weights; ``scale`` multiplies its B matrices."""
    torch.manual_seed(seed)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    save_adapter(get_peft_model(load_lm(tiny, device="cpu").model, config), folder)
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({name: w * (scale if ".lora_B." in name else 1) for name, w in weights.items()}, file)
    return folder


def test_updates_are_compared_by_seed_and_seeds_with_each_other(tiny_lm_folder: Path, tmp_path: Path) -> None:
    made = {("sft", seed): adapter(tmp_path / f"sft{seed}", tiny_lm_folder, 1, seed) for seed in range(2)}
    made |= {("presafe", seed): adapter(tmp_path / f"presafe{seed}", tiny_lm_folder, 1.5, seed) for seed in range(2)}
    found = update_distances(made).set_index(["before", "after", "seed", "other_seed"])
    assert len(found) == 3
    for seed in range(2):  # the same update, half as long again
        assert found.loc[("sft", "presafe", seed, seed), "distance"] == pytest.approx(0.5, abs=1e-5)
        assert found.loc[("sft", "presafe", seed, seed), "cosine"] == pytest.approx(1, abs=1e-5)
    between = found.loc[("sft", "sft", 0, 1)]
    assert between["distance"] > 1
    assert abs(between["cosine"]) < 0.3
    # Against peft's own sum: the weights of a merged model minus those below it, all modules together.
    below = load_lm(tiny_lm_folder, device="cpu").model.state_dict()
    updates = []
    for folder in ("sft0", "sft1"):
        merged = PeftModel.from_pretrained(load_lm(tiny_lm_folder, device="cpu").model, tmp_path / folder)
        above = merged.merge_and_unload().state_dict()
        updates.append(torch.cat([(above[name] - below[name]).flatten() for name in sorted(below)]))
    assert float((updates[1] - updates[0]).norm() / updates[0].norm()) == pytest.approx(between["distance"], rel=1e-4)


def rows(condition: str, refused: list[list[bool]], seeds: tuple[int, ...] = (0, 1)) -> pd.DataFrame:
    return pd.DataFrame(
        {"condition": condition, "prompt_id": f"p{i}", "seed": seed, "suite": "harmful_unseen", "mode": "on",
         "attack_success": pd.array([not refused[k][i]], "boolean")[0]}
        for k, seed in enumerate(seeds) for i in range(len(refused[k]))
    ).astype({"attack_success": "boolean"})  # fmt: skip


def test_answers_are_held_against_those_of_the_same_seed() -> None:
    one = rows("sft", [[True, False, False], [True, True, False]])
    two = rows("presafe", [[True, True, True], [False, True, False]])
    alone = rows("presafe", [[False] * 3], seeds=(2,))  # a seed that the other lacks
    found = answers_that_differ(pd.concat([one, two, alone]), "sft", "presafe")
    assert found.to_dict("records") == [
        {"suite": "harmful_unseen", "mode": "on", "answers": 6, "fewer": 2, "more": 1}
    ]
    (line,) = findings.differing_lines(found)
    assert line == "harmful, unseen, thinking: 3 of 6 answers come to another outcome (2 fewer, 1 more)"
    same = answers_that_differ(pd.concat([one, one.assign(condition="presafe")]), "sft", "presafe")
    assert same[["fewer", "more"]].to_numpy().sum() == 0
    assert answers_that_differ(one, "sft", "presafe").empty


def test_a_sentence_says_how_far_the_head_came(tmp_path: Path) -> None:
    (tmp_path / "history.json").write_text(json.dumps([{"aux_loss": 0.5, "head_accuracy": 0.75}]))
    learned = head_learned(read_history(tmp_path), np.array([0.5 + 0.4, 0.5 - 0.4]))
    row = {"plain": "sft", "condition": "presafe", "seed": 0, "distance": 0.26, "cosine": 0.97, "between_seeds": 1.1}
    (line,) = findings.treatment_lines(pd.DataFrame([row | learned]))
    way = (np.log(2) - 0.5) / (np.log(2) - learned["copy"])
    assert f"the head's loss ends at 0.50, {way:.0%} of the way from the best constant (0.69)" in line
    assert "differs from that of λ = 0 by 26% of its length (cosine 0.97); two seeds of the latter" in line
    assert line.endswith("differ by 110%")
