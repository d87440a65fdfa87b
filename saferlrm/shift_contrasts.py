"""Paired comparisons of shifts of the latent, with intervals over prompts and alignment seeds.

:func:`saferlrm.mechanism.shift_table` gives means, each with an interval over prompts. What is asked of them are
differences: does the shift lie along the direction more than along one of the states' own scatter, does it tell harmful
from harmless prompts, does the head add to it? Those are taken here prompt by prompt and seed by seed, and the two
parts of the interval are joined by squares, as in :mod:`saferlrm.crossed`. All of them are exploratory.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from saferlrm.stats import Interval

DIRECTION, SCATTER = "refusal", "within"
# What a condition is held against: the same examples and steps without the head's gradient.
WITHOUT_HEAD = {"presafe_decisions": "detached_decisions", "shuffled_decisions": "detached_decisions"}


def over_both(*values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of values [prompts, seeds], less that of a second table of other prompts and the same seeds if one is given.

    Half the width is the root of the sum of squares of t intervals: one over prompts for each table, of its means over
    seeds, and one over seeds, of the seeds' means. With one seed it is an interval over prompts alone.
    """
    tables = [np.asarray(one, float) for one in values]
    signs = (1.0, -1.0)[: len(tables)]
    squares, seeds = 0.0, 0.0
    for sign, table in zip(signs, tables, strict=True):
        squares += _t_half(table.mean(1), level) ** 2
        seeds = seeds + sign * table.mean(0)
    seeds = np.asarray(seeds)
    half = float(np.sqrt(squares + _t_half(seeds, level) ** 2))
    n = sum(len(table) for table in tables)
    return Interval(float(seeds.mean()), float(seeds.mean()) - half, float(seeds.mean()) + half, n, level, "t, joined")


def with_contrasts(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Adds to a table of shifts what is paired, in the rows of the refusal direction; NaN elsewhere.

    Args:
        table: of :func:`saferlrm.mechanism.shift_table`, by ``condition``, ``harmful``, ``layer``, ``direction``.
        rows: of :func:`saferlrm.mechanism.latent_shift` with ``condition`` and ``seed``, from which it was made.

    Returns:
        The table with ``moved`` (the projection again), ``beyond`` (share along the direction minus share along one of
        the states' own scatter), ``apart`` (projection of harmful minus that of harmless prompts) and ``added``
        (projection minus that of the same training without the head), each also with ``_low`` and ``_high``.
    """
    wide = {
        (*key, column): part.pivot_table(index="prompt_id", columns="seed", values=column).dropna()
        for key, part in rows.groupby(["condition", "harmful", "layer", "direction"], sort=False)
        for column in ("projection", "share")
    }
    found = [_contrasts(wide, row.condition, row.harmful, row.layer, row.direction) for row in table.itertuples()]
    return pd.concat([table.reset_index(drop=True), pd.DataFrame(found)], axis=1)


def _contrasts(
    wide: dict[tuple, pd.DataFrame], condition: str, harmful: bool, layer: int, direction: str
) -> dict[str, float]:
    empty = {f"{name}{end}": np.nan for name in ("moved", "beyond", "apart", "added") for end in ("", "_low", "_high")}
    own = wide.get((condition, harmful, layer, direction, "projection"))
    if direction != DIRECTION or own is None or own.empty:
        return empty
    found = {"moved": over_both(own.to_numpy())}
    scatter, share = (wide.get((condition, harmful, layer, name, "share")) for name in (SCATTER, direction))
    plain = without_head(condition)
    pairs = {"beyond": (scatter, share)}
    if plain != condition:
        pairs["added"] = (wide.get((plain, harmful, layer, direction, "projection")), own)
    for name, (before, after) in pairs.items():
        gap = None if before is None or after is None else (after - before).dropna(axis=1, how="all").dropna()
        if gap is not None and len(gap) > 1:
            found[name] = over_both(gap.to_numpy())
    both = [wide.get((condition, kind, layer, direction, "projection")) for kind in (True, False)]
    if all(one is not None and len(one) > 1 for one in both):
        found["apart"] = over_both(*(one.to_numpy() for one in both))
    for name, one in found.items():
        empty |= {name: one.estimate, f"{name}_low": one.low, f"{name}_high": one.high}
    return empty


def without_head(condition: str) -> str:
    """The condition that trains on the same examples, as many steps, without the head's gradient."""
    method, slash, budget = condition.partition("/")
    return WITHOUT_HEAD.get(method, method if method in WITHOUT_HEAD.values() else "sft") + slash + budget


def _t_half(values: np.ndarray, level: float) -> float:
    if len(values) < 2:
        return 0.0
    return float(stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
