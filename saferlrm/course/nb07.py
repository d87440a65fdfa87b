"""Exercises of notebook 07, controls and ablations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from saferlrm.course.exercise import Case, Exercise, Mistake


def _shuffle_property(attempt: Callable[..., Any]) -> str | None:
    """Examples stay, labels are the same ones in another order, the seed decides."""
    examples, labels = [f"prompt {i}" for i in range(40)], [round(i / 39, 3) for i in range(40)]
    orders = []
    for seed in range(4):
        mine, yours = list(examples), list(labels)
        found = attempt(mine, yours, seed)
        if (mine, yours) != (examples, labels):
            return (
                "the caller's own list was shuffled in place: the next control trained from it gets these labels, too. "
                "Shuffle a copy."
            )
        if not (isinstance(found, tuple | list) and len(found) == 2):
            return "it should return two lists, examples and labels."
        kept, dealt = map(list, found)
        if sorted(kept) != sorted(examples) or len(dealt) != len(labels):
            return "the examples must all be there, once each, with one label for each."
        if sorted(dealt) != sorted(labels):
            return (
                "the labels must be the same ones as before, so that their balance stays; they may only change "
                "places."
            )
        fitting = sum(dealt[kept.index(example)] == label for example, label in zip(examples, labels, strict=True))
        if fitting > 20:
            return (
                f"with seed {seed}, {fitting} of {len(examples)} labels still stand beside their own example: the "
                "control changes nothing. Shuffle the labels, not the pairs."
            )
        orders.append(tuple(dealt[kept.index(example)] for example in examples))
    if len(set(orders)) == 1:
        return "four seeds deal the labels out in the same way; use `seed`."
    again = attempt(list(examples), list(labels), 0)
    if list(again[1]) != list(attempt(list(examples), list(labels), 0)[1]):
        return "the same seed deals the labels out differently each time; use random.Random(seed)."
    return None


def _p_values() -> list[Case]:
    return [
        Case((np.array([0.01, 0.04, 0.03]),)),
        Case((np.array([0.04, 0.001, 0.05, 0.02]),), "not in order"),
        Case((np.array([0.9, 0.8, 0.5]),), "nothing there"),
        Case((np.array([0.03]),), "a single comparison"),
        Case((np.array([0.02, 0.021, 0.5, 0.022]),), "values close together"),
    ]


def _reference_holm(p: np.ndarray) -> np.ndarray:
    from statsmodels.stats.multitest import multipletests

    return multipletests(p, method="holm")[1]


def comparisons(rows: list[tuple[float, float]]) -> pd.DataFrame:
    """Intervals of differences."""
    return pd.DataFrame(rows, columns=["low", "high"]).assign(difference=lambda t: (t["low"] + t["high"]) / 2)


def _intervals() -> list[Case]:
    return [
        Case((comparisons([(-0.1, 0.1), (0.01, 0.2), (-0.2, -0.01), (-0.3, 0.02)]),)),
        Case((comparisons([(0.0, 0.1), (-0.1, 0.0)]),), "intervals that end at 0"),
        Case((comparisons([(0.1, 0.2), (-0.4, -0.3), (0.2, 0.3)]),), "all are apart"),
        Case((comparisons([(-0.08, 0.004), (-0.02, 0.05), (0.1, 0.3)]),), "one nearly apart"),
    ]


EXERCISES = (
    Exercise(
        id="07.1",
        kind="find the bug",
        title="Shuffled labels that are not shuffled",
        stars=2,
        minutes=10,
        function="shuffled_labels",
        statement="""
        The control *shuffled labels* needs the same examples and the same labels, dealt out at random. This function
        shuffles, and still its control would do exactly as well as the method. Mend it.
        """,
        hint="Which label stands beside `prompt 0` before and after?",
        imports=("import random",),
        starter='''
        def shuffled_labels(examples: list[str], labels: list[float], seed: int) -> tuple[list[str], list[float]]:
            """The same examples and labels, with the labels dealt out at random."""
            pairs = list(zip(examples, labels, strict=True))
            random.Random(seed).shuffle(pairs)
            return [example for example, _ in pairs], [label for _, label in pairs]
        ''',
        solution='''
        def shuffled_labels(examples: list[str], labels: list[float], seed: int) -> tuple[list[str], list[float]]:
            """The same examples and labels, with the labels dealt out at random."""
            dealt = list(labels)
            random.Random(seed).shuffle(dealt)
            return examples, dealt
        ''',
        learned="A control that changes nothing confirms everything. Check what a control takes away (the "
        "correlation of "
        "labels and examples) and what it must keep (their balance) before you train it.",
        property=_shuffle_property,
        mistakes=(
            Mistake(
                """
                def shuffled_labels(examples, labels, seed):
                    random.Random(seed).shuffle(labels)
                    return examples, labels
                """,
                "Shuffle a copy",
            ),
            Mistake(
                """
                def shuffled_labels(examples, labels, seed):
                    rng = random.Random(seed)
                    return examples, [rng.choice(labels) for _ in labels]
                """,
                "the same ones as before",
            ),
            Mistake(
                """
                def shuffled_labels(examples, labels, seed):
                    return examples, labels[::-1]
                """,
                "use `seed`",
            ),
            Mistake(
                """
                def shuffled_labels(examples, labels, seed):
                    kept, dealt = list(examples), list(labels)
                    random.Random(seed).shuffle(kept)
                    random.Random(seed).shuffle(dealt)
                    return kept, dealt
                """,
                "the control changes nothing",
            ),
        ),
    ),
    Exercise(
        id="07.2",
        kind="implement",
        title="Holm's correction",
        stars=2,
        minutes=20,
        function="holm",
        statement="""
        With $m$ comparisons, Holm (Scand. J. Stat. 6, 1979) multiplies the smallest p-value by $m$, the next by
        $m - 1$,
        and so on; a corrected value is never below one that stood before it, and never above 1. Return the corrected
        values in the order of the input.
        """,
        hint="`order = np.argsort(p)`, then `np.maximum.accumulate` on the sorted values. To undo a sort, assign: "
        "`result[order] = ...`.",
        imports=("import numpy as np",),
        starter='''
        def holm(p: np.ndarray) -> np.ndarray:
            """Corrected p-values, in the order of p [m]."""
            return None  # your code
        ''',
        solution='''
        def holm(p: np.ndarray) -> np.ndarray:
            """Corrected p-values, in the order of p [m]."""
            order = np.argsort(p)
            steps = p[order] * np.arange(len(p), 0, -1)
            result = np.empty(len(p))
            result[order] = np.minimum(1, np.maximum.accumulate(steps))
            return result
        ''',
        learned="Holm keeps the chance of *any* false claim in the family below 5 %, as Bonferroni does, and never "
        "claims "
        "less. What counts as one family must be said before the results are in.",
        cases=_p_values,
        reference=_reference_holm,
        mistakes=(
            Mistake(
                "def holm(p):\n    return np.minimum(1, p * len(p))",
                "That is Bonferroni: every value times m. Holm's factor falls from m to 1.",
            ),
            Mistake(
                """
                def holm(p):
                    order = np.argsort(p)
                    return np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
                """,
                "The values are right, but sorted; put them back into the order of the input.",
            ),
            Mistake(
                """
                def holm(p):
                    order = np.argsort(p)
                    result = np.empty(len(p))
                    result[order] = np.minimum(1, p[order] * np.arange(len(p), 0, -1))
                    return result
                """,
                "A corrected value has fallen below one that stood before it; keep the running maximum.",
            ),
            Mistake(
                """
                def holm(p):
                    order = np.argsort(p)
                    result = np.empty(len(p))
                    result[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
                    return result
                """,
                "A probability above 1: cut it.",
            ),
        ),
    ),
    Exercise(
        id="07.3",
        kind="measure",
        title="How much stays open",
        stars=1,
        minutes=5,
        function="share_open",
        statement="""
        Of all the comparisons that this notebook made (`differences`), in which share does the interval contain 0,
        so that
        no difference can be claimed? An interval that ends at 0 contains it. Guess, then measure.
        """,
        hint="One comparison of `low` and one of `high`, joined by `&`.",
        imports=("import pandas as pd",),
        guess="your guess: a share, 0 to 1",
        on=("differences",),
        starter='''
        def share_open(differences: pd.DataFrame) -> float:
            """Share of the rows whose interval [low, high] contains 0."""
            return None  # your code
        ''',
        solution='''
        def share_open(differences: pd.DataFrame) -> float:
            """Share of the rows whose interval [low, high] contains 0."""
            return float(((differences["low"] <= 0) & (differences["high"] >= 0)).mean())
        ''',
        learned="Near the floor most comparisons stay open. *Open* is not *equal*: the ends of the interval say how "
        "much "
        "may still hide, and with few prompts that is a lot.",
        cases=_intervals,
        mistakes=(
            Mistake(
                """
                def share_open(differences):
                    return float(((differences["low"] < 0) & (differences["high"] > 0)).mean())
                """,
                "Intervals that end exactly at 0 contain it, too.",
            ),
            Mistake(
                """
                def share_open(differences):
                    return float(((differences["low"] > 0) | (differences["high"] < 0)).mean())
                """,
                "That is the share in which a difference *can* be claimed.",
            ),
            Mistake(
                """
                def share_open(differences):
                    return float((differences["difference"].abs() < 0.05).mean())
                """,
                "A small estimate is not an open one; look at the interval.",
            ),
        ),
    ),
)

FURTHER = """
1. *(10 minutes)* Train one control at another weight with `saferlrm control presafe/few --set lambda_aux=5`. Which
   way does over-refusal move?
2. *(20 minutes)* In `rows`, keep one seed and compute PreSafe minus λ = 0 with `saferlrm.crossed.contrasts`. How
   often would one seed have told another story?
3. *(30 minutes)* Write the control that is missing: labels of the *opposite* sign. It is one entry of `METHODS`.
   Predict its row before you train it.
"""
