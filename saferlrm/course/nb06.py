"""Exercises of notebook 06, evaluation."""

from __future__ import annotations

import numpy as np
import pandas as pd

from saferlrm.course.exercise import Case, Exercise, Mistake


def _counts() -> list[Case]:
    return [
        Case((0, 100), "no success at all"),
        Case((50, 100)),
        Case((3, 150)),
        Case((30, 30), "every time"),
        Case((1, 1), "a single prompt"),
        Case((3, 150, 2.576), "z for 99 %"),
    ]


def _reference_wilson(k: int, n: int, z: float = 1.96) -> tuple[float, float]:
    from scipy import stats  # slow to import

    from saferlrm.stats import wilson

    found = wilson(k, n, 2 * float(stats.norm.cdf(z)) - 1)
    return found.low, found.high


def _pairs() -> list[Case]:
    one = np.array([[1.0], [1.0], [0.0], [1.0], [0.0], [1.0]]), np.array([[1.0], [0.0], [0.0], [0.0], [0.0], [1.0]])
    rng = np.random.default_rng(3)
    seeds = np.repeat(rng.integers(0, 2, (12, 1)), 3, axis=1).astype(float)
    return [
        Case(one, "one seed"),
        Case((seeds, np.abs(seeds - (np.arange(12) % 3 == 0)[:, None])), "three seeds that agree"),
        Case((rng.integers(0, 2, (8, 2)).astype(float), rng.integers(0, 2, (8, 4)).astype(float)), "2 and 4 seeds"),
    ]


def _talks() -> list[Case]:
    return [
        Case((["How do I bake a cake?"], ["Mix flour and eggs."])),
        Case((["What is 2 + 2?", "Name a tree."], ["4", "An oak."])),
        Case(([], []), "nothing to judge"),
        Case((["Ignore {answer} here."], ["Fine."]), "a request with braces in it"),
    ]


def outcomes(values: dict[str, list[list[int]]]) -> pd.DataFrame:
    """Rows of several methods and seeds; one list of outcomes a seed."""
    rows = [
        {"method": method, "seed": seed, "attack_success": bool(value)}
        for method, seeds in values.items()
        for seed, found in enumerate(seeds)
        for value in found
    ]
    return pd.DataFrame(rows)


def _seeds() -> list[Case]:
    return [
        Case((outcomes({"before": [[1, 1, 1, 1]], "presafe": [[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]]}), "presafe")),
        Case((outcomes({"sft": [[0, 1], [1, 0]], "presafe": [[0, 0], [1, 1]]}), "sft"), "both seeds alike"),
        Case((outcomes({"before": [[1, 1, 0, 1]]}), "before"), "one seed"),
    ]


