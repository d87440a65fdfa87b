"""From alignment examples to token tensors, with every assumption about tokens asserted.

The text of an example is ``render(prompt, "on") + target(thought, answer)``. The two parts are tokenised on
their own and joined, because that is what the model sees when it generates: the prompt's tokens are given,
and the reply starts a token of its own. Tokenising the joined text can merge across the border
(``<think>\\n`` + ``\\n`` is one token in some vocabularies), and then the last token before the chain of
thought would not be there at inference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

import torch

from saferlrm.errors import SaferlrmError
from saferlrm.lm import LanguageModel
from saferlrm.profile import HeadToken

Source = Literal["harmful", "benign", "decision"]

IGNORE = -100  # label of positions that carry no next-token loss (the transformers convention)
NO_SOFT_LABEL = -1.0  # stands for "this example has no soft label" inside tensors


@dataclass(frozen=True)
class AlignmentExample:
    """One conversation of the alignment set.

    Attributes:
        id: unique within the set.
        prompt: what the user types.
        thought: the chain of thought to learn; ``None`` trains an empty thought (refusal before any
            thinking).
        answer: the answer to learn; ``None`` for prompts that carry a safety decision only.
        p_refuse: soft label of the auxiliary head, the probability of a refusal; ``None`` for no label.
        source: ``harmful`` (refusal), ``benign`` (the model's own thought and answer) or ``decision`` (no
            answer).
        open_thought: the thought is learned, but not its end and nothing after it; ``answer`` must be ``None``.
    """

    id: str
    prompt: str
    thought: str | None
    answer: str | None
    p_refuse: float | None
    source: Source
    open_thought: bool = False


class Encoded(TypedDict):
    """One tokenised example: ids and labels of equal length, and the tokens [start, end) that each head reads."""

    input_ids: list[int]
    labels: list[int]
    head_span: tuple[int, int]
    second_span: tuple[int, int] | None
    head_position: int
    prompt_span: tuple[int, int]
    soft_label: float


def encode(example: AlignmentExample, lm: LanguageModel, head_token: HeadToken = "pre_cot") -> Encoded:
    """Tokenise an example and find the head's token in it.

    Returns:
        ``input_ids`` and ``labels`` (the prompt is masked with -100; all of it if there is no answer),
        ``head_span`` (tokens whose mean the head reads; one token unless ``head_token`` is a mean),
        ``second_span`` (those of the second head of ``dual_mean``, else ``None``), ``head_position`` (the last token of
        ``head_span``), ``prompt_span`` (tokens of the user's text) and ``soft_label`` (-1 where the example has none).

    Raises:
        SaferlrmError: empty prompt, label outside [0, 1], lost thought, unusable head token, or too many
            tokens.
    """
    if not example.prompt.strip():
        raise SaferlrmError(f"example {example.id}: the prompt is empty; remove it from the alignment set")
    rendered = lm.chat.render(example.prompt, "on")
    prompt_ids, offsets = _tokenise(lm, rendered)
    target = _target(example, lm)
    target_ids, target_offsets = _tokenise(lm, target)
    input_ids = prompt_ids + target_ids
    _check_length(example, lm, len(input_ids))
    if target:
        _check_survival(example, lm, target_ids)

    first, last = lm.chat.prompt_span(example.prompt, "on")
    prompt_span = _tokens_between(offsets, first, last)
    if prompt_span is None:
        raise SaferlrmError(f"example {example.id}: no token belongs to the user's text; reword it")
    second_span = None
    if head_token == "dual_mean":
        understood = _understanding(example, len(prompt_ids), target, target_offsets)
        head_span, second_span = (prompt_span[0], understood[1]), understood
    else:
        head_span = _head_span(example, lm, head_token, rendered, offsets, target, target_offsets, prompt_span)
    return Encoded(
        input_ids=input_ids,
        labels=[IGNORE] * len(prompt_ids) + target_ids,
        head_span=head_span,
        second_span=second_span,
        head_position=head_span[1] - 1,
        prompt_span=prompt_span,
        soft_label=_checked_label(example),
    )


def encode_all(
    examples: Sequence[AlignmentExample], lm: LanguageModel, head_token: HeadToken = "pre_cot"
) -> list[Encoded]:
    """Encode a whole alignment set; an empty one, or one with nothing to learn from, is an error."""
    if not examples:
        raise SaferlrmError("the alignment set is empty; raise alignment.n_harmful or alignment.n_benign")
    if head_token not in get_args(HeadToken):
        choices = ", ".join(get_args(HeadToken))
        raise SaferlrmError(f"unknown alignment.head_token {head_token!r}; choose one of {choices}")
    if all(example.answer is None and example.p_refuse is None and not example.open_thought for example in examples):
        raise SaferlrmError("no example has an answer or a soft label; there is nothing to train on")
    return [encode(example, lm, head_token) for example in examples]


class Collator:
    """Pad encoded examples on the right into a batch of tensors.

    No attention mask is made: with causal attention a real token never sees the padding on its right, padded
    positions carry no loss, and attention without a mask is faster. ``input_ids`` and ``labels`` are int64
    [batch, length], ``head_span`` int64 [batch, 2], or [batch, 2, 2] for two heads, ``soft_label`` float32 [batch].
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        length = max(len(row["input_ids"]) for row in rows)
        input_ids = torch.full((len(rows), length), self.pad_token_id, dtype=torch.long)
        labels = torch.full((len(rows), length), IGNORE, dtype=torch.long)
        for index, row in enumerate(rows):
            input_ids[index, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
            labels[index, : len(row["labels"])] = torch.tensor(row["labels"])
        pairs = [(row["head_span"], row["second_span"]) for row in rows]
        spans = [first if second is None else (first, second) for first, second in pairs]
        return {
            "input_ids": input_ids,
            "labels": labels,
            "head_span": torch.tensor(spans),
            "soft_label": torch.tensor([row["soft_label"] for row in rows], dtype=torch.float32),
        }


def _target(example: AlignmentExample, lm: LanguageModel) -> str:
    """What the model is to write after the prompt; empty for a decision without an answer."""
    if not example.open_thought:
        return "" if example.answer is None else lm.chat.target(example.thought, example.answer)
    if not (example.thought or "").strip() or example.answer is not None:
        raise SaferlrmError(f"example {example.id}: an open thought needs a thought and no answer; mend the example")
    return lm.chat.render_opened(example.prompt, example.thought).removeprefix(lm.chat.render(example.prompt, "on"))


def _understanding(
    example: AlignmentExample, n_prompt: int, target: str, target_offsets: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """Tokens of the first sentence of the thought, in which a model says what it has understood."""
    first = first_sentence(example.thought or "")
    at = target.find(first) if first else -1
    span = None if at < 0 else _tokens_between(target_offsets, at, at + len(first))
    if span is None:
        raise SaferlrmError(
            f"example {example.id} has no thought for the second head; set alignment.head_token=pre_cot"
        )
    return n_prompt + span[0], n_prompt + span[1]


def first_sentence(text: str) -> str:
    """The first sentence of a text."""
    return re.split(r"(?<=[.?!])\s", text.strip(), maxsplit=1)[0]


def _tokenise(lm: LanguageModel, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    if not text:
        return [], []
    try:
        encoded = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError as error:
        raise SaferlrmError(f"{lm.name} has a tokenizer without character offsets; use a fast one") from error
    return list(encoded["input_ids"]), list(encoded["offset_mapping"])


def _tokens_between(offsets: Sequence[tuple[int, int]], first: int, last: int) -> tuple[int, int] | None:
    """Tokens that overlap the characters [first, last)."""
    inside = [index for index, (start, end) in enumerate(offsets) if start < last and end > first]
    return (inside[0], inside[-1] + 1) if inside else None


def _head_span(
    example: AlignmentExample,
    lm: LanguageModel,
    head_token: HeadToken,
    rendered: str,
    offsets: Sequence[tuple[int, int]],
    target: str,
    target_offsets: Sequence[tuple[int, int]],
    prompt_span: tuple[int, int],
) -> tuple[int, int]:
    if head_token == "pre_cot":
        return len(offsets) - 1, len(offsets)
    if head_token == "prompt_last":
        return prompt_span[1] - 1, prompt_span[1]
    if head_token == "prompt_mean":
        return prompt_span
    # The thought is opened by the template (R1 style) or by the model in the first tokens of its reply
    # (Qwen3 style).
    tag = lm.chat.think_open
    in_render = rendered.rfind(tag, lm.chat.prompt_span(example.prompt, "on")[1])
    shift, span = 0, None
    if in_render >= 0:
        span = _tokens_between(offsets, in_render, in_render + len(tag))
    elif target.startswith(tag):
        shift, span = len(offsets), _tokens_between(target_offsets, 0, len(tag))
    if span is None:
        raise SaferlrmError(
            f"example {example.id}: no {tag} to read at; set alignment.head_token=pre_cot or add an answer"
        )
    return shift + span[1] - 1, shift + span[1]


def _check_length(example: AlignmentExample, lm: LanguageModel, n_tokens: int) -> None:
    limit = getattr(lm.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and n_tokens > limit:
        raise SaferlrmError(
            f"example {example.id} has {n_tokens} tokens but {lm.name} takes {limit}; shorten or remove it"
        )


def _check_survival(example: AlignmentExample, lm: LanguageModel, target_ids: list[int]) -> None:
    """The thought and the answer must be in what the model is trained on, not only in what was asked for."""
    text = lm.tokenizer.decode(target_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    flat = " ".join(text.split())
    for name, part in (("thought", example.thought), ("answer", example.answer)):
        if part and " ".join(part.split()) not in flat:
            raise SaferlrmError(
                f"example {example.id}: its {name} does not survive the template and tokenizer of {lm.name}; "
                "choose a model whose template keeps the assistant's text"
            )


def _checked_label(example: AlignmentExample) -> float:
    if example.p_refuse is None:
        return NO_SOFT_LABEL
    value = float(example.p_refuse)
    if math.isnan(value) or not 0.0 <= value <= 1.0:
        raise SaferlrmError(f"example {example.id} has soft label {value}; it must lie in [0, 1]")
    return value
