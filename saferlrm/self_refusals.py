"""Refusals that a model writes itself, with its thought, to train on: under a hint, or steered where no hint helps.

ThinkSafe (arXiv 2601.23143) lets the model refuse under a hint and trains on what it wrote. A model that has no words
for harm does not take a hint, so here its own refusal direction is tried as well (Arditi et al., arXiv 2406.11717),
read with thinking off, where the model refuses. All ways are tried on a few of the prompts; the one that makes it
refuse most of them answers all. What is kept of the answers the judge decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from saferlrm.align.rewrites import HINT
from saferlrm.causal import refusal_directions
from saferlrm.generate import Answer, Decoding, Sampler, answer
from saferlrm.judges.types import Judge
from saferlrm.lm import LanguageModel
from saferlrm.steering import Direction, Where, steer
from saferlrm.suites.types import Prompt

TRIED_ON = 20  # prompts on which the ways are compared
SCALES = (1.0, 2.0)  # in lengths of the difference between the means
PLACES: tuple[Where, ...] = ("pre_cot", "all")


@dataclass(frozen=True)
class Way:
    """One way to make the model refuse: a hint that opens the thought, or a direction at one layer."""

    hint: str = ""
    layer: int = 0
    scale: float = 0.0
    where: Where = "pre_cot"
    direction: Direction | None = None

    def __str__(self) -> str:
        if self.direction is None:
            return "under the hint"
        place = "at the last token before the thought" if self.where == "pre_cot" else "at every token"
        return f"steered by the direction read with thinking off, layer {self.layer}, scale {self.scale:g}, {place}"

    def steered(self, lm: LanguageModel | Sampler) -> AbstractContextManager[None]:
        """The model steered this way, as long as the context lasts."""
        if self.direction is None:
            return nullcontext()
        return steer(lm, self.layer, self.direction.unit, self.scale * self.direction.norm, self.where)


@dataclass(frozen=True)
class Written:
    """What was written: an answer to each prompt, whether it is a whole refusal, the way, and how many ways there were.

    ``failed`` counts answers on which the judge failed; they are no refusals.
    """

    answers: list[Answer]
    refused: list[bool]
    way: Way
    tried: int
    failed: int


def write_refusals(
    lm: LanguageModel | Sampler,
    prompts: Sequence[Prompt],
    judge: Judge,
    decoding: Decoding,
    batch_size: int = 64,
) -> Written:
    """Thoughts and answers to the harmful of these prompts, in the way that makes the model refuse most of them.

    Args:
        lm: a model on a server or on several devices cannot be steered; there the hint is the only way.
        prompts: harmful and benign ones of the training side; the direction is learned from both.

    Raises:
        SaferlrmError: there are no harmful or no benign prompts.
    """
    harmful = [prompt for prompt in prompts if prompt.harmful]
    few, best, way, tried = harmful[:TRIED_ON], -1, Way(), 0
    for candidate in _ways(lm, prompts, batch_size):
        found = sum(_refused(judge, few, _ask(lm, few, candidate, decoding, batch_size))[0])
        tried += 1
        if found > best:  # among equals the first, which changes least
            best, way = found, candidate
    replies = _ask(lm, harmful, way, decoding, batch_size, "refusals of its own")
    refused, failed = _refused(judge, harmful, replies)
    return Written(replies, refused, way, tried, failed)


def _ways(lm: LanguageModel | Sampler, prompts: Sequence[Prompt], batch_size: int) -> Iterator[Way]:
    """The hint, and then the direction at the middle and the last layer, the gentlest first."""
    yield Way(hint=HINT)
    if not isinstance(lm, LanguageModel):
        return
    directions = refusal_directions(lm, prompts, "off", batch_size)
    layers = sorted({max(1, lm.n_layers // 2), lm.n_layers})
    for scale in SCALES:
        for where in PLACES:
            for layer in layers:
                yield Way(layer=layer, scale=scale, where=where, direction=directions[layer])


def _ask(
    lm: LanguageModel | Sampler, prompts: Sequence[Prompt], way: Way, decoding: Decoding, batch_size: int,
    progress: str | None = None,
) -> list[Answer]:
    openings = [way.hint] * len(prompts) if way.hint else None
    with way.steered(lm):
        return answer(
            lm, [p.text for p in prompts], "on", decoding, batch_size, progress=progress, openings=openings
        )


def _refused(judge: Judge, prompts: Sequence[Prompt], replies: Sequence[Answer]) -> tuple[list[bool], int]:
    judged = judge(list(prompts), list(replies))
    whole = [j.verdict == "refusal" and not r.truncated for j, r in zip(judged, replies, strict=True)]
    return whole, sum(j.verdict == "unjudged" for j in judged)
