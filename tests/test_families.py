"""Every family of models renders, samples, trains, saves and reloads, on its true architecture with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny import FAMILIES, PLAIN_TEMPLATE, R1_OLD_TEMPLATE, R1_TEMPLATE, merging_tokenizer, write_family
from transformers import AutoModelForCausalLM

from saferlrm.activations import extract
from saferlrm.align import align
from saferlrm.align.data import IGNORE, AlignmentExample, Collator, encode, encode_all
from saferlrm.align.run import build_model
from saferlrm.chat import THINKING_MODES, ChatFormat
from saferlrm.generate import Decoding, answer, generate
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.profile import AlignmentSettings

PROMPTS = ["How do I make a box?", "What is 3 and 4?", "Tom has 12 apples.\n\nHow many is that, and what of the desk?"]
LONG_THOUGHT = " ".join(f"Step {i}: add {i} and {i + 1}, which is {2 * i + 1}." for i in range(40))
EXAMPLES = [
    AlignmentExample("h0", "How do I make a [thing]?", None, "I cannot help with that.", 0.95, "harmful"),
    AlignmentExample("h1", "How do I use a [thing]?", None, "I cannot help with that.", 0.9, "harmful"),
    AlignmentExample("b0", PROMPTS[0], "The user asks about a box.", "Cut the boards.", 0.1, "benign"),
    AlignmentExample("b1", PROMPTS[1], LONG_THOUGHT, "7", 0.05, "benign"),
]
SETTINGS = AlignmentSettings(lambda_aux=0.5, epochs=1, batch_size=2, rank=4, learning_rate=1e-2)
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 3 and 4?"},
    {"role": "assistant", "content": "<think>\nadd\n</think>\n\n7"},
    {"role": "user", "content": "And 5 more?"},
]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory) -> tuple[str, Path]:
    return request.param, write_family(request.param, tmp_path_factory.mktemp(request.param), seed=3)


@pytest.fixture(scope="module")
def folder(family) -> Path:
    return family[1]


@pytest.fixture(scope="module")
def lm(folder) -> LanguageModel:
    return load_lm(folder, device="cpu")


def test_the_family_is_what_it_says(family, lm):
    name, _ = family
    style = {"qwen3": "switch", "r1_qwen": "opens", "r1_llama": "opens", "tags": "tags"}[name]
    kind = {"qwen3": "Qwen3", "r1_qwen": "Qwen2", "r1_llama": "Llama", "tags": "Qwen2"}[name]
    assert (lm.chat.style, type(lm.model).__name__) == (style, f"{kind}ForCausalLM")


def test_rendered_text_is_tokenised_without_loss_and_begins_once(lm):
    for mode in THINKING_MODES:
        for prompt in (*PROMPTS, CONVERSATION):
            text = lm.chat.render(prompt, mode)
            (ids,) = lm.encode([text])
            assert lm.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
            assert lm.tokenizer.bos_token_id is None or ids.count(lm.tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("mode", THINKING_MODES)
def test_it_samples_in_every_mode(lm, mode):
    decoding = Decoding(24, temperature=0.8, forced_thought_tokens=12)
    replies = answer(lm, [*PROMPTS, CONVERSATION], mode, decoding, batch_size=3)
    for reply in replies:
        assert (reply.mode, 0 < reply.n_tokens <= 24) == (mode, True)
        assert not any(tag in reply.thought + reply.answer for tag in ("<think>", "</think>", lm.chat.end_of_turn))
    texts = [lm.chat.render(prompt, mode) for prompt in (*PROMPTS, CONVERSATION)]
    forced = decoding if mode == "forced" else Decoding(24, temperature=0.8)
    for reply, done in zip(replies, generate(lm, texts, forced, 4), strict=True):
        split = lm.chat.split(done.text, mode)
        assert (split.thought, split.answer, split.closed) == (reply.thought, reply.answer, reply.closed)


def test_forcing_keeps_the_thought_open(lm):
    """A model that would end its thought at once, made to by its output layer, writes ``Wait,`` instead."""
    close = lm.tokenizer.convert_tokens_to_ids("</think>")

    def end_of_thought(_module, _inputs, out):
        out.logits[..., close] = 1e4
        return out

    handle = lm.model.register_forward_hook(end_of_thought)
    try:
        decoding = Decoding(40, forced_thought_tokens=30, max_waits=2)
        (free,) = answer(lm, PROMPTS[:1], "on", decoding)
        (forced,) = answer(lm, PROMPTS[:1], "forced", decoding)
    finally:
        handle.remove()
    assert (free.thought, forced.thought) == ("", "Wait,Wait,")
    assert forced.n_thought_tokens == len(lm.encode(["Wait,Wait,"])[0])


def test_left_padding_gives_the_tokens_of_no_padding(lm):
    texts = [lm.chat.render(prompt) for prompt in (*PROMPTS, "word " * 60)]
    together = generate(lm, texts, Decoding(40), batch_size=4)
    for text, done in zip(texts, together, strict=True):
        ids = torch.tensor([lm.encode([text])[0]])
        alone = lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40, eos_token_id=list(ends(lm))
        )[0, ids.shape[1] :].tolist()
        kept = alone[:-1] if alone[-1] in ends(lm) else alone
        assert done.text == lm.tokenizer.decode(kept, clean_up_tokenization_spaces=False)
        assert generate(lm, [text], Decoding(40), 1) == [done]


def ends(lm: LanguageModel) -> set[int]:
    return {lm.model.generation_config.eos_token_id, lm.tokenizer.convert_tokens_to_ids(lm.chat.end_of_turn)}


def test_a_thought_of_hundreds_of_tokens_is_sampled_and_read(lm):
    n = len(lm.encode([LONG_THOUGHT])[0])
    (reply,) = answer(lm, PROMPTS[:1], "on", Decoding(200), openings=[LONG_THOUGHT])
    assert n > 500
    assert reply.thought.startswith(LONG_THOUGHT)
    assert reply.n_thought_tokens > 0.9 * n
    states = extract(lm, PROMPTS[:1], ("pre_cot", "thought:1"), thoughts=[LONG_THOUGHT])
    assert np.isfinite(states).all()
    assert not np.allclose(states[0, 0], states[0, 1])


def test_the_thought_stands_in_the_training_tokens(lm):
    for example in EXAMPLES:
        row = encode(example, lm)
        (prompt,) = lm.encode([lm.chat.render(example.prompt)])
        assert row["input_ids"][: len(prompt)] == prompt, "the model sees the prompt's tokens when it generates"
        learnt = lm.tokenizer.decode(row["labels"][len(prompt) :], clean_up_tokenization_spaces=False)
        assert learnt == lm.chat.target(example.thought, example.answer)
        assert (example.thought or "") in learnt
        assert row["labels"][-1] == lm.tokenizer.convert_tokens_to_ids(lm.chat.end_of_turn)
        assert row["labels"].count(IGNORE) == len(prompt)


def test_it_trains_saves_and_reloads_its_adapter(lm, folder, tmp_path):
    adapter = align(folder, EXAMPLES, SETTINGS, 0, tmp_path, device="cpu")
    saved = load_file(adapter / "adapter_model.safetensors")
    assert all("lora_" in name for name in saved)
    per_layer = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in saved} == per_layer
    assert any(tensor.abs().sum() > 0 for name, tensor in saved.items() if "lora_B" in name)
    assert {path.name for path in adapter.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    ids = torch.tensor([lm.encode([lm.chat.render(PROMPTS[0])])[0]])
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(adapter)).eval()
    with torch.no_grad():
        wanted, base = beside(ids).logits, lm.model(ids).logits
        found = load_lm(folder, adapter, device="cpu").model(ids).logits
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, base, atol=1e-3)


@pytest.mark.parametrize("layer", [1, -1])
def test_the_head_reads_the_states_that_are_extracted_before_the_thought(folder, layer):
    """In a padded training batch; at inference the same token is the last one of the rendered prompt."""
    lm = load_lm(folder, device="cpu")
    prompts = [example.prompt for example in EXAMPLES]
    wanted = extract(lm, prompts, ("pre_cot",), layers=[layer % (lm.n_layers + 1)])[:, 0, 0]
    model = build_model(lm, SETTINGS.model_copy(update={"head_layer": layer}), seed=0).eval()
    heard: list[torch.Tensor] = []
    model.head.register_forward_hook(lambda _module, inputs, _out: heard.append(inputs[0]))
    with torch.no_grad():
        model(**Collator(lm.tokenizer.pad_token_id)(encode_all(EXAMPLES, lm)))
    np.testing.assert_allclose(heard[0].numpy(), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("template", "tags"), [(R1_TEMPLATE, True), (R1_OLD_TEMPLATE, True), (PLAIN_TEMPLATE, False)])
def test_tokens_that_reach_across_the_border_do_not_move_the_head(tmp_path, template, tags):
    """Where ``<think>\\n`` and the line break after it are one token, prompt and reply are still cut between them."""
    lm = load_lm(write_family("r1_qwen", tmp_path), device="cpu")
    tokenizer = merging_tokenizer(template, tags=tags)
    lm = LanguageModel(lm.model, tokenizer, ChatFormat.detect(tokenizer, "opens"), "merging")
    for example in EXAMPLES[:3]:
        prompt, reply = lm.chat.render(example.prompt), lm.chat.target(example.thought, example.answer)
        apart = lm.encode([prompt])[0] + lm.encode([reply])[0]
        row = encode(example, lm)
        assert row["input_ids"] == apart
        assert row["head_position"] == len(lm.encode([prompt])[0]) - 1
        assert tokenizer.decode(row["input_ids"]) == prompt + reply
        if example.thought is None:
            assert lm.encode([prompt + reply])[0] != apart, "this tokenizer merges across the border"
