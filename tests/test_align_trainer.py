"""Alignment runs: reproducible, resumable, and an adapter that peft alone loads."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from align_in_process import DEFAULTS, LONG
from peft import PeftModel
from processes import start_python
from safetensors.torch import load_file
from tiny import tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    LlamaForCausalLM,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
    TrainerCallback,
)

from saferlrm.align import LabelSources, align, get_method, prepare, safety_gradient
from saferlrm.align.data import AlignmentExample, Collator, encode_all
from saferlrm.align.head import decoder_blocks
from saferlrm.align.run import build_model, build_trainer
from saferlrm.align.weights import HEAD_FILE
from saferlrm.errors import SaferlrmError
from saferlrm.lm import load_lm
from saferlrm.profile import AlignmentSettings
from saferlrm.training import last_complete_checkpoint

WORKER = Path(__file__).parent / "align_in_process.py"
EXAMPLES = [
    AlignmentExample(
        f"h{i}", f"How do I make a [thing {i}]?", None, "I cannot help with that.", 0.95, "harmful"
    )
    for i in range(12)
] + [
    AlignmentExample(
        f"b{i}", f"What is {i} and 3?", f"{i} and 3 is {i + 3}. " * (1 + i % 4), f"{i + 3}", 0.05, "benign"
    )
    for i in range(12)
]


def settings(**changes) -> AlignmentSettings:
    defaults = {"lambda_aux": 0.5, "epochs": 4, "batch_size": 4, "rank": 4, "lora_dropout": 0.1}
    return AlignmentSettings(**(defaults | changes))


def weights(adapter: Path) -> dict[str, torch.Tensor]:
    return load_file(adapter / "adapter_model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class KillAt(TrainerCallback):
    """Interrupts training after a step, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def aligned(tiny_lm_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("aligned")
    align(tiny_lm_folder, EXAMPLES, settings(), 0, out, device="cpu")
    return out


def test_adapter_holds_no_head_and_loads_with_peft_alone(tiny_lm_folder, aligned):
    names = set(weights(aligned / "adapter"))
    assert names
    assert all("lora_" in name for name in names)
    assert not list(aligned.rglob(HEAD_FILE))
    assert not (aligned / "checkpoints").exists()
    base = AutoModelForCausalLM.from_pretrained(tiny_lm_folder)
    ids = torch.arange(10)[None]
    before = base(ids).logits
    after = PeftModel.from_pretrained(base, str(aligned / "adapter"))(ids).logits
    assert not torch.allclose(before, after)
    merged = load_lm(tiny_lm_folder, adapter=aligned / "adapter", device="cpu").model(ids).logits
    torch.testing.assert_close(merged, after, rtol=1e-4, atol=1e-4)


def test_saved_files_tell_no_place_and_hold_no_pickle(tiny_lm_folder, aligned):
    config = json.loads((aligned / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny_lm_folder.name
    assert {path.suffix for path in aligned.rglob("*") if path.is_file()} == {".json", ".safetensors"}


def test_history_has_both_losses_and_they_fall(aligned):
    rows = json.loads((aligned / "history.json").read_text())
    assert len(rows) == 24
    assert {"step", "epoch", "loss", "lm_loss", "aux_loss", "head_accuracy", "grad_norm"} <= rows[0].keys()
    for row in rows:
        assert row["loss"] == pytest.approx(row["lm_loss"] + 0.5 * row["aux_loss"], rel=1e-3)
    assert np.mean([row["lm_loss"] for row in rows[-6:]]) < np.mean([row["lm_loss"] for row in rows[:6]])
    assert np.mean([row["aux_loss"] for row in rows[-6:]]) < np.mean([row["aux_loss"] for row in rows[:6]])
    assert np.mean([row["head_accuracy"] for row in rows[-6:]]) > 0.9


def test_equal_seeds_give_equal_adapters_and_other_seeds_do_not(tiny_lm_folder, aligned, tmp_path):
    torch.rand(3)  # whatever was drawn before must not matter
    for seed in (0, 1):
        align(tiny_lm_folder, EXAMPLES, settings(), seed, tmp_path / str(seed), device="cpu")
    assert same(weights(tmp_path / "0" / "adapter"), weights(aligned / "adapter"))
    assert not same(weights(tmp_path / "1" / "adapter"), weights(aligned / "adapter"))


@pytest.mark.parametrize("step", [8, 15, 23])
def test_an_interrupted_run_ends_with_the_adapter_of_an_uninterrupted_one(
    tiny_lm_folder, aligned, tmp_path, step
):
    with pytest.raises(KeyboardInterrupt):
        align(tiny_lm_folder, EXAMPLES, settings(), 0, tmp_path, device="cpu", callbacks=[KillAt(step)])
    checkpoint = Path(last_complete_checkpoint(tmp_path / "checkpoints"))
    assert {HEAD_FILE, "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= {
        p.name for p in checkpoint.iterdir()
    }
    assert not (tmp_path / "adapter").exists()
    # Half a checkpoint, as a kill during saving leaves it, is not resumed from.
    broken = tmp_path / "checkpoints" / "checkpoint-99"
    broken.mkdir()
    (broken / "trainer_state.json").write_text('{"global_st')
    align(tiny_lm_folder, EXAMPLES, settings(), 0, tmp_path, device="cpu")
    assert same(weights(tmp_path / "adapter"), weights(aligned / "adapter"))
    assert json.loads((tmp_path / "history.json").read_text()) == json.loads(
        (aligned / "history.json").read_text()
    )


def test_without_lambda_there_is_no_head(tiny_lm_folder, tmp_path):
    align(tiny_lm_folder, EXAMPLES, settings(lambda_aux=0.0, epochs=1), 0, tmp_path, device="cpu")
    rows = json.loads((tmp_path / "history.json").read_text())
    assert all("aux_loss" not in row and row["loss"] == pytest.approx(row["lm_loss"]) for row in rows)


def test_a_detached_head_trains_the_adapter_of_lambda_zero(tiny_lm_folder, tmp_path):
    common = {"epochs": 2, "lora_dropout": 0.0}
    runs = {
        "sft": settings(lambda_aux=0.0, **common),
        "detached": settings(detach_head=True, **common),
        "presafe": settings(**common),
    }
    found = {
        name: weights(align(tiny_lm_folder, EXAMPLES, run, 0, tmp_path / name, device="cpu"))
        for name, run in runs.items()
    }
    assert same(found["sft"], found["detached"])
    assert not same(found["sft"], found["presafe"])


def test_head_has_its_own_learning_rate_and_does_not_shrink_the_adapters_gradient(tiny_lm_folder, tmp_path):
    lm = load_lm(tiny_lm_folder, device="cpu")
    run = settings(learning_rate=1e-3, head_learning_rate=0.03)
    model = build_model(lm, run, seed=0)
    trainer = build_trainer(model, encode_all(EXAMPLES, lm), lm, run, 0, tmp_path)
    adapter, head = trainer.create_optimizer().param_groups
    assert (adapter["lr"], head["lr"]) == (1e-3, 0.03)
    assert len(head["params"]) == 2
    for parameter in adapter["params"]:
        parameter.grad = torch.full_like(parameter, 1e-5)
    for parameter in head["params"]:
        parameter.grad = torch.full_like(parameter, 1e3)
    trainer._clip_grad_norm(model)
    assert all(torch.equal(p.grad, torch.full_like(p, 1e-5)) for p in adapter["params"])
    assert sum(float(p.grad.square().sum()) for p in head["params"]) <= 1.001


def test_only_prompts_without_answers_still_train_the_latents(tiny_lm_folder, tmp_path):
    decisions = [
        AlignmentExample(f"d{i}", f"What is a [{i}]?", None, None, i % 2, "decision") for i in range(8)
    ]
    adapter = align(tiny_lm_folder, decisions, settings(), 0, tmp_path, device="cpu")
    rows = json.loads((tmp_path / "history.json").read_text())
    assert all(row["lm_loss"] == 0 and np.isfinite(row["loss"]) for row in rows)
    assert any(tensor.abs().sum() > 0 for name, tensor in weights(adapter).items() if "lora_B" in name)


def test_bad_input_leaves_nothing_behind(tiny_lm_folder, tmp_path):
    with pytest.raises(SaferlrmError, match=r"head_layer=7 is out of range; this model has layers 1 to 2"):
        align(tiny_lm_folder, EXAMPLES, settings(head_layer=7), 0, tmp_path / "out", device="cpu")
    with pytest.raises(SaferlrmError, match="alignment set is empty"):
        align(tiny_lm_folder, [], settings(), 0, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("architecture", "layer"), [(Qwen2ForCausalLM, 1), (Qwen3ForCausalLM, 2), (LlamaForCausalLM, -1)]
)
def test_checkpointed_activations_and_micro_batches_give_the_same_run(tmp_path, architecture, layer):
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = architecture.config_class(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.2,
    )  # fmt: skip
    architecture(config).save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    common = {"epochs": 1, "head_layer": layer}
    runs = {
        "plain": settings(**common),
        "checkpointed": settings(**common, gradient_checkpointing=True),
        "micro": settings(**common, lora_dropout=0.0, micro_batch=3),
        "whole": settings(**common, lora_dropout=0.0),
    }
    found, rows = {}, {}
    for name, run in runs.items():
        found[name] = weights(align(tmp_path / "lm", EXAMPLES, run, 0, tmp_path / name, device="cpu"))
        rows[name] = json.loads((tmp_path / name / "history.json").read_text())
    # Dropout included: what is computed again draws the same.
    assert same(found["plain"], found["checkpointed"])
    assert rows["plain"] == rows["checkpointed"]
    # A fiftieth of one step of Adam, which makes much of the last bits of a gradient near zero.
    for name, tensor in found["whole"].items():
        torch.testing.assert_close(found["micro"][name], tensor, rtol=0, atol=2e-5)
    for row, other in zip(rows["whole"], rows["micro"], strict=True):
        assert other == pytest.approx(row, rel=1e-4)


def test_checkpointing_keeps_no_activations_of_inner_layers(tiny_lm_folder):
    """Bytes that autograd saves in a forward pass, with and without."""
    lm = load_lm(tiny_lm_folder, device="cpu")
    model = build_model(lm, settings(lora_dropout=0.0), seed=0).train()
    batch = Collator(0)(encode_all(EXAMPLES, lm))
    kept = []
    for _ in range(2):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.nbytes) or t, lambda t: t):
            model(**batch)
        kept.append(sum(sizes))
        model.checkpoint_activations()
    assert kept[1] < kept[0] / 2


def test_too_large_a_batch_is_halved_and_the_run_is_the_same(tiny_lm_folder, tmp_path):
    """Memory is really taken away from the process: 32 rows do not fit, a part of them does."""
    common = [tiny_lm_folder, tmp_path / "small", "batch_size=32", "epochs=2", "memory_mb=20"]
    process = start_python(WORKER, *common, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "out of memory with 32 rows at once; going on with alignment.micro_batch=16" in err
    run = AlignmentSettings(**DEFAULTS | {"batch_size": 32, "epochs": 2})
    whole = weights(align(tiny_lm_folder, LONG, run, 0, tmp_path / "whole", device="cpu"))
    for name, tensor in weights(tmp_path / "small" / "adapter").items():
        torch.testing.assert_close(tensor, whole[name], rtol=0, atol=2e-5)


def test_no_memory_for_one_row_names_the_settings(tiny_lm_folder, tmp_path):
    class Full(TrainerCallback):
        """A device without room for anything, in the error of the library."""

        def on_step_begin(self, args, state, control, model=None, **_):
            decoder_blocks(model.lm)[0].register_forward_pre_hook(self.refuse)

        def refuse(self, *_):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(SaferlrmError) as problem:
        align(tiny_lm_folder, EXAMPLES, settings(), 0, tmp_path, device="cpu", callbacks=[Full()])
    for name in ("alignment.micro_batch", "gradient_checkpointing", "loading.quantization", "alignment.batch_size"):
        assert name in str(problem.value)
    assert "1 row at once" in str(problem.value)


def test_a_launchers_precision_is_not_the_profiles(tiny_lm_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    lm = load_lm(tiny_lm_folder, device="cpu")
    model = build_model(lm, settings(), seed=0)
    trainer = build_trainer(model, encode_all(EXAMPLES, lm), lm, settings(), 0, tmp_path)
    assert trainer.accelerator.mixed_precision == "no"


def test_safety_gradient_shows_where_each_loss_arrives(tiny_lm_folder):
    lm = load_lm(tiny_lm_folder, device="cpu")
    before = {name: (p.clone(), p.requires_grad) for name, p in lm.model.named_parameters()}
    table = safety_gradient(lm, EXAMPLES[::3], settings(head_layer=1)).set_index(["of", "layer"])
    measures = ["norm_lm", "norm_aux", "norm_total", "cosine"]
    assert [name for name in table if not name.endswith(("_low", "_high"))] == [*measures, "n"]
    latent = table.loc["latent"]
    for name in measures:
        reached = latent[latent["norm_aux"] > 0]
        assert (reached[f"{name}_low"] < reached[name]).all()
        assert (reached[name] < reached[f"{name}_high"]).all()
        assert table.loc["lora", [f"{name}_low", f"{name}_high"]].isna().all(axis=None)
    assert (table["norm_lm"] > 0).all()
    for of in ("latent", "lora"):
        assert table.loc[(of, 1), "norm_aux"] > 0
        assert table.loc[(of, 2), "norm_aux"] == 0
        assert abs(table.loc[(of, 1), "cosine"]) <= 1
        assert np.isnan(table.loc[(of, 2), "cosine"])
    detached = safety_gradient(lm, EXAMPLES[::3], settings(head_layer=1, detach_head=True))
    assert (detached["norm_aux"] == 0).all()
    assert detached["norm_total"].to_numpy() == pytest.approx(table["norm_lm"].to_numpy())
    after = {name: (p, p.requires_grad) for name, p in lm.model.named_parameters()}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n][0], after[n][0]) and before[n][1] == after[n][1] for n in before)


def test_methods_refuse_what_they_cannot_use():
    soft = np.full(len(EXAMPLES), 0.5)
    with pytest.raises(
        SaferlrmError, match=r"unknown alignment method 'presave' \(did you mean 'presafe'\?\)"
    ):
        get_method("presave")
    with pytest.raises(SaferlrmError, match="needs 24 gold labels but got none"):
        prepare("gold", EXAMPLES, LabelSources(soft), settings(), 0)
    with pytest.raises(SaferlrmError, match="needs 24 soft labels but got 3"):
        prepare("presafe", EXAMPLES, LabelSources(soft[:3]), settings(), 0)
    with pytest.raises(SaferlrmError, match=r"lambda_aux > 0"):
        prepare("presafe", EXAMPLES, LabelSources(soft), settings(lambda_aux=0.0), 0)
    soft[5] = np.nan
    with pytest.raises(SaferlrmError, match="soft label of example h5"):
        prepare("presafe", EXAMPLES, LabelSources(soft), settings(), 0)
