"""The auxiliary head: its loss, and which weights the safety gradient reaches."""

from __future__ import annotations

import math

import pytest
import torch
from test_align_data import BENIGN, DECISION, HARMFUL
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from saferlrm.align.data import Collator, encode_all
from saferlrm.align.head import (
    AuxiliaryHead,
    auxiliary_loss,
    binary_loss,
    decoder_blocks,
    read_latent,
    resolve_layer,
)
from saferlrm.align.run import build_model
from saferlrm.errors import SaferlrmError
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.profile import AlignmentSettings

EXAMPLES = [BENIGN, HARMFUL, DECISION]


def settings(**changes) -> AlignmentSettings:
    return AlignmentSettings(
        **({"lambda_aux": 0.5, "lora_dropout": 0.0, "batch_size": 4, "rank": 4} | changes)
    )


def fresh(folder, **changes):
    """A supervised model whose head and adapter have non-zero weights, and a batch for it."""
    lm = load_lm(folder, device="cpu")
    model = build_model(lm, settings(**changes), seed=0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or name.startswith("head."):
            torch.nn.init.normal_(parameter, std=0.1)
    return model, Collator(0)(encode_all(EXAMPLES, lm, changes.get("head_token", "pre_cot")))


def lora_gradients(model) -> list[float]:
    """Norm of the gradient on the adapter of each block, lowest first."""
    return [
        math.sqrt(sum(float(p.grad.square().sum()) for p in block.parameters() if p.grad is not None))
        for block in decoder_blocks(model.lm)
    ]


def test_auxiliary_loss_alone_moves_every_layer_below_the_head(tiny_lm_folder):
    model, batch = fresh(tiny_lm_folder, head_layer=2)
    model(**batch).aux.backward()
    assert min(lora_gradients(model)) > 0


def test_auxiliary_loss_stops_at_the_heads_layer(tiny_lm_folder):
    model, batch = fresh(tiny_lm_folder, head_layer=1)
    model(**batch).aux.backward()
    below, above = lora_gradients(model)
    assert below > 0
    assert above == 0


def test_auxiliary_step_changes_the_latents_weights_and_a_detached_head_does_not(tiny_lm_folder):
    for detach in (False, True):
        model, batch = fresh(tiny_lm_folder, head_layer=2, detach_head=detach)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        latent = model.hidden_states(batch["input_ids"])[1].detach()
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
        model(**batch).aux.backward()
        optimiser.step()
        changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert {name for name in changed if name.startswith("head.")} == {
            "head.linear.weight",
            "head.linear.bias",
        }
        if detach:
            assert not any("lora" in name for name in changed)
            assert torch.equal(model.hidden_states(batch["input_ids"])[1], latent)
        else:
            assert all(any(f"layers.{layer}." in name for name in changed) for layer in (0, 1))
            assert not torch.equal(model.hidden_states(batch["input_ids"])[1], latent)
        assert not any("lora" not in name for name in changed if name.startswith("lm."))


def test_detached_head_leaves_the_total_gradient_of_the_adapter_untouched(tiny_lm_folder):
    detached, batch = fresh(tiny_lm_folder, detach_head=True)
    losses = detached(**batch)
    (losses.lm + 0.5 * losses.aux).backward()
    plain, _ = fresh(tiny_lm_folder)
    plain(**batch).lm.backward()
    ours = {n: p.grad for n, p in detached.lm.named_parameters() if p.grad is not None}
    theirs = {n: p.grad for n, p in plain.lm.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("layer", [1, 2, -1])
def test_latent_is_the_hidden_state_of_that_layer_at_that_token(tiny_lm_folder, layer):
    model, batch = fresh(tiny_lm_folder, head_layer=layer)
    with torch.no_grad():
        inner = model.hidden_states(batch["input_ids"])[1]
        expected = model.lm(input_ids=batch["input_ids"], output_hidden_states=True).hidden_states
    index = layer if layer > 0 else len(expected) + layer
    torch.testing.assert_close(inner, expected[index])
    picked = read_latent(inner, batch["head_span"])
    for row in range(len(EXAMPLES)):
        torch.testing.assert_close(picked[row], inner[row, batch["head_span"][row, 1] - 1])


def test_prompt_mean_averages_the_tokens_of_its_span(tiny_lm_folder):
    model, batch = fresh(tiny_lm_folder, head_token="prompt_mean")
    inner = model.hidden_states(batch["input_ids"])[1]
    picked = read_latent(inner, batch["head_span"])
    for row, (start, end) in enumerate(batch["head_span"].tolist()):
        assert end - start > 1
        torch.testing.assert_close(picked[row], inner[row, start:end].mean(0))


def test_language_modelling_loss_is_the_models_own(tiny_lm_folder):
    model, batch = fresh(tiny_lm_folder)
    ours = model(**batch).lm
    mask = torch.ones_like(batch["input_ids"])
    theirs = model.lm(input_ids=batch["input_ids"], attention_mask=mask, labels=batch["labels"]).loss
    torch.testing.assert_close(ours, theirs)


def test_padding_changes_neither_loss(tiny_lm_folder):
    model, batch = fresh(tiny_lm_folder)
    lm = load_lm(tiny_lm_folder, device="cpu")
    alone = [model(**Collator(0)([row])) for row in encode_all(EXAMPLES, lm)]
    together = model(**batch)
    torch.testing.assert_close(together.aux, torch.stack([losses.aux for losses in alone]).mean())
    counts = (batch["labels"] != -100).sum(dim=1)
    summed = sum(losses.lm * n for losses, n in zip(alone, counts, strict=True))
    torch.testing.assert_close(together.lm, summed / counts.sum())


def test_binary_loss_is_the_cross_entropy_with_soft_targets():
    logits, soft = torch.tensor([0.3, -1.2, 5.0]), torch.tensor([0.9, 0.2, -1.0])
    p = torch.sigmoid(logits[:2])
    expected = -(soft[:2] * p.log() + (1 - soft[:2]) * (1 - p).log()).mean()
    torch.testing.assert_close(binary_loss(logits, soft), expected)
    assert binary_loss(logits, torch.full((3,), -1.0)) == 0


def test_a_fresh_head_says_one_half_and_sends_no_gradient_to_the_latent():
    hidden = torch.randn(2, 5, 8, requires_grad=True)
    loss, logits = auxiliary_loss(
        AuxiliaryHead(8), hidden, torch.tensor([[4, 5], [2, 3]]), torch.tensor([1.0, 0.0])
    )
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert logits.tolist() == [0, 0]
    assert not hidden.grad.any()


def test_head_does_not_see_the_scale_of_the_latent():
    head = AuxiliaryHead(8)
    torch.nn.init.normal_(head.linear.weight)
    hidden = torch.randn(4, 8)
    torch.testing.assert_close(head(hidden), head(hidden * 50), rtol=1e-4, atol=1e-4)


def test_layers_out_of_range_are_refused():
    assert resolve_layer(-1, 4) == 4
    assert resolve_layer(3, 4) == 3
    for layer in (0, 5, -5):
        with pytest.raises(SaferlrmError, match=r"out of range; this model has layers 1 to 4"):
            resolve_layer(layer, 4)


@pytest.mark.parametrize(
    ("config", "kind"), [(Qwen2Config, Qwen2ForCausalLM), (LlamaConfig, LlamaForCausalLM)]
)
def test_other_architectures_work_the_same(tiny_lm_folder, config, kind):
    tiny = load_lm(tiny_lm_folder, device="cpu")
    torch.manual_seed(0)
    base = kind(
        config(
            vocab_size=len(tiny.tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    lm = LanguageModel(base, tiny.tokenizer, tiny.chat, kind.__name__)
    model = build_model(lm, settings(head_layer=2), seed=0)
    torch.nn.init.normal_(model.head.linear.weight)
    losses = model(**Collator(0)(encode_all(EXAMPLES, lm)))
    (losses.lm + losses.aux).backward()
    # A fresh adapter's B is zero, so only B has a gradient; every block has one.
    assert all(norm > 0 for norm in lora_gradients(model))
    assert isinstance(AutoModelForCausalLM.from_config(base.config), kind)
