"""Exercises of notebook 10, the claims ledger."""

from __future__ import annotations

import pandas as pd

from saferlrm.course.exercise import Case, Exercise, Mistake


def _claims() -> list[Case]:
    return [
        Case((0.2, 0.4, 0.1, True), "at least"),
        Case((0.2, 0.4, 0.3, True), "the bound lies inside"),
        Case((0.2, 0.4, 0.5, True)),
        Case((0.2, 0.4, 0.5, False), "at most"),
        Case((0.2, 0.4, 0.1, False)),
        Case((0.2, 0.4, 0.22, False), "the bound lies inside, near an end"),
        Case((0.2, 0.4, 0.2, True), "the interval begins at the bound"),
    ]


def _differences() -> list[Case]:
    return [
        Case((0.0, 0.002, 0.01), "a sharp estimate of 0"),
        Case((0.0, 0.05, 0.01), "a blurred estimate of 0"),
        Case((0.02, 0.004, 0.01), "clearly not 0"),
        Case((-0.006, 0.002, 0.01)),
        Case((0.01, 0.003, 0.01), "at the margin"),
    ]


def _improvements() -> list[Case]:
    return [
        Case((0.4, 0.02)),
        Case((0.4, 0.4), "nothing changed"),
        Case((0.1, 0.2), "it became worse"),
        Case((0.0, 0.0), "there was nothing to improve"),
        Case((0.9, 0.0), "all gone"),
    ]