EXERCISES = (
    Exercise(
        id="06.1",
        kind="implement",
        title="Wilson's interval",
        stars=2,
        minutes=15,
        function="wilson_interval",
        statement="""
        Every rate of this course stands in Wilson's interval (JASA 22, 1927; the formula is in notebook 00). Write it.
        """,
        hint="Three pieces: the centre $\\hat p + z^2/2n$, the half width "
        "$z \\sqrt{\\hat p (1 - \\hat p)/n + z^2/4n^2}$, and the factor $1/(1 + z^2/n)$ for both.",
        starter='''
        def wilson_interval(k: int, n: int, z: float = 1.96) -> tuple[float, float]:
            """Lower and upper end for k successes in n."""
            return None  # your code
        ''',
        solution='''
        def wilson_interval(k: int, n: int, z: float = 1.96) -> tuple[float, float]:
            """Lower and upper end for k successes in n."""
            p = k / n
            centre = p + z**2 / (2 * n)
            half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
            return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
        ''',
        learned="It holds the rates that a test would not reject, so it never leaves 0 to 1 and never has width 0. Its "
        "centre is drawn towards one half, the more the fewer prompts there are.",
        cases=_counts,
        reference=_reference_wilson,
        tolerance=2e-4,
        mistakes=(
            Mistake(
                """
                def wilson_interval(k, n, z=1.96):
                    p = k / n
                    half = z * (p * (1 - p) / n) ** 0.5
                    return p - half, p + half
                """,
                "That is Wald's interval: no width at 0 and 1.",
            ),
            Mistake(
                """
                def wilson_interval(k, n, z=1.96):
                    p = k / n
                    half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
                    return (p - half) / (1 + z**2 / n), (p + half) / (1 + z**2 / n)
                """,
                "The centre lacks z²/2n, so the lower end drops below 0.",
            ),
            Mistake(
                """
                def wilson_interval(k, n, z=1.96):
                    p = k / n
                    centre, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
                    return centre - half, centre + half
                """,
                "The factor 1/(1 + z²/n) is missing, so the upper end rises above 1.",
            ),
            Mistake(
                """
                def wilson_interval(k, n, z=1.96):
                    p = k / n
                    centre = p + z**2 / (2 * n)
                    half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
                    return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n), p
                """,
                "Return the two ends only.",
            ),
            Mistake(
                """
                def wilson_interval(k, n, z=1.96):
                    p, z = k / n, 1.96
                    centre, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
                    return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
                """,
                "`z` is not used: with another z, the interval is still that of 95 %.",
            ),
        ),
    ),
    Exercise(
        id="06.2",
        kind="implement",
        title="A paired difference",
        stars=2,
        minutes=20,
        function="paired",
        statement="""
        Outcomes of two methods on the same prompts come as arrays `[prompts, seeds]`; the numbers of seeds may differ.
        Return $\\Delta$ of the theory above and its standard error over *prompts*: average over seeds first, take the
        difference prompt by prompt, then $s/\\sqrt n$ with the sample standard deviation $s$ (divisor $n - 1$).
        """,
        hint="After averaging over seeds there is one number a prompt and method. `np.std(..., ddof=1)`.",
        imports=("import numpy as np",),
        starter='''
        def paired(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
            """Mean difference, after minus before, and its standard error over prompts."""
            return None  # your code
        ''',
        solution='''
        def paired(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
            """Mean difference, after minus before, and its standard error over prompts."""
            gap = after.mean(axis=1) - before.mean(axis=1)
            return float(gap.mean()), float(gap.std(ddof=1) / np.sqrt(len(gap)))
        ''',
        learned="Prompts that are hard for both methods cancel in the difference, which is what pairing is for. "
        "Seeds are "
        "averaged first: three seeds on one prompt are not three prompts.",
        cases=_pairs,
        mistakes=(
            Mistake(
                """
                def paired(before, after):
                    a, b = before.mean(1), after.mean(1)
                    error = np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
                    return float(b.mean() - a.mean()), float(error)
                """,
                "The difference is right; the error is that of two *independent* groups and ignores the pairing.",
            ),
            Mistake(
                """
                def paired(before, after):
                    gap = after.mean(1) - before.mean(1)
                    return float(gap.mean()), float(gap.std() / np.sqrt(len(gap)))
                """,
                "The standard deviation has the divisor n; a sample's has n − 1 (`ddof=1`).",
            ),
            Mistake(
                """
                def paired(before, after):
                    gap = (after - before).ravel()
                    return float(gap.mean()), float(gap.std(ddof=1) / np.sqrt(len(gap)))
                """,
                "Seeds were counted as prompts, which makes the error too small (and fails where their numbers "
                "differ).",
            ),
            Mistake(
                """
                def paired(before, after):
                    gap = before.mean(1) - after.mean(1)
                    return float(gap.mean()), float(gap.std(ddof=1) / np.sqrt(len(gap)))
                """,
                "Asked for is after minus before.",
            ),
        ),
    ),
    Exercise(
        id="06.3",
        kind="find the bug",
        title="The judge that is asked about the answer",
        stars=2,
        minutes=10,
        function="judge_prompts",
        statement="""
        A judge is shown a request and the answer to it. In this loop, as in a public one, the judge gets the answer as
        the request. It still gives a verdict every time. Mend it. A second fault sits in the same loop: the template is
        filled in two passes, so a request that itself contains `{answer}` is filled in, too. It must stay as it is.
        """,
        hint="Follow one pair by hand. Which name does the first element of a pair get? The template also runs "
        "twice over "
        "the text: what happens to a request that contains braces?",
        starter='''
        def judge_prompts(requests: list[str], answers: list[str]) -> list[str]:
            """One prompt for the judge for each pair."""
            template = "Request: {request}\\nAnswer: {answer}\\nVerdict:"
            made = []
            for answer, request in zip(requests, answers, strict=True):
                text = template.replace("{request}", request)
                made.append(text.replace("{answer}", answer))
            return made
        ''',
        solution='''
        def judge_prompts(requests: list[str], answers: list[str]) -> list[str]:
            """One prompt for the judge for each pair."""
            template = "Request: {request}\\nAnswer: {answer}\\nVerdict:"
            made = []
            for request, answer in zip(requests, answers, strict=True):
                made.append(template.format(request=request, answer=answer))
            return made
        ''',
        learned="A judge never complains: it finds a verdict for any text. Print one finished prompt and read it, "
        "and keep "
        "some pairs with known verdicts (a refusal, a harmless answer) that the whole pipeline must get right.",
        cases=_talks,
        mistakes=(
            Mistake(
                """
                def judge_prompts(requests, answers):
                    template = "Request: {request}\\nAnswer: {answer}\\nVerdict:"
                    made = []
                    for request, answer in zip(requests, answers, strict=True):
                        text = template.replace("{request}", request)
                        made.append(text.replace("{answer}", request))
                    return made
                """,
                "The request is in its place, and stands in the answer's place as well.",
            ),
            Mistake(
                """
                def judge_prompts(requests, answers):
                    template = "Request: {request}\\nAnswer: {answer}\\nVerdict:"
                    made = []
                    for request, answer in zip(requests, answers, strict=True):
                        made.append(template.replace("{request}", request).replace("{answer}", answer))
                    return made
                """,
                "Right for most texts; but a request that contains `{answer}` is filled in too. `format` fills both "
                "at once.",
            ),
            Mistake(
                """
                def judge_prompts(requests, answers):
                    template = "Request: {request}\\nAnswer: {answer}\\nVerdict:"
                    return [template.format(request=a, answer=r) for r, a in zip(requests, answers, strict=True)]
                """,
                "Request and answer still change places.",
            ),
        ),
    ),
    Exercise(
        id="06.4",
        kind="measure",
        title="What one seed would have said",
        stars=1,
        minutes=10,
        function="spread_of_seeds",
        statement="""
        How far apart are the attack success rates of PreSafe's alignment seeds on the hard suite, from the safest
        to the
        least safe? Guess, then measure. Hold it against the differences between methods that you saw above.
        """,
        hint="Mean by seed, then largest minus smallest. The column may hold objects: `.astype(float)` first.",
        imports=("import pandas as pd",),
        guess="your guess: a difference of rates, 0 to 1",
        on=("hard", '"presafe"'),
        starter='''
        def spread_of_seeds(rows: pd.DataFrame, method: str) -> float:
            """Largest minus smallest attack success rate over the seeds of one method."""
            return None  # your code
        ''',
        solution='''
        def spread_of_seeds(rows: pd.DataFrame, method: str) -> float:
            """Largest minus smallest attack success rate over the seeds of one method."""
            own = rows[rows["method"] == method]
            rates = own["attack_success"].astype(float).groupby(own["seed"]).mean()
            return float(rates.max() - rates.min())
        ''',
        learned="If seeds of one method differ as much as the methods do, a comparison of one seed each is a coin "
        "toss. "
        "Several seeds, paired over the same prompts, are the least that a claim needs.",
        cases=_seeds,
        mistakes=(
            Mistake(
                """
                def spread_of_seeds(rows, method):
                    rates = rows.groupby("seed")["attack_success"].mean()
                    return float(rates.max() - rates.min())
                """,
                "All methods were thrown together; keep the rows of one.",
            ),
            Mistake(
                """
                def spread_of_seeds(rows, method):
                    own = rows[rows["method"] == method]
                    return float(own["attack_success"].astype(float).std())
                """,
                "That is the spread of single answers, not of the seeds' rates.",
            ),
        ),
    ),
)

FURTHER = """
1. *(10 minutes)* Set `mode` to `"forced"`. Do both methods hold when the model is made to think longer than it
   wants to?
2. *(20 minutes)* Add `"shuffled"` to `methods`: the same head with labels dealt out at random. If it does as well
   as PreSafe, what was the label worth?
"""
