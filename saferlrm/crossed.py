"""Intervals for outcomes crossed over prompts and alignment seeds, so that no verdict depends on one seed.

:mod:`saferlrm.stats` asks how a number would vary over other prompts, given the seeds. Here the seeds are a sample too.
A mean over prompts and seeds varies with both (Owen, Ann. Appl. Stat. 1, 2007, also on why resampling one of them falls
short), as in multi-reader studies, where readers stand for seeds (Hillis, Stat. Med. 26, 2007). The interval joins two
parts by squares (Zou and Donner, Stat. Med. 27, 2008). That of the prompts keeps the shape of Wilson's and Newcombe's
intervals, which do not collapse at 0 and 1. That of the seeds is t² (MS_seed - MS_rest / 2) / (prompts x seeds), with
the mean squares of the two-way layout and t at seeds - 1 degrees of freedom. Half of the rest stays in: taking off all
of it is unbiased, but with 3 seeds the interval is then too short as often as the estimate falls to 0.

Simulated coverage of 95 % intervals is 0.93 to 0.995 with 3 or 5 seeds, 150 prompts, rates from 0.02 to 0.5 and seeds
that shift them by up to 0.4 on the probit scale. They are conservative where seeds differ by no more than chance (0.95
to 0.995), at rates of 1 % and less (0.96 to 0.999) and where nearly all outcomes agree (0.93 to 1; without the least
width of :func:`crossed_difference` 0.87). With one seed they are intervals over prompts and say nothing about others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests

from saferlrm.errors import SaferlrmError
from saferlrm.stats import Interval, _matrix, rate

METHOD = "prompts and seeds, joined by squares"
SMALLEST_P = 1e-12
LARGEST_RATIO = 1e6  # a ratio that may be larger has no upper bound


def crossed_rate(outcomes: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of outcomes [prompts, seeds], a rate or any number, over prompts and seeds."""
    y = _matrix(outcomes)
    return _contrast(np.zeros((len(y), 1)), y, 0.0, level)


def crossed_difference(before: ArrayLike, after: ArrayLike, level: float = 0.95) -> Interval:
    """``mean(after) - mean(before)`` of outcomes [prompts, seeds] on the same prompts.

    Two models that answer nearly every prompt alike have few prompts to tell them apart, and the part of the prompts is
    never shorter than Tango's score interval for none of them (Stat. Med. 17, 1998): z² / (prompts + z²) either way.

    Equal numbers of seeds are paired column by column, so that what a seed does to both cancels; pairing seeds that
    have nothing in common is valid as well. One column, such as a model that was not trained, has no seed variance.
    Outcomes that are no rates, such as numbers of tokens, have a t interval for the part of the prompts.

    Raises:
        SaferlrmError: different numbers of prompts, or values that are not finite.
    """
    return _difference(_matrix(before), _matrix(after), level)


def crossed_ratio(before: ArrayLike, after: ArrayLike, level: float = 0.95) -> Interval:
    """``mean(after) / mean(before)`` of outcomes that are not negative, shapes as for a difference.

    Its interval holds the ratios r for which that of ``mean(after) - r mean(before)`` holds 0: Fieller's argument with
    these intervals (Donner and Zou, Stat. Methods Med. Res. 21, 2012). It has no upper bound where ``before`` may be 0.
    """
    a, b = _matrix(before), _matrix(after)
    if min(a.min(), b.min()) < 0:
        raise SaferlrmError("a ratio needs outcomes that are not negative; take their difference")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(b.mean() / a.mean())

    def end(r: float, name: str) -> float:
        return float(getattr(_contrast(a, b, r, level), name))

    low, high = 0.0, np.inf
    if end(0.0, "low") > 0:
        top = min(ratio, LARGEST_RATIO)
        low = top if end(top, "low") > 0 else optimize.brentq(end, 0.0, top, args=("low",))
    if end(LARGEST_RATIO, "high") < 0:
        high = optimize.brentq(end, ratio, LARGEST_RATIO, args=("high",))
    return Interval(ratio, float(low), float(high), len(a), level, METHOD)


