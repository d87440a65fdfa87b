"""Numbers that claims are decided by: each a function from the results to what was measured.

Rates and differences carry the variance of prompts and of alignment seeds; see :mod:`saferlrm.crossed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from saferlrm.align.methods import METHODS
from saferlrm.answers import WHO, Answers, Pair
from saferlrm.conditions import BEFORE
from saferlrm.crossed import (
    crossed_difference,
    crossed_odds_ratio,
    crossed_rate,
    crossed_ratio,
    holm,
    p_value,
    paired,
)
from saferlrm.stats import Interval, auroc, bootstrap_mean
from saferlrm.verdicts import Measured, Results, UnmeasuredError

Measure = Callable[[Results], Measured]
Parts = Callable[[Results], Mapping[str, Measured]]
WORDS = ("TF-IDF + logistic regression",)  # what the prompts' words alone give away
POINTS, SHARE, RATIO = "difference of rates", "rate", "ratio"
UNALIGNED = "the model before alignment has no alignment seeds"
Compare = Callable[[np.ndarray, np.ndarray, float], Interval]
Ends = tuple[float, float]


def share(of: Answers) -> Measure:
    """A rate, or the mean of a number."""

    def measure(results: Results) -> Measured:
        found = of.read(results)
        y = found.to_numpy()

        def at(level: float) -> Ends:
            return _ends(crossed_rate(y, level))

        def best() -> Sequence[Ends]:
            return [_ends(crossed_rate(np.full_like(y, end))) for end in (0.0, 0.5, 1.0)]

        return _measured(crossed_rate(y), _seeds((of, found)), SHARE, at, best if _binary(y) else None)

    return measure


def change(before: Answers, after: Answers) -> Measure:
    """``after`` minus ``before``, paired by prompt and, with the same number of seeds, by seed."""
    return _compared(before, after, crossed_difference, POINTS)


def ratio(before: Answers, after: Answers) -> Measure:
    """``after`` over ``before``."""
    return _compared(before, after, crossed_ratio, RATIO)


def odds(before: Answers, after: Answers) -> Measure:
    """Odds of ``after`` over the odds of ``before``."""
    return _compared(before, after, crossed_odds_ratio, "ratio of odds")


def reduction(before: Answers, after: Answers) -> Measure:
    """By which share of ``before`` it is less ``after``: 1 - ratio."""

    def measure(results: Results) -> Measured:
        return _flipped(ratio(before, after)(results), 1.0, "share of what it was")

    return measure


def less(before: Answers, after: Answers) -> Measure:
    """``before`` minus ``after``: by how much it fell."""
    return lambda results: _flipped(change(before, after)(results), 0.0, POINTS)


def rise_lost(before: Answers, after: Answers) -> Measure:
    """By how much less attack success rises from thinking off to on in ``after`` than it does in ``before``.

    The two rises are joined by squares and not paired, which is wider than need be.
    """

    def measure(results: Results) -> Measured:
        one, two = (change(who.but(mode="off"), who)(results) for who in (before, after))
        value = one.value - two.value
        low = value - np.hypot(one.value - one.low, two.high - two.value)
        high = value + np.hypot(one.high - one.value, two.value - two.low)
        return Measured(value, float(low), float(high), min(one.n, two.n), max(one.seeds, two.seeds), POINTS)

    return measure


def tokens_saved(before: Answers, after: Answers) -> Measure:
    """Share of the tokens saved, and beside it how many an answer, with a bootstrap over prompts."""

    def measure(results: Results) -> Measured:
        found = reduction(before, after)(results)
        one, two = (who.read(results).mean(axis=1) for who in (before, after))
        drawn = bootstrap_mean((one - two).dropna())
        also = {"tokens an answer": drawn.estimate, "bootstrap from": drawn.low, "to": drawn.high}
        return replace(found, also=also)

    return measure


def only(measure: Measure, **also: Measure) -> Parts:
    """A claim of one part; ``also`` are numbers that stand beside it, where they were measured."""

    def parts(results: Results) -> Mapping[str, Measured]:
        found = measure(results)
        return {"": replace(found, also=dict(found.also) | _beside(results, also))}

    return parts


def every(**measures: Measure) -> Parts:
    """A claim of several parts; underscores in their names are spaces."""
    return lambda results: {name.replace("_", " "): measure(results) for name, measure in measures.items()}


def family(pairs: Mapping[str, Pair], mine: str, bound: float) -> Parts:
    """The comparison ``mine`` of a family, its p-value corrected by Holm for all that were measured.

    Args:
        pairs: name to (before, after).
        bound: the difference that the p-values test, which is that of the claim's rule.
    """

    def parts(results: Results) -> Mapping[str, Measured]:
        before, after = pairs[mine]
        found = change(before, after)(results)
        p = results.once((*pairs.items(), bound), lambda: _corrected(results, pairs, bound))
        also = {"p, corrected": p[mine], "comparisons": float(len(p))}
        also |= _beside(results, {_name(who): share(who) for who in (before, after)})
        return {"": replace(found, p=p[mine], also=also)}

    return parts


def organisms(
    measure: Callable[[int], Measure], needed: int, without: tuple[int, ...] = (), table: str = "organisms"
) -> Parts:
    """The same measure on every organism of a table, by growth seed; ``without`` those on which the claim was found.

    Raises:
        UnmeasuredError: there are fewer than ``needed`` organisms.
    """

    def parts(results: Results) -> Mapping[str, Measured]:
        grown = sorted({int(seed) for seed in results.tidy(table)["organism"]} - set(without))
        if len(grown) < needed:
            raise UnmeasuredError(f"{needed} organisms are needed and {len(grown)} were measured")
        return {f"organism {seed}": measure(seed)(results) for seed in grown}

    return parts


def lowest_to_highest(of: Answers, setting: str) -> Measure:
    """From the lowest to the highest value of a decoding setting, on the same prompts."""

    def measure(results: Results) -> Measured:
        tried, group = results.tidy(of.table), f"robustness:{setting}"
        values = tried.loc[(tried["group"] == group) & (tried[WHO[of.table]] == of.who), "value"]
        if values.nunique() < 2:
            raise UnmeasuredError(f"fewer than two values of {setting} were tried with {of.who}")
        low, high = (of.but(group=group, value=float(value)) for value in (values.min(), values.max()))
        ends = {f"at {setting} {dict(end.where)['value']:g}": share(end) for end in (low, high)}
        return replace(change(low, high)(results), also=_beside(results, ends))

    return measure


def probe(group: str, position: str = "pre_cot") -> Measure:
    """AUROC of the linear probe before the chain of thought, at the last layer.

    The layer is fixed in advance, because the best of several on the test prompts flatters.
    """

    def measure(results: Results) -> Measured:
        table = results.table("03_probes")
        here = table[(table["group"] == group) & (table["position"] == position) & (table["control"] == "probe")]
        if here.empty:
            raise UnmeasuredError(f"results/03_probes.json has no probe of {group} at {position}")
        layer = here["layer"].max()
        row = here[here["layer"] == layer].iloc[0]
        words = table.loc[(table["group"] == group) & (table["control"] == "bag_of_words"), "auroc"]
        also = {"layer": float(layer), "best layer": float(here["auroc"].max())}
        also |= {"bag of words": float(words.iloc[0])} if len(words) else {}
        numbers = (float(row[c]) for c in ("auroc", "low", "high"))
        return Measured(*numbers, int(row["n"]), 0, "AUROC", also, seedless=UNALIGNED)

    return measure


def classifiers(group: str, needed: int) -> Parts:
    """AUROC of every organism's own BERT classifier for that organism's decision, by growth seed.

    Each was trained once, so that three trainings on three organisms stand behind the claim. Beside the first: its
    accuracy, and what the prompts' words alone give away.

    Args:
        group: of the tidy table ``classifier``; ``all`` for every group together.

    Raises:
        UnmeasuredError: there are fewer than ``needed`` organisms.
    """

    def parts(results: Results) -> Mapping[str, Measured]:
        rows = results.tidy("classifier")
        rows = rows if group == "all" else rows[rows["group"] == group]
        grown = sorted(int(seed) for seed in rows["organism"].unique())
        if len(grown) < needed:
            raise UnmeasuredError(f"{needed} organisms are needed and {len(grown)} were measured")
        found = {}
        for seed in grown:
            part = rows[rows["organism"] == seed]
            labels, scores = part["refused"].to_numpy(bool), part["p_refuse"].to_numpy(float)

            def at(level: float, labels: np.ndarray = labels, scores: np.ndarray = scores) -> Ends:
                return _ends(auroc(labels, scores, level))

            once = _measured(auroc(labels, scores), 0, "AUROC", at, seedless="one training on each organism")
            found[f"organism {seed}"] = replace(once, also=_words(results, group) if seed == grown[0] else {})
        return found

    return parts


def _words(results: Results, group: str) -> dict[str, float]:
    """What stands beside the first classifier, of the table of notebook 04; empty without it."""
    try:
        table = results.table("04_classifier_scores")
    except UnmeasuredError:
        return {}
    here = table[table["group"] == group].set_index("model")
    also = {"accuracy": float(here.loc["BERT", "accuracy"])} if "BERT" in here.index else {}
    also |= {name: float(here.loc[name, "auroc"]) for name in WORDS if name in here.index}
    learned = results.settings("04_classifier_scores").get("classifier", {}).get("n_prompts")
    return also | ({"prompts it learned from": float(learned)} if learned else {})


def _corrected(results: Results, pairs: Mapping[str, Pair], bound: float) -> dict[str, float]:
    p = {}
    for name, pair in pairs.items():
        try:
            p[name] = p_value(*_paired(results, *pair)[:2], bound)
        except UnmeasuredError:
            continue
    return dict(zip(p, map(float, holm(list(p.values()))), strict=True))


def _compared(before: Answers, after: Answers, compare: Compare, unit: str) -> Measure:
    def measure(results: Results) -> Measured:
        a, b, seeds = _paired(results, before, after)

        def at(level: float) -> Ends:
            return _ends(compare(a, b, level))

        def best() -> Sequence[Ends]:
            """The aligned model at its extremes, and as the other with ever more prompts turned over by every seed."""
            first = before.who != BEFORE and after.who == BEFORE
            fixed, free = (b, a) if first else (a, b)
            same = fixed if fixed.shape == free.shape else np.repeat(fixed.mean(axis=1)[:, None], free.shape[1], axis=1)
            reached = [np.zeros_like(free), np.ones_like(free), *_turned(same)]
            return [_ends(compare(*((y, fixed) if first else (fixed, y)), 0.95)) for y in reached]

        return _measured(compare(a, b, 0.95), seeds, unit, at, best if _binary(a) and _binary(b) else None)

    return measure


def _turned(y: np.ndarray) -> list[np.ndarray]:
    """``y`` as it is, and with 1, 2, 4, ... prompts set to 0, or to 1, those first that are furthest from it."""
    order, made = np.argsort(y.mean(axis=1), kind="stable"), [y]
    for end, ranked in ((0.0, order[::-1]), (1.0, order)):
        for count in 2 ** np.arange(int(np.log2(len(y))) + 1):
            made.append(y.copy())
            made[-1][ranked[:count]] = end
    return made


def _paired(results: Results, before: Answers, after: Answers) -> tuple[np.ndarray, np.ndarray, int]:
    one, two = before.read(results), after.read(results)
    a, b = paired(one, two)
    if not len(a):
        raise UnmeasuredError(f"{before.who} and {after.who} have no prompt in common in results/tidy")
    return a, b, _seeds((before, one), (after, two))


def _seeds(*read: tuple[Answers, pd.DataFrame]) -> int:
    """The fewest alignment seeds of the aligned models; 0 if there is none."""
    return min((found.shape[1] for who, found in read if who.who != BEFORE), default=0)


def _name(of: Answers) -> str:
    return METHODS[of.who.partition("/")[0]].label


def _measured(
    found: Interval,
    seeds: int,
    unit: str,
    at: Callable[[float], Ends] | None = None,
    best: Callable[[], Sequence[Ends]] | None = None,
    seedless: str = "",
) -> Measured:
    seedless = seedless or (UNALIGNED if seeds == 0 else "")
    return Measured(
        found.estimate, found.low, found.high, found.n, seeds, unit, seedless=seedless, at=at, best=best
    )


def _flipped(found: Measured, total: float, unit: str) -> Measured:
    """``total`` minus what was measured, with all its intervals."""

    def turn(ends: Ends) -> Ends:
        return total - ends[1], total - ends[0]

    at, best = found.at, found.best
    low, high = turn((found.low, found.high))
    return replace(
        found, value=total - found.value, low=low, high=high, unit=unit,
        at=None if at is None else lambda level: turn(at(level)),
        best=None if best is None else lambda: [turn(ends) for ends in best()],
    )  # fmt: skip


def _ends(found: Interval) -> Ends:
    return found.low, found.high


def _binary(y: np.ndarray) -> bool:
    """Whether these are rates: of other numbers no best result can be named."""
    return bool((y.min() >= 0) and (y.max() <= 1))


def _beside(results: Results, also: Mapping[str, Measure]) -> dict[str, float]:
    found = {}
    for name, measure in also.items():
        try:
            found[name] = measure(results).value
        except UnmeasuredError:
            continue
    return found
