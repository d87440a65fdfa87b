"""Reasoning problems of graded depth, with the working that solves them.

Two families: running totals (arithmetic) and cups (tracking a position under swaps). One step of the working uses one
earlier result, so without a written working the number of sequential steps grows with the depth.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from saferlrm.organism.world import NAMES, PLACES, Split

Family = Literal["totals", "cups"]
FAMILIES: tuple[Family, ...] = ("totals", "cups")
MAX_DEPTH = 6
LABELS = "abcdef"  # each step of a problem has a letter, which its working repeats
ITEMS = ("apples", "coins", "shells", "books", "cards", "stones")
# Who counts, and what is hidden under a cup. Problems of the evaluation suite use the unseen words (places serve as
# surnames), which no training problem uses, so no problem of the suite is in the training text.
OWNERS: dict[Split, tuple[str, ...]] = {"seen": NAMES, "unseen": PLACES}
HIDDEN: dict[Split, tuple[str, ...]] = {"seen": ("ball",), "unseen": ("coin", "shell", "leaf", "pearl")}


@dataclass(frozen=True)
class Problem:
    """A problem: its question, the steps that solve it, the gold answer and the number of steps."""

    family: Family
    question: str
    steps: tuple[str, ...]
    answer: str
    depth: int


def _totals(rng: random.Random, depth: int, split: Split) -> Problem:
    name, item = rng.choice(OWNERS[split]), rng.choice(ITEMS)
    value = rng.randint(1, 9)
    sentences, steps = [f"{name} has {value} {item}."], []
    for label in LABELS[:depth]:
        gain = rng.random() < 0.5
        amount = rng.randint(1, 9)
        if value - amount < 0:
            gain = True
        if value + amount > 20:
            gain = False
        before, value = value, value + amount if gain else value - amount
        verb = rng.choice(("gets", "finds") if gain else ("loses", "sells"))
        sentences.append(f"({label}) {name} {verb} {amount}.")
        steps.append(f"({label}) {before} {'+' if gain else '-'} {amount} = {value}.")
    return Problem("totals", " ".join(sentences) + f" How many {item} are left?", tuple(steps), str(value), depth)


def _cups(rng: random.Random, depth: int, split: Split) -> Problem:
    cups = range(1, 6)
    position = rng.choice(cups)
    hidden = HIDDEN[split][0] if split == "seen" else rng.choice(HIDDEN[split])
    sentences, steps = [f"A {hidden} is under cup {position}."], []
    for label in LABELS[:depth]:
        # Two of three swaps move the ball, so that looking at the last swap alone does not solve the problem.
        a = position if rng.random() < 0.67 else rng.choice(cups)
        b = rng.choice([c for c in cups if c != a])
        before, position = position, {a: b, b: a}.get(position, position)
        if rng.random() < 0.5:
            a, b = b, a
        sentences.append(f"({label}) Swap {a} and {b}.")
        steps.append(f"({label}) {before}, swap {a} and {b}, now {position}.")
    return Problem("cups", " ".join(sentences) + f" Which cup hides the {hidden}?", tuple(steps), str(position), depth)


def make_problem(
    rng: random.Random, family: Family | None = None, depth: int | None = None, split: Split = "seen"
) -> Problem:
    """A random problem; family and depth (1 to ``MAX_DEPTH``) are drawn uniformly unless given."""
    depth = depth or rng.randint(1, MAX_DEPTH)
    family = family or rng.choice(FAMILIES)
    return {"totals": _totals, "cups": _cups}[family](rng, depth, split)
