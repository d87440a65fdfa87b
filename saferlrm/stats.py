"""Intervals and paired tests for rates, differences, means and ranking scores.

The methods are chosen to stay honest at the edges, where this study lives: 0 of 100 and an AUROC of 1 have
intervals too. Where several training seeds answer the same prompts, the prompts are what was sampled:
intervals are over prompts, given the seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as _mcnemar
from statsmodels.stats.proportion import proportion_confint

from saferlrm.errors import SaferlrmError


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        n: number of independent units, that is prompts.
        level: confidence level of [low, high].
        method: name of the method, for a caption.
    """

    estimate: float
    low: float
    high: float
    n: int
    level: float = 0.95
    method: str = ""

    def __str__(self) -> str:
        return f"{self:.3f}"

    def __format__(self, spec: str) -> str:
        """``f"{interval:.2f}"`` formats its three numbers; ``f"{interval:.1%}"`` works as well."""
        spec = spec or ".3f"
        return f"{self.estimate:{spec}} [{self.low:{spec}}, {self.high:{spec}}] (n = {self.n})"


def wilson(k: float, n: float, level: float = 0.95) -> Interval:
    """Score interval of a proportion, k of n (Wilson, JASA 1927). ``n`` may be an effective sample size."""
    if not (n > 0 and 0 <= k <= n):
        raise SaferlrmError(f"no rate of {k} out of {n}: give at least one observation, and 0 <= k <= n")
    low, high = proportion_confint(k, n, alpha=1 - level, method="wilson")
    # The bounds at the edges are exact; the library leaves rounding errors there.
    low, high = 0.0 if k == 0 else float(low), 1.0 if k == n else float(high)
    return Interval(k / n, low, high, int(n), level, "Wilson")


def rate(outcomes: ArrayLike, level: float = 0.95) -> Interval:
    """Rate of true outcomes, shape [prompts] or [prompts, seeds].

    With several seeds the outcomes of one prompt are alike, and counting them all would make the interval
    too short. The number of outcomes is divided by the design effect (Kish, Survey Sampling, 1965),
    estimated from the spread between prompts, before the Wilson interval is taken (Franco et al., J. Surv.
    Stat. Methodol. 2019). Where all outcomes agree there is no spread to learn from, and only prompts count.
    """
    y = _matrix(outcomes)
    found = wilson(y.mean() * (n := _effective_n(y)), n, level)
    method = "Wilson" if y.shape[1] == 1 else "Wilson, clustered by prompt"
    return Interval(float(y.mean()), found.low, found.high, len(y), level, method)


def paired_difference(before: ArrayLike, after: ArrayLike, level: float = 0.95) -> Interval:
    """``rate(after) - rate(before)`` on the same prompts, shapes [prompts] or [prompts, seeds].

    The two intervals are joined by squares, less the part that the correlation of the prompts explains
    (Newcombe, Stat. Med. 17, 1998, method 8; general form: Zou, Psychol. Methods 2007). The numbers of seeds
    may differ.
    """
    a, b = _matrix(before), _matrix(after)
    if len(a) != len(b):
        raise SaferlrmError(f"paired outcomes must be of the same prompts: {len(a)} before, {len(b)} after")
    one, two = rate(a, level), rate(b, level)
    x, y = a.mean(1), b.mean(1)
    rho = float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else 0.0
    below = (two.estimate - two.low, one.high - one.estimate)
    above = (two.high - two.estimate, one.estimate - one.low)
    difference = two.estimate - one.estimate
    low, high = (np.sqrt(max(0.0, s**2 + t**2 - 2 * rho * s * t)) for s, t in (below, above))
    bounds = max(-1.0, difference - low), min(1.0, difference + high)
    return Interval(difference, *bounds, len(a), level, "Newcombe, paired")


def mcnemar(before: ArrayLike, after: ArrayLike) -> float:
    """Exact two-sided p-value for equal rates of two yes-or-no outcomes on the same prompts (McNemar)."""
    a, b = np.asarray(before, bool), np.asarray(after, bool)
    if a.shape != b.shape or a.ndim != 1:
        raise SaferlrmError(f"paired outcomes must be two equally long lists, not {a.shape} and {b.shape}")
    table = [[np.sum(a & b), np.sum(a & ~b)], [np.sum(~a & b), np.sum(~a & ~b)]]
    return float(_mcnemar(table, exact=True).pvalue)


