"""Exercises of notebook 04, the safety-decision classifier."""

from __future__ import annotations

import numpy as np
import pandas as pd

from saferlrm.course.exercise import Case, Exercise, Mistake


def _logits() -> list[Case]:
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, 400)
    y = rng.random(400) < 1 / (1 + np.exp(-z))
    return [
        Case((z * 3, y), "logits three times too large"),
        Case((z, y), "logits as they should be"),
        Case((z / 2, y), "logits half as large as they should be"),
        Case((z * 400, y), "huge logits"),
    ]


def _bins() -> list[Case]:
    rng = np.random.default_rng(1)
    p = rng.random(200).round(3)
    return [
        Case((np.array([True, False, True, True]), np.array([0.85, 0.85, 0.25, 0.95]))),
        Case((np.array([False, False]), np.array([1.0, 1.0])), "sure and wrong"),
        Case((np.array([True, True]), np.array([0.0, 0.0])), "sure and wrong, the other way round"),
        Case((rng.random(200) < p**2, p)),
        Case((np.array([False, True]), np.array([0.0, 1.0])), "sure and right"),
    ]


def scored(harmful: list[int], p: list[float]) -> pd.DataFrame:
    """Predictions like the classifier's."""
    return pd.DataFrame({"harmful": np.array(harmful, bool), "p_refuse": p})


def _predictions() -> list[Case]:
    table = scored([1, 1, 1, 1, 0, 0, 0, 0, 0], [0.9, 0.8, 0.7, 0.2, 0.6, 0.1, 0.1, 0.2, 0.3])
    return [
        Case((table, 0.5, 0.001)),
        Case((table, 0.5, 0.5), "half of the prompts are harmful"),
        Case((scored([1, 1, 0, 0], [0.9, 0.8, 0.1, 0.2]), 0.5, 0.001), "no false alarm in the test set"),
        Case((table, 0.6, 0.01), "a probability equal to the threshold is flagged"),
        Case((table, 0.95, 0.01), "nothing is flagged"),
    ]


def _reference_error(y: np.ndarray, p: np.ndarray, bins: int = 10) -> float:
    from saferlrm.stats import expected_calibration_error  # slow to import

    return expected_calibration_error(y, p, bins)


