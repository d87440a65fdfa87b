"""Asking a model many prompts: thinking modes, prefilled thoughts, and what to do where memory runs out.

Weights in this process decode in batches (:mod:`saferlrm.batching`); several devices (:mod:`saferlrm.devices`) and
servers (:mod:`saferlrm.server`) are asked through the same two functions.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from saferlrm.batching import Batch, context_length, end_ids
from saferlrm.chat import ChatFormat, ThinkingMode
from saferlrm.errors import SaferlrmError
from saferlrm.lm import LanguageModel
from saferlrm.placement import out_of_memory
from saferlrm.progress import track
from saferlrm.store import say


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: most tokens of one completion, thought included.
        temperature: 0 is greedy.
        top_p, top_k: keep the smallest set of likeliest tokens with mass ``top_p``, at most ``top_k`` (0:
            all).
        seed: of the sampling; each prompt has random numbers of its own, so its completion does not depend on
            the others.
        forced_thought_tokens: budget forcing (s1, arXiv 2501.19393): an end of thought before this many
            tokens is replaced by ``wait``. 0: never.
        wait: the text that replaces it.
        max_waits: most replacements in one completion (10 as in SafeChain's MoreThink, arXiv 2502.12025).
    """

    max_new_tokens: int = 160
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    forced_thought_tokens: int = 0
    wait: str = "Wait,"
    max_waits: int = 10

    def __post_init__(self) -> None:
        for key, good, allowed in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("forced_thought_tokens", self.forced_thought_tokens >= 0, "0 or more"),
            ("max_waits", self.max_waits >= 0, "0 or more"),
        ):
            if not good:
                raise SaferlrmError(f"decoding: {key} is {getattr(self, key)!r}; it must be {allowed}")


@dataclass(frozen=True)
class Completion:
    """What the model wrote: text without the end-of-turn token, number of tokens with it, and whether it
    never came.
    """

    text: str
    n_tokens: int
    truncated: bool


@dataclass(frozen=True)
class Answer:
    """A completion taken apart into thought and answer; see :class:`saferlrm.chat.Reply`."""

    prompt: str
    mode: ThinkingMode
    thought: str
    answer: str
    closed: bool
    n_thought_tokens: int
    n_tokens: int
    truncated: bool


class Sampler(Protocol):
    """What else can sample: several devices (:mod:`saferlrm.devices`) or a server (:mod:`saferlrm.server`)."""

    chat: ChatFormat
    name: str

    def encode(self, texts: list[str]) -> list[list[int]]: ...

    def complete(
        self, texts: Sequence[str], decoding: Decoding, batch_size: int, progress: str | None
    ) -> list[Completion]: ...


def answer(
    lm: LanguageModel | Sampler,
    prompts: Sequence[str],
    mode: ThinkingMode,
    decoding: Decoding = Decoding(),
    batch_size: int = 64,
    progress: str | None = None,
    openings: Sequence[str] | None = None,
) -> list[Answer]:
    """Ask every prompt in one thinking mode. Budget forcing is used in the mode ``forced`` alone.

    Args:
        openings: how the thought of each prompt begins (a prefilled thought), in the modes ``on`` and ``forced``; an
            empty one leaves the thought to the model. The opening is part of the reply's thought.

    Raises:
        SaferlrmError: forcing without a budget, or openings where there is no thought to open.
    """
    if mode != "forced":
        decoding = replace(decoding, forced_thought_tokens=0)
    elif decoding.forced_thought_tokens == 0:
        raise SaferlrmError("the mode forced needs decoding.forced_thought_tokens above 0")
    if openings is not None and (mode in ("off", "short") or len(openings) != len(prompts)):
        raise SaferlrmError(f"openings need the mode on or forced and one opening a prompt, not {mode!r}")
    openings = openings or [""] * len(prompts)
    texts = [
        lm.chat.render_opened(prompt, opening) if opening.strip() else lm.chat.render(prompt, mode)
        for prompt, opening in zip(prompts, openings, strict=True)
    ]
    completions = generate(lm, texts, decoding, batch_size, progress)
    begun = [f"{lm.chat.think_open}\n{opening.strip()}" if opening.strip() else "" for opening in openings]
    replies = [lm.chat.split(b + done.text, mode) for b, done in zip(begun, completions, strict=True)]
    thought_ids = lm.encode([reply.thought for reply in replies])
    return [
        Answer(prompt, mode, reply.thought, reply.answer, reply.closed, len(ids), done.n_tokens, done.truncated)
        for prompt, reply, ids, done in zip(prompts, replies, thought_ids, completions, strict=True)
    ]


