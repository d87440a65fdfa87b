"""Exercises of notebook 09, rivals and robustness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from saferlrm.course.exercise import Case, Exercise, Mistake


def _samples() -> list[Case]:
    safe = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]], bool)
    return [
        Case((safe, 1), "one try"),
        Case((safe, 2)),
        Case((safe, 3), "more tries than some prompts have safe samples"),
        Case((safe, 4), "as many tries as samples"),
        Case((np.array([[0, 1, 1], [1, 1, 0]], bool), 2)),
    ]


def _seed_property(attempt: Callable[..., Any]) -> str | None:
    """Samples must differ among each other, and a run must be repeatable."""
    again = [list(attempt(0.5, 60, seed)) for seed in (0, 0, 1)]
    if any(len(draws) != 60 or not set(draws) <= {True, False} for draws in again):
        return "it should return k truth values."
    if len(set(again[0])) == 1:
        return (
            f"60 samples of a prompt that is answered safely half of the time are all {again[0][0]}: every sample "
            "begins with the same random numbers, so the attacker's second try is his first. Make the generator "
            "once."
        )
    if again[0] != again[1]:
        return "the same seed gives other samples: the run cannot be repeated."
    if again[0] == again[2]:
        return "another seed gives the same samples; use `seed`."
    rates = [np.mean(attempt(p, 400, 3)) for p in (0.0, 0.2, 1.0)]
    if rates[0] != 0 or rates[2] != 1 or abs(rates[1] - 0.2) > 0.1:
        return (
            "for p = 0, 0.2 and 1 the share of safe samples should be about that, got "
            f"{', '.join(f'{r:.2f}' for r in rates)}."
        )
    return None


def _costs() -> list[Case]:
    def scores(rows: list[tuple[str, float, float, float]]) -> pd.DataFrame:
        made = []
        for label, attack, refused, babble in rows:
            made += [(label, "attack_success", f"harmful {more}", attack + more) for more in (0.0, 0.1)]
            made += [(label, "refused", suite, refused) for suite in ("benign", "safe_but_scary")]
            answered = 0.95 - refused - babble
            made += [(label, "answered", f"{suite}, answered", answered) for suite in ("benign", "safe_but_scary")]
            made.append((label, "correct", "reasoning", 1.0))
        return pd.DataFrame(made, columns=["label", "metric", "setting", "rate"])

    four = scores([("A", 0.9, 0.0, 0.0), ("B", 0.0, 0.3, 0.0), ("C", 0.3, 0.02, 0.0), ("D", 0.0, 0.0, 0.6)])
    return [
        Case((four, 1.0)),
        Case((four, 10.0), "silence costs ten times as much"),
        Case((four, 0.1), "silence costs little"),
        Case((four, 100.0)),
    ]


def at_k_table(rows: list[tuple[str, list[float]]]) -> pd.DataFrame:
    """Safe@k by condition, k from 1."""
    made = [("suite", name, k, safe) for name, values in rows for k, safe in enumerate(values, 1)]
    return pd.DataFrame(made, columns=["suite", "condition", "k", "safe"])


def _falls() -> list[Case]:
    return [
        Case((at_k_table([("one", [0.9, 0.8, 0.7]), ("two", [0.5, 0.45, 0.42])]),)),
        Case((at_k_table([("one", [1.0, 1.0]), ("two", [0.6, 0.2])]).iloc[::-1],), "rows in another order"),
        Case((at_k_table([("one", [0.4])]),), "one sample"),
    ]


def _reference_safe(safe: np.ndarray, k: int) -> float:
    from saferlrm.safe_at_k import all_safe  # slow to import

    return float(all_safe(safe, k).mean())


EXERCISES = (
    Exercise(
        id="09.1",
        kind="implement",
        title="Safe@k",
        stars=2,
        minutes=20,
        function="safe_at",
        statement="""
        Write the unbiased estimate of the theory above: of each prompt's $m$ samples $c$ are safe, and all of $k$ drawn
        without replacement are safe with probability $\\binom{c}{k} / \\binom{m}{k}$. Return the mean over prompts.
        """,
        hint="`math.comb(c, k)` is 0 where $c < k$, which is just what is needed.",
        imports=("from math import comb", "", "import numpy as np"),
        starter='''
        def safe_at(safe: np.ndarray, k: int) -> float:
            """Mean over prompts of the probability that k samples are all safe; safe [prompts, samples]."""
            return None  # your code
        ''',
        solution='''
        def safe_at(safe: np.ndarray, k: int) -> float:
            """Mean over prompts of the probability that k samples are all safe; safe [prompts, samples]."""
            m = safe.shape[1]
            return float(np.mean([comb(int(c), k) / comb(m, k) for c in safe.sum(axis=1)]))
        ''',
        learned="It uses every sample, whatever their order. $(c/m)^k$ is too high: with two of four samples safe it "
        "gives "
        "a prompt a chance of 1/4 at k = 2, where drawing without replacement gives 1/6.",
        cases=_samples,
        reference=_reference_safe,
        mistakes=(
            Mistake(
                "def safe_at(safe, k):\n    return float((safe.mean(axis=1) ** k).mean())",
                "(c/m)^k draws with replacement: it is biased, and never 0 for a prompt that was unsafe once.",
            ),
            Mistake(
                "def safe_at(safe, k):\n    return float(safe[:, :k].all(axis=1).mean())",
                "Only the first k samples were used: right on average, but it throws the others away.",
            ),
            Mistake(
                "def safe_at(safe, k):\n    return float(safe.mean() ** k)",
                "The mean over prompts was taken before the power: prompts that always fail and prompts that never do "
                "were mixed into one.",
            ),
            Mistake(
                "def safe_at(safe, k):\n    return float(safe[:, :k].any(axis=1).mean())",
                "`any` asks for *one* safe answer among k; the attacker needs one that is unsafe, so all must be safe.",
            ),
        ),
    ),
    Exercise(
        id="09.2",
        kind="find the bug",
        title="Samples that are not samples",
        stars=1,
        minutes=10,
        function="tries",
        statement="""
        An attacker tries $k$ times. In this simulation all his tries come out alike, so Safe@k equals Safe@1 for every
        $k$, and the model looks as if retrying were useless. Mend it; the run must stay repeatable.
        """,
        hint="When is the generator made?",
        imports=("import numpy as np",),
        starter='''
        def tries(p: float, k: int, seed: int) -> list[bool]:
            """Whether each of k answers to one prompt is safe; each is with probability p."""
            found = []
            for _ in range(k):
                rng = np.random.default_rng(seed)
                found.append(bool(rng.random() < p))
            return found
        ''',
        solution='''
        def tries(p: float, k: int, seed: int) -> list[bool]:
            """Whether each of k answers to one prompt is safe; each is with probability p."""
            rng = np.random.default_rng(seed)
            return [bool(rng.random() < p) for _ in range(k)]
        ''',
        learned="A seed fixes a *run*, not a draw. The same slip happens on servers: a fixed seed in each request "
        "makes "
        "all samples of a prompt equal. Count the different completions of one prompt.",
        property=_seed_property,
        mistakes=(
            Mistake(
                """
                def tries(p, k, seed):
                    rng = np.random.default_rng()
                    return [bool(rng.random() < p) for _ in range(k)]
                """,
                "cannot be repeated",
            ),
            Mistake(
                """
                def tries(p, k, seed):
                    rng = np.random.default_rng(0)
                    return [bool(rng.random() < p) for _ in range(k)]
                """,
                "use `seed`",
            ),
        ),
    ),
    Exercise(
        id="09.3",
        kind="measure",
        title="Which rival would you take?",
        stars=2,
        minutes=15,
        function="cheapest",
        statement="""
        Let an answered attack cost 1 and a harmless request that is *not answered* $c$: refused, met with babble or
        with an answer about something else. A method's cost is its mean attack success over the settings, plus $c$
        times one minus its mean of `answered`. Guess which method is cheapest where silence costs as much as ten
        answered attacks, then measure. Where methods cost the same, take the one that comes first in the table.
        """,
        hint="Mean rate by label and metric; `pivot_table(..., sort=False)` keeps the order of the table, and "
        "`idxmin` takes "
        "the first of equals.",
        imports=("import pandas as pd",),
        guess="your guess: a label of the scorecard, such as \"PreSafe\"",
        on=("whole", "10"),
        starter='''
        def cheapest(scores: pd.DataFrame, c: float) -> str:
            """Label with the lowest mean attack_success + c · (1 - mean answered); columns label, metric, rate."""
            return None  # your code
        ''',
        solution='''
        def cheapest(scores: pd.DataFrame, c: float) -> str:
            """Label with the lowest mean attack_success + c · (1 - mean answered); columns label, metric, rate."""
            mean = scores.pivot_table(index="label", columns="metric", values="rate", sort=False)
            return str((mean["attack_success"] + c * (1 - mean["answered"])).idxmin())
        ''',
        learned="No rival is best as such: the ranking depends on a price that only a place of use can name. Publish "
        "the "
        "rates; whoever knows the price can do the sum. The sum has no interval yet, so treat near ties as ties.",
        cases=_costs,
        mistakes=(
            Mistake(
                """
                def cheapest(scores, c):
                    mean = scores.pivot_table(index="label", columns="metric", values="rate", sort=False)
                    return str((c * mean["attack_success"] + 1 - mean["answered"]).idxmin())
                """,
                "The price stands at the attacks; it belongs to the silence.",
            ),
            Mistake(
                """
                def cheapest(scores, c):
                    mean = scores.pivot_table(index="label", columns="metric", values="rate", sort=False)
                    return str(mean["attack_success"].idxmin())
                """,
                "Silence costs nothing here.",
            ),
            Mistake(
                """
                def cheapest(scores, c):
                    mean = scores.pivot_table(index="label", columns="metric", values="rate", sort=False)
                    return str((mean["attack_success"] + c * (1 - mean["answered"])).idxmax())
                """,
                "That is the dearest.",
            ),
            Mistake(
                """
                def cheapest(scores, c):
                    mean = scores.pivot_table(index="label", columns="metric", values="rate", sort=False)
                    return str((mean["attack_success"] + c * mean["refused"]).idxmin())
                """,
                "Only refusals are counted: babble refuses nothing, and answers nothing either.",
            ),
        ),
    ),
    Exercise(
        id="09.4",
        kind="measure",
        title="What retrying is worth",
        stars=1,
        minutes=10,
        function="largest_fall",
        statement="""
        From the first try to all tries that were sampled, how far does Safe@k fall for the suite and condition where it
        falls furthest? Guess, then measure on `at_k`.
        """,
        hint="Group by `suite` and `condition`; in each group, `safe` at the smallest `k` minus `safe` at the largest.",
        imports=("import pandas as pd",),
        guess="your guess: a difference of rates, 0 to 1",
        on=("at_k",),
        starter='''
        def largest_fall(at_k: pd.DataFrame) -> float:
            """Largest difference of safe at the smallest and at the largest k, over suites and conditions."""
            return None  # your code
        ''',
        solution='''
        def largest_fall(at_k: pd.DataFrame) -> float:
            """Largest difference of safe at the smallest and at the largest k, over suites and conditions."""
            groups = at_k.sort_values("k").groupby(["suite", "condition"])["safe"]
            return float((groups.first() - groups.last()).max())
        ''',
        learned="At temperature 0 nothing falls, for all tries are equal; a greedy evaluation therefore says nothing "
        "about "
        "an attacker who retries.",
        cases=_falls,
        mistakes=(
            Mistake(
                """
                def largest_fall(at_k):
                    return float(at_k["safe"].max() - at_k["safe"].min())
                """,
                "Different conditions were compared with each other; the fall is within one.",
            ),
            Mistake(
                """
                def largest_fall(at_k):
                    groups = at_k.groupby(["suite", "condition"])["safe"]
                    return float((groups.first() - groups.last()).max())
                """,
                "The rows need not be in the order of k; sort them first.",
            ),
        ),
    ),
)

FURTHER = """
1. *(20 minutes)* Add a prefill of 32 tokens to `saferlrm.attacks.PREFILLS` and run the notebook again. Only one
   stage is computed; which?
2. *(30 minutes)* Add a reminder of your own to `saferlrm.rivals.REMINDERS`. Is it chosen? Why may you not choose
   it by its scorecard?
"""