EXERCISES = (
    Exercise(
        id="04.1",
        kind="implement",
        title="Temperature scaling",
        stars=2,
        minutes=20,
        function="temperature",
        statement="""
        Find the temperature $\\tau > 0$ that minimises the mean cross-entropy of $\\sigma(z / \\tau)$ against the
        labels.
        Some logits are huge: write the loss so that it does not overflow.
        """,
        hint="Cross-entropy of a logit $u$ is $\\log(1 + e^{u}) - y\\,u$, and `np.logaddexp(0, u)` computes the "
        "first term "
        "without overflow. Search over $\\log \\tau$ with `minimize_scalar`, say between −10 and 10.",
        imports=("import numpy as np", "from scipy.optimize import minimize_scalar"),
        starter='''
        def temperature(z: np.ndarray, y: np.ndarray) -> float:
            """The temperature that fits logits z [n] to labels y [n], true or false."""
            return None  # your code
        ''',
        solution='''
        def temperature(z: np.ndarray, y: np.ndarray) -> float:
            """The temperature that fits logits z [n] to labels y [n], true or false."""
            def loss(log_t: float) -> float:
                u = z / np.exp(log_t)
                return float(np.mean(np.logaddexp(0, u) - y * u))

            return float(np.exp(minimize_scalar(loss, bounds=(-10, 10), method="bounded").x))
        ''',
        learned="One number, fitted on prompts that training never saw. It changes no ranking, so AUROC stays; it "
        "changes "
        "what 0.9 means (arXiv 1706.04599).",
        cases=_logits,
        tolerance=0.02,
        overflow=True,
        mistakes=(
            Mistake(
                """
                def temperature(z, y):
                    def loss(log_t):
                        u = z * np.exp(log_t)
                        return float(np.mean(np.logaddexp(0, u) - y * u))
                    return float(np.exp(minimize_scalar(loss, bounds=(-10, 10), method="bounded").x))
                """,
                "That is 1/τ: logits are *divided* by the temperature.",
            ),
            Mistake("def temperature(z, y):\n    return 1.0", "A temperature of 1 leaves everything as it was."),
            Mistake(
                """
                def temperature(z, y):
                    def loss(t):
                        p = 1 / (1 + np.exp(-z / t))
                        return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))
                    return float(minimize_scalar(loss, bounds=(0.01, 10), method="bounded").x)
                """,
                "exp() of a large number overflows, and the logarithm of 0 makes the loss NaN or infinite; "
                "use np.logaddexp and search over log τ.",
            ),
        ),
    ),
    Exercise(
        id="04.2",
        kind="find the bug",
        title="The prediction that fell out of its bin",
        stars=2,
        minutes=10,
        function="calibration_error",
        statement="""
        The expected calibration error of the theory above, in ten bins. It never finds fault with a classifier that is
        absolutely sure. Mend it.
        """,
        hint="Into which bin does $p = 1$ fall?",
        imports=("import numpy as np",),
        starter='''
        def calibration_error(y: np.ndarray, p: np.ndarray, bins: int = 10) -> float:
            """Mean gap of predicted and observed rate, by size of the bin; y, p [n]."""
            total = 0.0
            for k in range(bins):
                inside = (p >= k / bins) & (p < (k + 1) / bins)
                if inside.any():
                    total += inside.mean() * abs(y[inside].mean() - p[inside].mean())
            return float(total)
        ''',
        solution='''
        def calibration_error(y: np.ndarray, p: np.ndarray, bins: int = 10) -> float:
            """Mean gap of predicted and observed rate, by size of the bin; y, p [n]."""
            place = np.minimum((p * bins).astype(int), bins - 1)
            total = 0.0
            for k in np.unique(place):
                inside = place == k
                total += inside.mean() * abs(y[inside].mean() - p[inside].mean())
            return float(total)
        ''',
        learned="Half-open bins lose p = 1, which is where an over-confident classifier lives: it gets the best score "
        "for its worst fault.",
        cases=_bins,
        reference=_reference_error,
        mistakes=(
            Mistake(
                """
                def calibration_error(y, p, bins=10):
                    place = np.minimum((p * bins).astype(int), bins - 1)
                    gaps = [abs(y[place == k].mean() - p[place == k].mean()) for k in np.unique(place)]
                    return float(np.mean(gaps))
                """,
                "Each bin counts alike; a bin must count by its share of the prompts.",
            ),
            Mistake(
                """
                def calibration_error(y, p, bins=10):
                    total = 0.0
                    for k in range(bins):
                        inside = (p > k / bins) & (p <= (k + 1) / bins)
                        if inside.any():
                            total += inside.mean() * abs(y[inside].mean() - p[inside].mean())
                    return float(total)
                """,
                "Now p = 1 has its bin, and p = 0 has fallen out of the lowest one.",
            ),
            Mistake(
                "def calibration_error(y, p, bins=10):\n    return float(abs(y.mean() - p.mean()))",
                "Gaps of opposite sign cancel; take the absolute gap bin by bin.",
            ),
        ),
    ),
    Exercise(
        id="04.3",
        kind="measure",
        title="False alarms at scale",
        stars=2,
        minutes=15,
        function="false_alarms",
        statement="""
        In use nearly all prompts are harmless. With one harmful prompt in 1,000, and the rates that the classifier
        has on
        the test prompts at your threshold: which share of the *flagged* prompts is harmless? Guess, then measure. If
        nothing is flagged, the share is 0.
        """,
        hint="Take two rates from the table: how often harmful and how often harmless prompts are flagged. The "
        "table's own "
        "mixture of the two must not enter.",
        imports=("import pandas as pd",),
        guess="your guess: a share, 0 to 1",
        on=("predictions", "threshold", "0.001"),
        starter='''
        def false_alarms(predictions: pd.DataFrame, threshold: float, prevalence: float) -> float:
            """Share of harmless prompts among the flagged, if a share `prevalence` of all is harmful."""
            return None  # your code
        ''',
        solution='''
        def false_alarms(predictions: pd.DataFrame, threshold: float, prevalence: float) -> float:
            """Share of harmless prompts among the flagged, if a share `prevalence` of all is harmful."""
            flagged = predictions["p_refuse"] >= threshold
            found = prevalence * flagged[predictions["harmful"]].mean()
            wrong = (1 - prevalence) * flagged[~predictions["harmful"]].mean()
            return float(wrong / (wrong + found)) if wrong + found else 0.0
        ''',
        learned="A false-positive rate of 2 % sounds small; at one harmful prompt in 1,000 it means about twenty false "
        "alarms for every true one. Report rates for each class; the share among the flagged belongs to a "
        "place of use.",
        cases=_predictions,
        mistakes=(
            Mistake(
                """
                def false_alarms(predictions, threshold, prevalence):
                    flagged = predictions[predictions["p_refuse"] >= threshold]
                    return float((~flagged["harmful"]).mean()) if len(flagged) else 0.0
                """,
                "That is the share in the test set, in which harmful prompts are far more common than in use.",
            ),
            Mistake(
                """
                def false_alarms(predictions, threshold, prevalence):
                    flagged = predictions["p_refuse"] >= threshold
                    return float(flagged[~predictions["harmful"]].mean())
                """,
                "That is the false-positive rate: a share of the harmless prompts, not of the flagged ones.",
            ),
            Mistake(
                """
                def false_alarms(predictions, threshold, prevalence):
                    flagged = predictions["p_refuse"] > threshold
                    found = prevalence * flagged[predictions["harmful"]].mean()
                    wrong = (1 - prevalence) * flagged[~predictions["harmful"]].mean()
                    return float(wrong / (wrong + found)) if wrong + found else 0.0
                """,
                "A prompt whose probability equals the threshold is flagged in this notebook (>=).",
            ),
        ),
    ),
)

FURTHER = """
1. *(10 minutes)* Find a harmless prompt that the classifier flags. Which word does it? Replace one word at a time
   and watch the probability.
"""
