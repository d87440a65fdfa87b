"""Hidden states are those of transformers, at the tokens that were named, in constant memory."""

import os

import numpy as np
import psutil
import pytest
import torch

from saferlrm.activations import extract, locate
from saferlrm.errors import SaferlrmError
from saferlrm.lm import load_lm

PROMPTS = [
    "How do I make a box?",
    "Hi",
    "What is the sum of 12 and 30?",
    "Tell me about glue, boards and a desk.",
]
THOUGHTS = [
    "I should think about it.",
    "No.",
    "12 and 30 is 42.",
    "The user asks about a thing. Step by step.",
]


@pytest.fixture(scope="module")
def lm(tiny_lm_folder):
    return load_lm(tiny_lm_folder, device="cpu")


def test_states_are_those_of_an_unbatched_forward_pass(lm):
    positions = ["prompt_last", "pre_cot", "thought:0.5", "thought:1"]
    found = extract(lm, PROMPTS, positions, thoughts=THOUGHTS, batch_size=3)
    assert found.shape == (4, 4, lm.n_layers + 1, lm.hidden_size)
    for i, prompt in enumerate(PROMPTS):
        place = locate(lm, prompt, positions, THOUGHTS[i])
        with torch.no_grad():
            out = lm.model(torch.tensor([place.ids]), output_hidden_states=True)
        expected = torch.stack([layer[0, place.index] for layer in out.hidden_states], dim=1)
        np.testing.assert_allclose(found[i], expected.numpy(), atol=2e-5)


def test_positions_are_the_tokens_they_name(lm):
    place = locate(lm, "Make a box", ["prompt_last", "pre_cot", "thought:0", "thought:1"], "Think.")
    decode = lambda upto: lm.tokenizer.decode(place.ids[: upto + 1])  # noqa: E731
    assert decode(place.index[0]).endswith("Make a box")
    assert decode(place.index[1]) == lm.chat.render("Make a box", "on")
    assert place.index[2] == place.index[1]
    assert decode(place.index[3]).endswith("<think>\nThink.")


def test_chosen_layers_come_in_the_order_asked_for(lm):
    every, some = extract(lm, PROMPTS), extract(lm, PROMPTS, layers=[2, 0])
    np.testing.assert_array_equal(some, every[:, :, [2, 0]])


def test_a_file_holds_the_same_states_and_appears_only_when_complete(lm, tmp_path):
    out = tmp_path / "states.npy"
    found = extract(lm, PROMPTS, out=out, batch_size=2)
    np.testing.assert_array_equal(found, extract(lm, PROMPTS, batch_size=2))
    assert isinstance(found, np.memmap)
    assert [file.name for file in tmp_path.iterdir()] == ["states.npy"]
    with pytest.raises(SaferlrmError, match="unknown position"):
        extract(lm, PROMPTS, positions=["nowhere"], out=tmp_path / "broken.npy")
    assert not (tmp_path / "broken.npy").exists()


def test_memory_does_not_grow_with_the_number_of_prompts(lm, tmp_path, monkeypatch):
    """3,000 prompts fill a 23 MB file; the process must not hold it."""
    extract(lm, PROMPTS * 50, out=tmp_path / "warm.npy", batch_size=50)
    process = psutil.Process(os.getpid())
    seen: list[int] = []
    load = np.load

    def watched(*args, **kwargs):
        seen.append(process.memory_info().rss)
        return load(*args, **kwargs)

    monkeypatch.setattr(np, "load", watched)
    growth = {}
    for times in (75, 750):
        seen[:] = [process.memory_info().rss]
        extract(lm, PROMPTS * times, ["pre_cot"] * 20, out=tmp_path / f"{times}.npy", batch_size=50)
        growth[times] = max(seen) - seen[0]
    assert (tmp_path / "750.npy").stat().st_size > 20e6
    assert growth[750] - growth[75] < 8e6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [3]}, "from 0 to 2"),
        ({"positions": ["thought:0.5"]}, "needs the thoughts"),
        ({"positions": ["thought:2"], "thoughts": THOUGHTS}, "unknown position"),
        ({"thoughts": ["one"]}, "one for each"),
    ],
)
def test_bad_requests_say_what_to_do(lm, options, message):
    with pytest.raises(SaferlrmError, match=message):
        extract(lm, PROMPTS, **options)


def test_long_prompts_and_broken_weights_are_refused(lm, tiny_lm_folder):
    with pytest.raises(SaferlrmError, match="shorten"):
        extract(lm, ["box " * 600])
    broken = load_lm(tiny_lm_folder, device="cpu")
    with torch.no_grad():
        broken.model.model.layers[1].mlp.up_proj.weight.fill_(float("nan"))
    with pytest.raises(SaferlrmError, match="not finite"):
        extract(broken, PROMPTS)