def _ledger(rows: list[tuple[str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["grounding", "verdict"])


def _ledgers() -> list[Case]:
    yes, no, open_ = "holds", "does not hold", "cannot be decided here"
    return [
        Case((_ledger([("abstract", yes), ("abstract", no), ("abstract", yes), ("page", no)]), "abstract")),
        Case((_ledger([("abstract", yes), ("page", no), ("page", open_), ("page", yes)]), "page"), "one is undecided"),
        Case((_ledger([("abstract", open_), ("page", yes)]), "abstract"), "nothing is decided"),
        Case((_ledger([("abstract", yes)]), "digest"), "no such claim"),
    ]


EXERCISES = (
    Exercise(
        id="10.1",
        kind="implement",
        title="A verdict from an interval",
        stars=1,
        minutes=10,
        function="ruling",
        statement="""
        Write the rule of the theory above for both kinds of claim: a quantity is *at least* `bound`, or *at most*.
        Return
        `"holds"`, `"does not hold"` or `"cannot be decided here"`. An interval that begins (or ends) exactly at
        the bound
        lies on the claim's side.
        """,
        hint="*At most b* for θ is *at least −b* for −θ: turn the interval round instead of writing the rule twice.",
        starter='''
        def ruling(low: float, high: float, bound: float, at_least: bool) -> str:
            """What the interval [low, high] says of the claim."""
            return None  # your code
        ''',
        solution='''
        def ruling(low: float, high: float, bound: float, at_least: bool) -> str:
            """What the interval [low, high] says of the claim."""
            if not at_least:
                low, high, bound = -high, -low, -bound
            if low >= bound:
                return "holds"
            return "does not hold" if high < bound else "cannot be decided here"
        ''',
        learned="Three verdicts, because *not shown* is not *shown to be false*. The estimate in the middle has no "
        "vote.",
        cases=_claims,
        mistakes=(
            Mistake(
                """
                def ruling(low, high, bound, at_least):
                    middle = (low + high) / 2
                    right = middle >= bound if at_least else middle <= bound
                    return "holds" if right else "does not hold"
                """,
                "The estimate decides here; the whole interval must lie on one side.",
            ),
            Mistake(
                """
                def ruling(low, high, bound, at_least):
                    if low >= bound:
                        return "holds"
                    return "does not hold" if high < bound else "cannot be decided here"
                """,
                "The direction of the claim was not looked at; *at most* is the other way round.",
            ),
            Mistake(
                """
                def ruling(low, high, bound, at_least):
                    return "holds" if (low >= bound if at_least else high <= bound) else "does not hold"
                """,
                "An interval that contains the bound refutes nothing.",
            ),
        ),
    ),
    Exercise(
        id="10.2",
        kind="implement",
        title="No loss, within a margin",
        stars=2,
        minutes=20,
        function="equivalence_p",
        statement="""
        "0 % loss" can only be shown up to a margin $m$. Two one-sided z-tests reject $\\Delta \\le -m$ and
        $\\Delta \\ge m$;
        equivalence is claimed if *both* are rejected, so its p-value is the larger one (Schuirmann, J. Pharmacokinet.
        Biopharm. 15, 1987). Return it for an estimate with its standard error.
        """,
        hint="`norm.sf(z)` is the probability above z. Against $\\Delta \\le -m$ the statistic is (estimate + "
        "m)/error, and "
        "large values reject.",
        imports=("from scipy.stats import norm",),
        starter='''
        def equivalence_p(estimate: float, error: float, margin: float) -> float:
            """p-value of the claim that the true difference lies within ± margin."""
            return None  # your code
        ''',
        solution='''
        def equivalence_p(estimate: float, error: float, margin: float) -> float:
            """p-value of the claim that the true difference lies within ± margin."""
            above = norm.sf((estimate + margin) / error)
            below = norm.cdf((estimate - margin) / error)
            return float(max(above, below))
        ''',
        learned="An estimate of exactly 0 with a wide interval shows no equivalence, and one of 0.6 points with a "
        "narrow "
        "one does. A large p-value of the *usual* test shows nothing at all about equality.",
        cases=_differences,
        mistakes=(
            Mistake(
                """
                def equivalence_p(estimate, error, margin):
                    return float(2 * norm.sf(abs(estimate) / error))
                """,
                "That is the usual test of a difference; its large p-values are no evidence for equality.",
            ),
            Mistake(
                """
                def equivalence_p(estimate, error, margin):
                    return float(min(norm.sf((estimate + margin) / error), norm.cdf((estimate - margin) / error)))
                """,
                "Both tests must reject, so the larger p-value counts.",
            ),
            Mistake(
                """
                def equivalence_p(estimate, error, margin):
                    return float(norm.cdf((estimate - margin) / error))
                """,
                "One side only: a large loss would pass as well (or a large gain).",
            ),
        ),
    ),
    Exercise(
        id="10.3",
        kind="find the bug",
        title="Per cent of what?",
        stars=1,
        minutes=5,
        function="relative_reduction",
        statement="""
        "95 % safety improvement" is mostly meant as a *relative reduction* of attack success: which share of the
        successful
        attacks is gone? This function divides by the wrong rate. Mend it; where there was nothing to reduce,
        return `nan`.
        """,
        hint="A fall from 0.4 to 0.02 is a reduction by 95 %.",
        starter='''
        def relative_reduction(before: float, after: float) -> float:
            """Share of the attack success rate before that is gone after."""
            return (before - after) / after if after else float("nan")
        ''',
        solution='''
        def relative_reduction(before: float, after: float) -> float:
            """Share of the attack success rate before that is gone after."""
            return (before - after) / before if before else float("nan")
        ''',
        learned="From 40 % to 2 % is 38 points, a reduction by 95 %, or a twentieth: three headlines, one result. A "
        "claim "
        "has to say which one it means, and what the rate was before.",
        cases=_improvements,
        mistakes=(
            Mistake("def relative_reduction(before, after):\n    return before - after",
                    "Those are points, the difference of the rates; asked for is a share of the rate before."),
            Mistake("def relative_reduction(before, after):\n    return (before - after) / before",
                    "The denominator is mended; a rate of 0 before still divides by 0."),
            Mistake(
                "def relative_reduction(before, after):\n    return 1 - before / after if after else float('nan')",
                "The quotient is upside down.",
            ),
        ),
    ),
    Exercise(
        id="10.4",
        kind="measure",
        title="What the abstract's claims came to",
        stars=1,
        minutes=10,
        function="share_that_holds",
        statement="""
        Of the *decided* claims of the abstract (`grounding` is `"abstract"`), which share holds here? Guess, then
        measure.
        Where no claim was decided the share is `nan`.
        """,
        hint="Leave out the third verdict before you take the mean; the mean of nothing is NaN.",
        imports=("import pandas as pd",),
        guess="your guess: a share, 0 to 1",
        on=("table", '"abstract"'),
        starter='''
        def share_that_holds(table: pd.DataFrame, grounding: str) -> float:
            """Share of the verdict "holds" among the decided claims with this grounding."""
            return None  # your code
        ''',
        solution='''
        def share_that_holds(table: pd.DataFrame, grounding: str) -> float:
            """Share of the verdict "holds" among the decided claims with this grounding."""
            own = table[(table["grounding"] == grounding) & (table["verdict"] != "cannot be decided here")]
            return float((own["verdict"] == "holds").mean())
        ''',
        learned="A share of claims counts easy and hard ones alike, and leaves out what could not be decided. Read "
        "it beside "
        "the number of undecided claims, never alone.",
        cases=_ledgers,
        mistakes=(
            Mistake(
                """
                def share_that_holds(table, grounding):
                    own = table[table["grounding"] == grounding]
                    return float((own["verdict"] == "holds").mean())
                """,
                "Undecided claims were counted as if they did not hold.",
            ),
            Mistake(
                """
                def share_that_holds(table, grounding):
                    own = table[table["verdict"] != "cannot be decided here"]
                    return float((own["verdict"] == "holds").mean())
                """,
                "Claims of every source were counted.",
            ),
        ),
    ),
)

FURTHER = """
1. *(10 minutes)* Change `RESIDUAL` in `saferlrm.claims` to 0.01 and compute the ledger again. Which verdict moves,
   and why is it not "does not hold"?
2. *(20 minutes)* Add the claim "PreSafe refuses fewer harmless prompts than plain fine-tuning". Write the rule
   before you look at the table.
3. *(30 minutes)* Which claims would change their verdict with ten times as many prompts? Guess from the intervals,
   then raise `suite_size`.
"""