def crossed_odds_ratio(before: ArrayLike, after: ArrayLike, level: float = 0.95) -> Interval:
    """Odds of ``after`` over the odds of ``before``, both rates [prompts, seeds].

    The two intervals are joined by squares on the scale of log odds (Zou and Donner, 2008). The pairing is not used,
    which widens the interval where prompts that are hard once are hard again; so does joining the bounds as they are
    where a rate is 0 or 1.
    """
    one, two = crossed_rate(before, level), crossed_rate(after, level)
    with np.errstate(divide="ignore", invalid="ignore"):
        (a, a_low, a_high), (b, b_low, b_high) = (
            np.log(p) - np.log1p(-p) for p in (np.array([i.estimate, i.low, i.high]) for i in (one, two))
        )
        low, high = b_low - a_high, b_high - a_low
        if np.isfinite([a, b]).all():
            low, high = b - a - np.hypot(b - b_low, a_high - a), b - a + np.hypot(b_high - b, a - a_low)
        return Interval(*(float(np.exp(v)) for v in (b - a, low, high)), one.n, level, METHOD)


def p_value(before: ArrayLike, after: ArrayLike, null: float = 0.0) -> float:
    """Two-sided p-value of the difference being ``null``: 1 - the level whose interval just reaches ``null``."""
    a, b = _matrix(before), _matrix(after)
    above = null > b.mean() - a.mean()

    def reach(log_p: float) -> float:
        found = _difference(a, b, 1 - float(np.exp(log_p)))
        return found.high - null if above else null - found.low

    least, most = np.log(SMALLEST_P), np.log(1 - 1e-9)
    if reach(most) >= 0:  # the estimate itself
        return 1.0
    return SMALLEST_P if reach(least) <= 0 else float(np.exp(optimize.brentq(reach, least, most)))


def holm(p_values: ArrayLike) -> np.ndarray:
    """p-values adjusted for their number by Holm's step-down method (Scand. J. Stat. 6, 1979), in the given order."""
    p = np.asarray(p_values, float)
    return multipletests(p, method="holm")[1] if p.size else p


def verdict_sentence(interval: Interval, before: str, after: str, digits: int = 3) -> str:
    """A difference in one plain sentence: who minus whom, the numbers, and on which side of 0 the interval lies."""
    if interval.low <= 0 <= interval.high:
        where = "the interval contains 0, so no difference can be claimed"
    else:
        where = f"the whole interval is {'above' if interval.low > 0 else 'below'} 0"
    numbers = (round(v, digits) + 0.0 for v in (interval.estimate, interval.low, interval.high))  # no -0.000
    middle, low, high = (f"{v:.{digits}f}".replace("-", "−") for v in numbers)
    return f"{after} minus {before}: {middle} [{low}, {high}]; {where}."


