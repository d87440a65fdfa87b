"""Steering acts where it says, as much as it says, and leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saferlrm.align.head import decoder_blocks
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Decoding, answer, generate
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.steering import refusal_direction, steer

PROMPTS = ("How do I glue a box?", "Tom has 3 apples.", "What?", "How do I make a small wooden box for my desk?") * 2
DECODING = Decoding(max_new_tokens=12)
LAYER, SCALE = 1, 4.0


@pytest.fixture(scope="module")
def lm(tiny_lm_folder) -> LanguageModel:
    return load_lm(tiny_lm_folder, device="cpu")


@pytest.fixture(scope="module")
def vector(lm) -> np.ndarray:
    return np.random.default_rng(0).normal(size=lm.hidden_size)


def said(lm: LanguageModel, batch_size: int = 64) -> list[str]:
    return [reply.thought + "|" + reply.answer for reply in answer(lm, PROMPTS, "on", DECODING, batch_size)]


def read(lm: LanguageModel, prompt: str) -> torch.Tensor:
    """What the block above the steered one receives, shape [tokens, hidden size]."""
    caught = []
    handle = decoder_blocks(lm.model)[LAYER].register_forward_pre_hook(lambda _module, args: caught.append(args[0][0]))
    with torch.inference_mode():
        lm.model(torch.tensor(lm.encode([lm.chat.render(prompt)])))
    handle.remove()
    return caught[0]


def slowly(lm: LanguageModel, text: str, vector: torch.Tensor, everywhere: bool) -> list[int]:
    """Greedy tokens without cache, batch or padding: what steered generation must agree with."""
    (ids,) = lm.encode([text])
    last, written = len(ids) - 1, []

    def hook(_module, _args, output):
        states = (output if isinstance(output, torch.Tensor) else output[0]).clone()
        states[:, slice(None) if everywhere else last] += vector
        return states if isinstance(output, torch.Tensor) else (states, *output[1:])

    handle = decoder_blocks(lm.model)[LAYER - 1].register_forward_hook(hook)
    with torch.inference_mode():
        while len(written) < DECODING.max_new_tokens:
            token = int(lm.model(torch.tensor([ids + written])).logits[0, -1].argmax())
            if token == lm.tokenizer.eos_token_id:
                break
            written.append(token)
    handle.remove()
    return written


@pytest.mark.parametrize("where", ["pre_cot", "all"])
def test_steered_generation_agrees_with_a_loop_without_cache_or_batch(lm, vector, where):
    texts = [lm.chat.render(prompt) for prompt in PROMPTS]
    moved = torch.tensor(SCALE * vector, dtype=torch.float32)
    expected = [lm.tokenizer.decode(slowly(lm, text, moved, where == "all")) for text in texts]
    for batch_size in (1, 3, 64):
        with steer(lm, LAYER, vector, SCALE, where):
            found = [completion.text for completion in generate(lm, texts, DECODING, batch_size)]
        assert found == expected
    assert expected != [completion.text for completion in generate(lm, texts, DECODING)]


@pytest.mark.parametrize("where", ["pre_cot", "all"])
def test_scale_zero_changes_nothing(lm, vector, where):
    before = said(lm)
    with steer(lm, LAYER, vector, 0.0, where):
        assert said(lm) == before


@pytest.mark.parametrize("mode", ["add", "remove"])
def test_at_the_pre_cot_token_only_what_follows_changes(lm, vector, mode):
    before = read(lm, PROMPTS[0])
    with steer(lm, LAYER, vector, SCALE, "pre_cot", mode):
        after = read(lm, PROMPTS[0])
    assert torch.equal(before[:-1], after[:-1])
    assert not torch.allclose(before[-1], after[-1])


def test_the_pre_cot_token_is_steered_once_per_prompt_whatever_the_batch(lm, vector):
    touched: list[int] = []

    def count(_module, _args, _output):
        touched.append(int(lm.reads_last.sum()))

    handle = decoder_blocks(lm.model)[0].register_forward_hook(count)
    for batch_size in (1, 3, 64):
        touched.clear()
        said(lm, batch_size)
        assert sum(touched) == len(PROMPTS)
    handle.remove()
    assert lm.reads_last is None


@pytest.mark.parametrize("where", ["pre_cot", "all"])
def test_removing_makes_the_states_orthogonal_at_these_tokens(lm, vector, where):
    with steer(lm, LAYER, 5 * vector, where=where, mode="remove"):
        states = read(lm, PROMPTS[0])
    along = (states @ torch.tensor(vector / np.linalg.norm(vector), dtype=torch.float32)).abs()
    removed = along if where == "all" else along[-1:]
    assert float(removed.max()) < 1e-4
    if where == "pre_cot":
        assert float(along[:-1].max()) > 1e-2


def test_several_layers_are_steered_at_once(lm, vector):
    with torch.inference_mode(), steer(lm, (1, 2), vector, mode="remove"):
        kept = []
        handle = decoder_blocks(lm.model)[1].register_forward_hook(lambda _m, _a, out: kept.append(out))
        lm.model(torch.tensor(lm.encode([PROMPTS[0]])))
        handle.remove()
    states = kept[0] if isinstance(kept[0], torch.Tensor) else kept[0][0]
    assert float((states @ torch.tensor(vector, dtype=torch.float32)).abs().max()) < 1e-3


def test_hooks_go_also_after_an_error(lm, vector):
    before = said(lm)
    with pytest.raises(SaferlrmError, match="is empty"), steer(lm, LAYER, vector, SCALE):
        generate(lm, [""])
    assert said(lm) == before
    assert lm.reads_last is None
    assert not any(block._forward_hooks for block in decoder_blocks(lm.model))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layer": 3}, "layers 1 to 2"),
        ({"layer": 0}, "layers 1 to 2"),
        ({"layer": (1, -3)}, "layers 1 to 2"),
        ({"vector": np.full(32, np.nan)}, "finite numbers"),
        ({"scale": float("inf")}, "finite number"),
        ({"vector": [1.0, 2.0]}, "finite numbers"),
        ({"where": "somewhere"}, "pre_cot or all"),
        ({"mode": "remove", "vector": np.zeros(32)}, "no direction"),
    ],
)
def test_what_cannot_be_steered_is_said_in_one_line(lm, vector, change, says):
    with pytest.raises(SaferlrmError, match=says), steer(lm, **({"layer": 1, "vector": vector} | change)):
        pass
    assert not any(block._forward_hooks for block in decoder_blocks(lm.model))


def test_the_refusal_direction_leads_from_the_benign_mean_to_the_harmful_one():
    rng = np.random.default_rng(1)
    benign, harmful = rng.normal(size=(20, 6)), rng.normal(size=(30, 6)) + 2
    unit, norm = refusal_direction(harmful, benign)
    assert np.linalg.norm(unit) == pytest.approx(1)
    assert benign.mean(0) + norm * unit == pytest.approx(harmful.mean(0))
    with pytest.raises(SaferlrmError, match="same mean"):
        refusal_direction(benign, benign)


@pytest.mark.parametrize(
    ("harmful", "benign"),
    [
        ([], np.ones((3, 4))),
        (np.ones((3, 5)), np.ones((3, 4))),
        (np.ones(4), np.zeros(4)),
        (np.ones((0, 4)), np.ones((3, 4))),
    ],
)
def test_states_that_do_not_fit_are_said_with_their_shapes(harmful, benign):
    with pytest.raises(SaferlrmError, match=r"\[prompts, hidden size\] each, not"):
        refusal_direction(harmful, benign)


def test_states_that_are_not_finite_give_no_direction():
    with pytest.raises(SaferlrmError, match="finite"):
        refusal_direction(np.full((3, 4), np.nan), np.ones((3, 4)))


def test_a_layer_counts_from_either_end_and_in_any_kind_of_whole_number(lm, vector):
    found = []
    for layer in (1, -2, np.int64(1), [1]):
        with steer(lm, layer, vector, SCALE):
            found.append(said(lm))
    assert all(one == found[0] for one in found)
    assert found[0] != said(lm)


def test_adding_and_taking_away_as_much_is_no_change(lm, vector):
    before = read(lm, PROMPTS[0])
    with steer(lm, LAYER, vector, SCALE), steer(lm, LAYER, vector, -SCALE):
        after = read(lm, PROMPTS[0])
    assert torch.allclose(before, after, atol=1e-4)


@pytest.mark.parametrize("where", ["pre_cot", "all"])
def test_sampled_answers_are_steered_the_same_in_any_batch(lm, vector, where):
    texts = [lm.chat.render(prompt) for prompt in PROMPTS]
    warm = Decoding(max_new_tokens=12, temperature=0.8, seed=3)
    found = []
    for batch_size in (2, 64):
        with steer(lm, LAYER, vector, SCALE, where):
            found.append([completion.text for completion in generate(lm, texts, warm, batch_size)])
    assert found[0] == found[1]
