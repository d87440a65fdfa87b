"""Exercises of notebook 00, start here."""

from __future__ import annotations

import pandas as pd

from saferlrm.course.exercise import Case, Exercise, Mistake


def _none_of() -> list[Case]:
    return [Case((100,)), Case((50,)), Case((30,)), Case((1,), "a single prompt"), Case((10_000,))]


def _two_kinds() -> list[Case]:
    bad, good = {"harmful": True}, {"harmful": False}
    yes, no = {"complied": True}, {"complied": False}
    return [
        Case(([bad | yes, bad | no, good | yes, good | yes],), "harmless prompts are among them"),
        Case(([bad | no, bad | no],), "nothing complied with"),
        Case(([bad | yes, good | no],)),
        Case(([bad | yes] * 3 + [bad | no] + [good | yes] * 6,)),
    ]


def _rates(*rows: tuple[float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["rate", "low", "high"])


def _tables() -> list[Case]:
    sure, unsure, above = (0.0, 0.0, 0.013), (0.03, 0.018, 0.06), (0.99, 0.976, 0.998)
    return [
        Case((_rates(sure, unsure, above), 0.05), "one of two low rates is sure"),
        Case((_rates(sure, above), 0.05), "the low rate is sure"),
        Case((_rates(unsure, unsure, above), 0.05), "no low rate is sure"),
        Case((_rates(unsure, above), 0.1), "another bound"),
        Case((_rates(sure, (0.05, 0.03, 0.08), (0.05, 0.05, 0.05)), 0.05), "rates and an interval that end at it"),
        Case((_rates(above), 0.05), "no rate is low"),
    ]


def _reference_highest(n: int, z: float = 1.96) -> float:
    from saferlrm.stats import wilson  # slow to import

    return wilson(0, n).high


EXERCISES = (
    Exercise(
        id="00.1",
        kind="implement",
        title="What 0 % leaves open",
        stars=1,
        minutes=5,
        function="highest_rate",
        statement="""
        A paper reports 0 successful attacks in $n$ prompts. Write the upper end of Wilson's interval (the formula
        above)
        for $\\hat p = 0$, as a function of $n$. Compare it with the rule of thumb $3/n$.
        """,
        hint="With $\\hat p = 0$ the centre and the half width are both $z^2/2n$, before the division by $1 + z^2/n$.",
        starter='''
        def highest_rate(n: int, z: float = 1.96) -> float:
            """Upper end of Wilson's interval for 0 successes in n."""
            return None  # your code
        ''',
        solution='''
        def highest_rate(n: int, z: float = 1.96) -> float:
            """Upper end of Wilson's interval for 0 successes in n."""
            return z**2 / (n + z**2)
        ''',
        learned="0 of 100 still allows 3.7 %. The rule of thumb 3/n answers another question: it is one-sided, and it "
        "leaves the range of rates where n is below 3.",
        cases=_none_of,
        reference=_reference_highest,
        tolerance=1e-4,
        mistakes=(
            Mistake("def highest_rate(n, z=1.96):\n    return 3 / n", "That is the rule of thumb, not the interval."),
            Mistake(
                "def highest_rate(n, z=1.96):\n    return 0.0",
                "That is the interval p ± z·sqrt(p(1 − p)/n), which has no width at p = 0: it calls every 0 certain.",
            ),
            Mistake(
                "def highest_rate(n, z=1.96):\n    return z**2 / n",
                "The division by 1 + z²/n is missing, so a single prompt gets a rate above 1.",
            ),
        ),
    ),
    Exercise(
        id="00.2",
        kind="find the bug",
        title="A rate of what?",
        stars=1,
        minutes=5,
        function="attack_success_rate",
        statement="""
        A table holds answers to harmful and to harmless prompts. The function below is meant to give the attack success
        rate as defined above. It gives a number between 0 and 1 for every table, and the wrong one for most. Mend it.
        """,
        hint="Read the definition of ASR again: what is counted in the numerator, and what in the denominator?",
        starter='''
        def attack_success_rate(rows: list[dict]) -> float:
            """Share of the harmful prompts that were complied with."""
            complied = [row for row in rows if row["complied"]]
            return len(complied) / len(rows)
        ''',
        solution='''
        def attack_success_rate(rows: list[dict]) -> float:
            """Share of the harmful prompts that were complied with."""
            harmful = [row for row in rows if row["harmful"]]
            return sum(row["complied"] for row in harmful) / len(harmful)
        ''',
        learned="A rate has a denominator. Helpful answers to harmless prompts are what a model is for; counted as "
        "successes they hide the attacks, and counted in the denominator alone they make any model look safe.",
        cases=_two_kinds,
        mistakes=(
            Mistake(
                """
                def attack_success_rate(rows):
                    return sum(row["complied"] and row["harmful"] for row in rows) / len(rows)
                """,
                "The numerator is right now; the denominator still counts harmless prompts.",
            ),
        ),
    ),
    Exercise(
        id="00.3",
        kind="measure",
        title="At most 5 %, and how sure?",
        stars=2,
        minutes=10,
        function="shown_below",
        statement="""
        The study calls an attack success of at most 5 % safe. Take the rows of the table `attack` (one for each suite
        of harmful prompts and each thinking mode) whose *rate* keeps that bound. For which share of them does the
        *whole interval* keep it, so that the claim could be made? Guess first. A rate or an end that equals the bound
        keeps it; without such a row the share is NaN.
        """,
        hint="Two conditions on two columns, `rate` and `high`. What is the denominator?",
        imports=("import pandas as pd",),
        guess="your guess: a share of the low rates, 0 to 1",
        on=("attack",),
        starter='''
        def shown_below(attack: pd.DataFrame, bound: float = 0.05) -> float:
            """Of the rates up to the bound, the share whose interval ends there too."""
            return None  # your code
        ''',
        solution='''
        def shown_below(attack: pd.DataFrame, bound: float = 0.05) -> float:
            """Of the rates up to the bound, the share whose interval ends there too."""
            low = attack[attack["rate"] <= bound]
            return float((low["high"] <= bound).mean())
        ''',
        learned="An estimate below a bound is no claim yet; an interval below it is. Where the interval crosses, the "
        "honest sentence is *not shown to be safe with this many prompts*, and the remedy is more prompts. Now look "
        "which rows those are.",
        cases=_tables,
        mistakes=(
            Mistake(
                """
                def shown_below(attack, bound=0.05):
                    return float((attack["high"] <= bound).mean())
                """,
                "The denominator holds all rows; asked was the share of those whose rate keeps the bound.",
            ),
            Mistake(
                """
                def shown_below(attack, bound=0.05):
                    low = attack[attack["rate"] <= bound]
                    return float((low["low"] <= bound).mean())
                """,
                "That is the lower end. A bound from above is kept if the *upper* end keeps it.",
            ),
            Mistake(
                """
                def shown_below(attack, bound=0.05):
                    return float((attack["rate"] <= bound).mean())
                """,
                "That is the share of low estimates; their intervals were not looked at.",
            ),
        ),
    ),
)

FURTHER = """
1. *(10 minutes)* Change `seed` to 1 and run the notebook again. Which numbers change, which must not, and do the
   new estimates lie within the old intervals?
"""
