"""Checking answers to problems of mathematics: right, wrong, or not known.

`check` finds the final answer in a text, by ``\\boxed{}``, ``#### 42`` or "the answer is", and compares it with the
gold answer: exact rational numbers (thousands separators, currency, percent, units, fractions, mixed numbers), then
letters of multiple choice, words, lists, tuples, intervals and matrices, part by part, and any other LaTeX by
math-verify (:mod:`saferlrm.maths.symbolic`). Where that leaves doubt the result is None, never a guess: no final
answer, another unit, a rounded value, another number base, or what cannot be parsed. `explain` says which of these,
and `tally` counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from saferlrm.maths.compare import compare, is_bare
from saferlrm.maths.extract import boxes, final_answer, inner, marked
from saferlrm.maths.values import clean, parts, words

__all__ = ["Checked", "Tally", "check", "explain", "final_answer", "tally"]

LIMIT_CHARACTERS = 2000  # a final answer is not longer


@dataclass(frozen=True)
class Checked:
    """What `explain` found: the verdict, the answer that was compared, and the reason where it is unsure."""

    verdict: bool | None
    answer: str | None
    why: str = ""


@dataclass(frozen=True)
class Tally:
    """Counts of verdicts; ``reasons``: how often each reason left one open."""

    n: int
    correct: int
    wrong: int
    unsure: int
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def unsure_rate(self) -> float:
        return self.unsure / self.n if self.n else 0.0


def check(answer: str, gold: str, last_number: bool = False) -> bool | None:
    """Whether a text answers a problem correctly; None if that cannot be told.

    Args:
        answer: the whole answer of a model, or the bare value.
        gold: the known answer, bare or as a solution that ends in ``#### 42`` or holds a ``\\boxed{}``.
        last_number: take the last number of a text that marks no final answer.
    """
    return explain(answer, gold, last_number).verdict


def explain(answer: str, gold: str, last_number: bool = False) -> Checked:
    """As `check`, with the answer that was found and the reason why it stays open."""
    wanted = marked(gold)
    wanted = clean(gold if wanted is None else wanted)
    found = _found(answer, wanted, last_number)
    if found is None or not clean(found):
        return Checked(None, None, "no final answer")
    if max(len(found), len(wanted)) > LIMIT_CHARACTERS:
        return Checked(None, found[:100], "too long to compare")
    try:
        verdict, why = compare(clean(found), wanted)
        composed, boxed = parts(wanted), boxes(answer)
        if verdict is False and composed and composed[0] == "list" and len(boxed) >= len(composed[1]):
            # "x is \\boxed{1} or \\boxed{2}": each part in a box of its own.
            together = ", ".join(boxed[-len(composed[1]) :])
            if compare(clean(together), wanted)[0]:
                return Checked(True, together)
    except RecursionError:
        return Checked(None, found[:100], "too deeply nested to compare")
    return Checked(verdict, found, why)


def tally(checked: Iterable[Checked | bool | None]) -> Tally:
    """Count verdicts: an accuracy without its unsure rate says too much."""
    rows = [one if isinstance(one, Checked) else Checked(one, None) for one in checked]
    reasons = Counter(one.why or "not said" for one in rows if one.verdict is None)
    correct, wrong = (sum(one.verdict is value for one in rows) for value in (True, False))
    return Tally(len(rows), correct, wrong, len(rows) - correct - wrong, dict(reasons.most_common()))


def _found(answer: str, wanted: str, last_number: bool) -> str | None:
    if marked(answer) is not None:
        return final_answer(answer)
    found = final_answer(answer)
    if found is None and "\n" not in answer.strip() and len(answer) <= 100 and "\\boxed" not in answer:
        found = answer if is_bare(clean(answer)) else None  # a bare value is its own final answer
    if found is not None and not is_bare(clean(found)) and words(wanted) is None:
        found = inner(found)  # "the answer is that she makes $18$ a day"
    return final_answer(answer, last_number) if found is None and last_number else found