def generate(
    lm: LanguageModel | Sampler,
    texts: Sequence[str],
    decoding: Decoding = Decoding(),
    batch_size: int = 64,
    progress: str | None = None,
) -> list[Completion]:
    """Complete rendered texts (see ``ChatFormat.render``); completions come in the order of ``texts``.

    Where memory runs out, half as many rows are in flight from there on: completions do not depend on the batch.

    Args:
        batch_size: rows in flight at once.
        progress: description for a progress bar, or ``None`` for none.

    Raises:
        SaferlrmError: a text is empty or fills the model's context, budget forcing meets a template whose end of
            thought is not one token, or memory does not suffice for a single row.
    """
    if batch_size < 1:
        raise SaferlrmError(f"batch_size is {batch_size}; it must be at least 1")
    complete = getattr(lm, "complete", None)
    if complete is not None:
        return complete(texts, decoding, batch_size, progress)
    ids = lm.encode(list(texts))
    check_lengths(ids, context_length(lm))
    return complete_ids(lm, ids, sampling_keys(texts, decoding.seed), decoding, batch_size, progress)


def complete_ids(
    lm: LanguageModel,
    ids: list[list[int]],
    keys: list[int],
    decoding: Decoding,
    batch_size: int = 64,
    progress: str | None = None,
) -> list[Completion]:
    """:func:`generate` for token ids that are checked, with the random key of each."""
    out: dict[int, list[int]] = {}
    finished = _finished(lm, ids, keys, decoding, batch_size)
    for row, tokens in track(finished, progress, total=len(ids)) if progress else finished:
        out[row] = tokens
    ends = end_ids(lm)
    closed = [out[row][-1] in ends for row in range(len(ids))]
    written = lm.tokenizer.batch_decode(
        [out[row][:-1] if closed[row] else out[row] for row in range(len(ids))],
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )
    return [Completion(written[row], len(out[row]), not closed[row]) for row in range(len(ids))]


def check_lengths(ids: Sequence[Sequence[int]], context: int) -> None:
    """Every prompt has a token and leaves room for one more.

    Raises:
        SaferlrmError: the number of the first prompt that does not, and the limit.
    """
    for i, row in enumerate(ids, 1):
        if not row:
            raise SaferlrmError(f"prompt {i} of {len(ids)} is empty; render prompts with ChatFormat.render")
        if len(row) >= context:
            raise SaferlrmError(
                f"prompt {i} of {len(ids)} has {len(row)} tokens, the model holds {context}; shorten it or leave it out"
            )


def sampling_keys(texts: Sequence[str], seed: int) -> list[int]:
    """One random key per text from seed, text and how often the text came before: order and company do not
    matter.
    """
    seen: Counter[str] = Counter()
    keys = []
    for text in texts:
        digest = hashlib.sha256(f"{seed}\x00{seen[text]}\x00{text}".encode()).digest()
        keys.append(int.from_bytes(digest[:16], "little"))
        seen[text] += 1
    return keys


def _finished(
    lm: LanguageModel, ids: list[list[int]], keys: list[int], decoding: Decoding, rows: int
) -> Iterator[tuple[int, list[int]]]:
    """Yield (index of the text, its new tokens) as rows end, with fewer rows in flight where memory runs out."""
    waiting = list(range(len(ids)))
    while waiting:
        done = set()
        try:
            batch = Batch(lm, [ids[i] for i in waiting], [keys[i] for i in waiting], decoding, context_length(lm))
            for i, tokens in batch.run(rows):
                done.add(i)
                yield waiting[i], tokens
            return
        except (RuntimeError, MemoryError) as problem:
            if not out_of_memory(problem):
                raise
        # Here, not above: while the error is handled, its traceback keeps the batch in memory.
        batch = None
        waiting = [i for k, i in enumerate(waiting) if k not in done]
        rows = min(rows, len(waiting))
        if rows == 1:
            longest = max(len(ids[i]) for i in waiting)
            raise SaferlrmError(
                f"out of memory with a single prompt of up to {longest} tokens; set decoding.max_new_tokens lower, "
                "dtype to bfloat16, loading.quantization to 4bit, or loading.device_map to auto (several GPUs)"
            )
        _say_once(f"out of memory with {rows} rows in flight: half as many go on; set decoding.batch_size lower")
        rows //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@functools.cache
def _say_once(line: str) -> None:
    say(line)
