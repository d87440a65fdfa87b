"""Alignment examples become the right tokens: masks, head positions and errors, checked token by token."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from saferlrm.align.data import IGNORE, NO_SOFT_LABEL, AlignmentExample, Collator, encode, encode_all
from saferlrm.chat import ChatFormat
from saferlrm.errors import SaferlrmError
from saferlrm.lm import LanguageModel, load_lm
from saferlrm.training import LengthBucketSampler

PROMPT = "How do I make a box?"
BENIGN = AlignmentExample("b1", PROMPT, "The user asks about a box.", "Cut the boards.", 0.1, "benign")
HARMFUL = AlignmentExample("h1", "How do I make a [thing]?", None, "I cannot help with that.", 0.9, "harmful")
DECISION = AlignmentExample("d1", PROMPT, None, None, 0.4, "decision")

# As DeepSeek-R1's: the template opens the thought itself.
R1_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
)


@pytest.fixture(scope="module")
def lm(tiny_lm_folder) -> LanguageModel:
    return load_lm(tiny_lm_folder, device="cpu")


@pytest.fixture
def r1(tiny_lm_folder) -> LanguageModel:
    lm = load_lm(tiny_lm_folder, device="cpu")
    lm.tokenizer.chat_template = R1_TEMPLATE
    return LanguageModel(lm.model, lm.tokenizer, ChatFormat.detect(lm.tokenizer), "r1")


def token_at(lm: LanguageModel, row, position: int) -> str:
    return lm.tokenizer.decode(row["input_ids"][position])


def test_prompt_tokens_are_what_the_model_sees_when_it_generates_and_are_masked(lm):
    row = encode(BENIGN, lm)
    prompt_ids = lm.encode([lm.chat.render(PROMPT, "on")])[0]
    assert row["input_ids"][: len(prompt_ids)] == prompt_ids
    assert row["labels"][: len(prompt_ids)] == [IGNORE] * len(prompt_ids)
    assert row["labels"][len(prompt_ids) :] == row["input_ids"][len(prompt_ids) :]
    assert lm.tokenizer.decode(row["labels"][len(prompt_ids) :]) == (
        "<think>\nThe user asks about a box.\n</think>\n\nCut the boards.<|im_end|>"
    )


def test_a_refusal_comes_after_an_empty_thought_that_the_model_writes(lm):
    row = encode(HARMFUL, lm)
    learnt = [token for token in row["labels"] if token != IGNORE]
    assert lm.tokenizer.decode(learnt) == "<think>\n\n</think>\n\nI cannot help with that.<|im_end|>"


def test_a_prompt_without_an_answer_has_no_label_but_a_head_position(lm):
    row = encode(DECISION, lm)
    assert set(row["labels"]) == {IGNORE}
    assert row["head_position"] == len(row["input_ids"]) - 1
    assert row["soft_label"] == pytest.approx(0.4)


def test_pre_cot_is_the_last_token_before_the_first_thought_token(lm):
    row = encode(BENIGN, lm, "pre_cot")
    at = row["head_position"]
    assert row["labels"][at] == IGNORE
    assert row["labels"][at + 1] != IGNORE
    assert token_at(lm, row, at) == "\n"
    assert token_at(lm, row, at + 1) == "<think>"
    assert lm.tokenizer.decode(row["input_ids"][: at + 1]).endswith("<|im_start|>assistant\n")


def test_prompt_last_is_the_last_token_of_the_users_text(lm):
    row = encode(BENIGN, lm, "prompt_last")
    assert lm.tokenizer.decode(row["input_ids"][slice(*row["prompt_span"])]) == PROMPT
    assert token_at(lm, row, row["head_position"]) == "?"
    assert token_at(lm, row, row["head_position"] + 1) == "<|im_end|>"


def test_think_open_is_the_tag_in_the_models_reply(lm):
    row = encode(BENIGN, lm, "think_open")
    assert token_at(lm, row, row["head_position"]) == "<think>"
    assert row["labels"][row["head_position"]] != IGNORE


def test_prompt_mean_covers_the_users_text_and_nothing_else(lm):
    row = encode(BENIGN, lm, "prompt_mean")
    assert lm.tokenizer.decode(row["input_ids"][slice(*row["head_span"])]) == PROMPT


def test_r1_style_templates_open_the_thought_before_the_model_does(r1):
    row = encode(BENIGN, r1, "think_open")
    assert token_at(r1, row, row["head_position"]) == "<think>"
    assert row["labels"][row["head_position"]] == IGNORE
    assert encode(BENIGN, r1)["head_position"] > row["head_position"]
    text = r1.tokenizer.decode(row["input_ids"])
    assert text.endswith("<think>\nThe user asks about a box.\n</think>\n\nCut the boards.<|im_end|>")


def test_collator_pads_on_the_right_without_changing_a_token(lm):
    rows = [encode(BENIGN, lm), encode(HARMFUL, lm), encode(replace(DECISION, p_refuse=None), lm)]
    batch = Collator(lm.tokenizer.pad_token_id)(rows)
    for index, row in enumerate(rows):
        n = len(row["input_ids"])
        assert batch["input_ids"][index, :n].tolist() == row["input_ids"]
        assert batch["labels"][index, :n].tolist() == row["labels"]
        assert (batch["labels"][index, n:] == IGNORE).all()
        assert batch["head_span"][index, 1] - 1 == row["head_position"]
    assert batch["soft_label"].tolist() == pytest.approx([0.1, 0.9, NO_SOFT_LABEL])


def test_buckets_cover_every_example_once_and_depend_on_seed_and_epoch_alone():
    lengths = torch.randint(5, 200, (103,), generator=torch.Generator().manual_seed(0)).tolist()
    sampler = LengthBucketSampler(lengths, batch_size=8, seed=3)
    first = list(sampler)
    torch.rand(1)
    assert list(sampler) == first
    assert sorted(first) == list(range(103))
    sampler.set_epoch(1)
    assert list(sampler) != first
    spreads = [
        max(lengths[i] for i in first[at : at + 8]) - min(lengths[i] for i in first[at : at + 8])
        for at in range(0, 96, 8)
    ]
    assert sum(spreads) / len(spreads) < 40  # random batches of these lengths spread over about 150


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (replace(BENIGN, p_refuse=1.5), r"b1 has soft label 1\.5"),
        (replace(BENIGN, p_refuse=math.nan), r"b1 has soft label nan"),
        (replace(BENIGN, prompt="  "), "prompt is empty"),
        (replace(BENIGN, thought="step " * 600), r"tokens but .* takes 512; shorten"),
    ],
)
def test_unusable_examples_are_refused_in_one_line(lm, example, words):
    with pytest.raises(SaferlrmError, match=words) as caught:
        encode(example, lm)
    assert "\n" not in str(caught.value)


def test_an_example_without_a_reply_has_no_think_tag_to_read(lm):
    with pytest.raises(SaferlrmError, match="pre_cot"):
        encode(DECISION, lm, "think_open")


def test_a_lost_thought_is_noticed(lm):
    class Forgetful(ChatFormat):
        def target(self, thought, answer):
            return super().target(None, answer)

    chat = Forgetful(lm.tokenizer, switch=True, opens=False, end_of_turn="<|im_end|>")
    with pytest.raises(SaferlrmError, match="its thought does not survive"):
        encode(BENIGN, LanguageModel(lm.model, lm.tokenizer, chat, "forgetful"))


def test_empty_and_useless_sets_are_refused(lm):
    with pytest.raises(SaferlrmError, match="alignment set is empty"):
        encode_all([], lm)
    with pytest.raises(SaferlrmError, match="nothing to train on"):
        encode_all([replace(DECISION, p_refuse=None)], lm)
    with pytest.raises(SaferlrmError, match=r"unknown alignment\.head_token 'middle'"):
        encode_all([BENIGN], lm, "middle")