def outcomes(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Outcomes [prompts, seeds] of tidy rows of one condition: the mean over a prompt's samples.

    Rows without the metric, and prompts that some seed lacks, are left out.
    """
    present = rows[rows[metric].notna()].astype({metric: float})
    return present.pivot_table(index="prompt_id", columns="seed", values=metric).dropna()


def crossed_rates(rows: pd.DataFrame, metric: str, by: Sequence[str]) -> pd.DataFrame:
    """Means of a metric over prompts and seeds in each group of tidy rows; samples of a prompt count as their mean.

    Returns:
        The grouping columns and ``metric``, ``rate``, ``low``, ``high`` (95 %), ``n`` (prompts), ``seeds``.
    """
    found = []
    for group, part in rows[rows[metric].notna()].groupby(list(by), observed=True, sort=False):
        wide = outcomes(part, metric)
        interval = crossed_rate(wide.to_numpy())
        found.append(
            dict(zip(by, group, strict=True))
            | {"metric": metric, "rate": interval.estimate, "low": interval.low, "high": interval.high}
            | {"n": interval.n, "seeds": wide.shape[1]}
        )
    return pd.DataFrame(found, columns=[*by, "metric", "rate", "low", "high", "n", "seeds"])


def paired(before: pd.DataFrame, after: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Two tables of :func:`outcomes` on the prompts that both have; empty if they share none."""
    shared = before.index.intersection(after.index)
    return before.loc[shared].to_numpy(), after.loc[shared].to_numpy()


def contrasts(
    rows: pd.DataFrame,
    metric: str,
    pairs: Sequence[tuple[str, str]],
    by: Sequence[str] = ("suite", "mode"),
    names: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Differences of conditions, on the prompts that both answered, with p-values corrected for their number.

    Args:
        rows: tidy rows with ``prompt_id``, ``condition``, ``seed``, ``metric`` and the grouping columns.
        pairs: (before, after), names of conditions; a group that lacks one of them has no row.
        names: what the sentences call a condition.

    Returns:
        The grouping columns and ``metric``, ``before``, ``after``, ``difference``, ``low``, ``high`` (95 %), ``p``,
        ``p_holm`` (the family is this table), ``n`` (prompts), ``seeds`` (of the condition that has more),
        ``sentence``.
    """
    missing = [name for name in ("prompt_id", "condition", "seed", metric, *by) if name not in rows]
    if missing:
        raise SaferlrmError(f"contrasts need a column {missing[0]!r}; the table has {', '.join(rows)}")
    called, found = dict(names or {}), []
    wanted = {name for pair in pairs for name in pair}
    for group, part in rows.groupby(list(by), observed=True, sort=False):
        read = {name: outcomes(part[part["condition"] == name], metric) for name in wanted}
        for before, after in pairs:
            a, b = paired(read[before], read[after])
            if not len(a):
                continue
            interval = crossed_difference(a, b)
            found.append(
                dict(zip(by, group, strict=True))
                | {"metric": metric, "before": before, "after": after, "difference": interval.estimate}
                | {"low": interval.low, "high": interval.high, "p": p_value(a, b), "p_holm": np.nan}
                | {"n": interval.n, "seeds": max(a.shape[1], b.shape[1])}
                | {"sentence": verdict_sentence(interval, called.get(before, before), called.get(after, after))}
            )
    table = pd.DataFrame(found)
    return table.assign(p_holm=holm(table["p"])) if found else table


def _difference(a: np.ndarray, b: np.ndarray, level: float) -> Interval:
    z2 = float(stats.norm.ppf((1 + level) / 2)) ** 2
    return _contrast(a, b, 1.0, level, z2 / (len(a) + z2))


def _contrast(a: np.ndarray, b: np.ndarray, weight: float, level: float, least: float = 0.0) -> Interval:
    """``mean(b) - weight * mean(a)`` with its interval; see the module's text.

    Args:
        least: what the prompts' part of the interval of a difference of rates reaches at least, either way.
    """
    if len(a) != len(b):
        raise SaferlrmError(f"paired outcomes must be of the same prompts: {len(a)} before, {len(b)} after")
    estimate = float(b.mean() - weight * a.mean())
    rates = min(a.min(), b.min()) >= 0 and max(a.max(), b.max()) <= 1
    below, above = _margins_of_rates(a, b, weight, level) if rates else _margins_of_means(a, b, weight, level)
    below, above = (max(below, least), max(above, least)) if rates else (below, above)
    apart = a.shape[1] != b.shape[1] and min(a.shape[1], b.shape[1]) > 1
    seeds = sum(_margin_of_seeds(y, level) ** 2 for y in ([b, weight * a] if apart else [b - weight * a]))
    low, high = estimate - np.sqrt(below**2 + seeds), estimate + np.sqrt(above**2 + seeds)
    if rates:
        low, high = max(0.0 - weight, low), min(1.0, high)
    return Interval(estimate, float(low), float(high), len(a), level, METHOD)


def _margins_of_rates(a: np.ndarray, b: np.ndarray, weight: float, level: float) -> tuple[float, float]:
    """How far the interval over prompts reaches below and above (Newcombe, Stat. Med. 17, 1998, method 10).

    It is stats.paired_difference with Newcombe's correction of the correlation: two models that answer every prompt
    alike have an interval too.
    """
    one, two = rate(a, level), rate(b, level)
    x, y = a.mean(1), b.mean(1)
    shared, spread = float(np.mean((x - x.mean()) * (y - y.mean()))), float(x.std() * y.std())
    if shared > 0:
        shared = max(0.0, shared - 0.5 / max(a.size, b.size))
    rho = shared / spread if spread > 0 else 0.0
    below = (two.estimate - two.low, weight * (one.high - one.estimate))
    above = (two.high - two.estimate, weight * (one.estimate - one.low))
    below, above = (float(np.sqrt(max(0.0, s**2 + t**2 - 2 * rho * s * t))) for s, t in (below, above))
    return below, above


def _margins_of_means(a: np.ndarray, b: np.ndarray, weight: float, level: float) -> tuple[float, float]:
    means = b.mean(1) - weight * a.mean(1)
    if len(means) < 2:
        raise SaferlrmError("the interval of a mean needs two prompts or more")
    margin = float(stats.t.ppf((1 + level) / 2, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means)))
    return margin, margin


def _margin_of_seeds(y: np.ndarray, level: float) -> float:
    prompts, seeds = y.shape
    if seeds == 1:
        return 0.0
    by_prompt, by_seed = y.mean(1, keepdims=True), y.mean(0, keepdims=True)
    between = prompts * by_seed.var(ddof=1)
    rest = ((y - by_prompt - by_seed + y.mean()) ** 2).sum() / (max(1, prompts - 1) * (seeds - 1))
    variance = max(0.0, between - rest / 2) / y.size
    return float(stats.t.ppf((1 + level) / 2, seeds - 1) * np.sqrt(variance))