def bootstrap_mean(values: ArrayLike, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean of values, shape [prompts] or [prompts, seeds]; prompts are resampled with all their seeds.

    Bias-corrected and accelerated bootstrap (Efron, JASA 1987). For a paired difference of means pass the
    differences.
    """
    v = _matrix(values).mean(1)
    low = high = float(v.mean())
    if len(v) > 1 and v.std() > 0:
        found = stats.bootstrap((v,), np.mean, confidence_level=level, n_resamples=resamples, rng=seed)
        low, high = map(float, found.confidence_interval)
    return Interval(float(v.mean()), low, high, len(v), level, "BCa bootstrap over prompts")


def auroc(labels: ArrayLike, scores: ArrayLike, level: float = 0.95) -> Interval:
    """Probability that a positive scores above a negative (ties: half), with Newcombe's interval.

    The interval holds the values whose own standard error (Hanley and McNeil's, symmetric in the groups)
    reaches the estimate (Newcombe, Stat. Med. 25, 2006, method 5). Unlike DeLong's or a bootstrap interval
    it does not collapse when the groups separate perfectly.
    """
    y, s = _scored(labels, scores)
    area = float(roc_auc_score(y, s))
    m, n = int(y.sum()), int((~y).sum())
    z = stats.norm.ppf((1 + level) / 2)

    def error(theta: float) -> float:
        spread = 1 + ((m + n) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return z * np.sqrt(theta * (1 - theta) * spread / (m * n))

    edge = 1e-9  # at 0 and 1 the standard error is 0, which is the trivial root
    low = optimize.brentq(lambda t: area - t - error(t), 0.0, min(area, 1 - edge)) if area > 0 else 0.0
    high = optimize.brentq(lambda t: t - area - error(t), max(area, edge), 1.0) if area < 1 else 1.0
    return Interval(area, float(low), float(high), len(y), level, "Newcombe, AUROC")


def auroc_difference(labels: ArrayLike, one: ArrayLike, two: ArrayLike, level: float = 0.95) -> Interval:
    """AUROC of scores ``two`` minus that of ``one`` on the same prompts (DeLong et al., Biometrics 1988)."""
    placed, areas = [], []
    for scores in (one, two):
        y, s = _scored(labels, scores)
        m, n = int(y.sum()), int((~y).sum())
        if min(m, n) < 2:
            raise SaferlrmError("a difference of AUROCs needs two prompts of each label")
        ranks = stats.rankdata(s)
        positive = (ranks[y] - stats.rankdata(s[y])) / n  # share of negatives below each positive
        negative = 1 - (ranks[~y] - stats.rankdata(s[~y])) / m
        placed.append((positive, negative))
        areas.append(float(positive.mean()))
    spread = sum(np.var(b - a, ddof=1) / len(a) for a, b in zip(*placed, strict=True))
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(spread)
    difference = areas[1] - areas[0]
    low, high = float(difference - half), float(difference + half)
    return Interval(difference, low, high, len(y), level, "DeLong, paired")


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> float:
    """Mean gap of predicted and observed rate over bins of equal width, by size (Guo et al., ICML 2017)."""
    y, p = np.asarray(labels, float), np.asarray(probabilities, float)
    if not len(p) or y.shape != p.shape or p.min() < 0 or p.max() > 1:
        raise SaferlrmError("calibration needs as many labels as probabilities, and these between 0 and 1")
    place = np.minimum((p * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=p - y, minlength=bins)
    return float(np.abs(gaps).sum() / len(p))


def _matrix(values: ArrayLike) -> np.ndarray:
    y = np.asarray(values, float)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or not y.size or not np.isfinite(y).all():
        raise SaferlrmError(f"outcomes must be finite numbers, [prompts] or [prompts, seeds], not {y.shape}")
    return y


def _effective_n(y: np.ndarray) -> float:
    prompts, seeds = y.shape
    p = y.mean()
    if seeds == 1 or prompts == 1 or p in (0.0, 1.0):
        return float(prompts)
    between = y.mean(1).var(ddof=1) / prompts
    alone = p * (1 - p) / y.size
    return float(np.clip(y.size * alone / between, prompts, y.size)) if between > 0 else float(y.size)


def _scored(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    y, s = np.asarray(labels).astype(bool), np.asarray(scores, float)
    if y.shape != s.shape or y.ndim != 1 or not np.isfinite(s).all():
        raise SaferlrmError(f"an AUROC needs one finite score per label, not {s.shape} for {y.shape}")
    if y.all() or not y.any():
        raise SaferlrmError("an AUROC needs prompts of both labels")
    return y, s
