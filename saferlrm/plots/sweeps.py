"""One setting of the alignment at a time: what attack success and over-refusal depend on, and where the head pays."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from saferlrm.conditions import SWEEPS
from saferlrm.crossed import crossed_rates
from saferlrm.plots import style
from saferlrm.plots.forest import INTERVALS, difference, seeds_said
from saferlrm.plots.measures import (
    ATTACKS,
    PLAIN,
    PREFILLED,
    SCARY,
    UNSEEN,
    WRAPPED,
    Measure,
    colour,
    condition_name,
    conditions,
)

# What a sweep calls its settings where the level is a key.
LEVELS = {
    "pre_cot": "pre-CoT",
    "prompt_last": "prompt end",
    "think_open": "<think>",
    "prompt_mean": "prompt mean",
    "on": "own",
    "forced": "long",
}


def sweeps(rows: pd.DataFrame, names: Sequence[str] = tuple(SWEEPS)) -> Figure:
    """One setting at a time: attack success in three ways and over-refusal, with the head and without it.

    Where a sweep changes the head alone, λ = 0 is drawn as one level: its own, or that of the sweep of λ.

    Args:
        rows: tidy rows with ``prompt_id``, ``suite``, ``mode``, ``attack_success``, ``refused``, ``group``
            (``sweep:<name>``), ``method``, ``value``, ``level`` (the value in words) and ``seed``.
        names: which sweeps, in this order.
    """
    needed = ("prompt_id", "suite", "mode", "attack_success", "refused", "group", "method", "value", "level", "seed")
    style.require(rows, needed, "sweeps")
    groups = [f"sweep:{name}" for name in names if f"sweep:{name}" in set(rows["group"])]
    parts = {group: _with_plain(rows, group) for group in groups}
    table = pd.concat([rows.head(0), *parts.values()])
    style.require(table, needed, "sweeps")
    columns = (UNSEEN, WRAPPED, PREFILLED, SCARY)
    figure, axes = style.canvas(len(groups), len(columns), 1.45 * len(groups) + 2.0, width=13.0, sharey="col")
    sizes = []
    for row, (group, part) in zip(axes, parts.items(), strict=True):
        varied = part.groupby("method")["value"].transform("nunique") > 1
        levels = part[varied if varied.any() else part["value"].notna()].drop_duplicates("value").sort_values("value")
        place = {value: i for i, value in enumerate(levels["value"])}
        for ax, measure in zip(row, columns, strict=True):
            found = measure.of(part)
            for method in conditions(found["method"]):
                sizes.append(_sweep_line(ax, found[found["method"] == method], measure, method, place))
            ax.set_xticks(range(len(levels)), [textwrap.fill(LEVELS.get(one, one), 8) for one in levels["level"]])
            ax.set_xlim(-0.3, max(len(levels) - 0.7, 0.7))
            if levels["level"].isin(LEVELS).any():  # words, which are wider than numbers
                ax.tick_params(axis="x", labelsize=9)
        row[0].set_ylabel(textwrap.fill(_sweep_name(group), 14), rotation=0, ha="right", va="center", labelpad=8)
    for ax, measure in zip(axes[0], columns, strict=True):
        ax.set_title(measure.title)
        high = min(1.0, ax.get_ylim()[1])
        ax.set_ylim(-0.07 * high, 1.07 * high)  # room for a dot at either end
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    caption = (
        f"{style.counts(pd.concat(sizes))} prompts a point.{seeds_said(table)} {INTERVALS.replace('Bars', 'Bands')} "
        "Settings stand at equal distances. Title: extremes of many settings, exploratory."
    )
    shows = "Small line charts: a row for each setting that is varied, a column for each metric."
    return style.finish(figure, _sweeps_finding(parts), caption, shows, axes[0, 0])


def _with_plain(rows: pd.DataFrame, group: str) -> pd.DataFrame:
    """The rows of one sweep, with λ = 0 from the sweep of λ where it has none: both have the same setting."""
    part = rows[rows["group"] == group]
    if "sft" in set(part["method"]):
        return part
    plain = rows[(rows["group"] == "sweep:lambda") & (rows["method"] == "sft")]
    return pd.concat([part, plain.assign(value=np.nan, level="")]) if len(plain) else part


def _sweep_name(group: str) -> str:
    name = group.removeprefix("sweep:")
    return SWEEPS.get(name, name.replace("_", " "))


def _sweep_line(ax: Axes, part: pd.DataFrame, measure: Measure, method: str, place: Mapping[float, int]) -> pd.Series:
    """A line over the settings, or one level where there is a single one; returns the numbers of prompts."""
    numbered = part.assign(value=part["value"].fillna(-1.0))
    drawn = crossed_rates(numbered, measure.metric, ("value",)).sort_values("value")
    shade, name = colour(method), condition_name(method)
    if len(drawn) == 1 and method == "sft":
        one = drawn.iloc[0]
        ax.axhline(one["rate"], color=shade, linestyle="--", label=name)
        ax.axhspan(one["low"], one["high"], color=shade, alpha=0.13, linewidth=0)
    else:
        at, look = drawn["value"].map(place), {"color": shade, "marker": "s" if method == "sft" else "o"}
        style.line(ax, at, drawn["rate"], drawn["low"], drawn["high"], name, markersize=6, **look)
    return drawn["n"]


def _sweeps_finding(parts: Mapping[str, pd.DataFrame]) -> str:
    """The setting that moves attack success in unseen jailbreaks most, and where the head and λ = 0 are apart."""
    ranges, gains = [], []
    for group, part in parts.items():
        attacked = WRAPPED.of(part).astype({"attack_success": float})
        mean = attacked.groupby(["method", "value", "level"], dropna=False)["attack_success"].mean()
        if "presafe" not in mean.index:
            continue
        head = mean["presafe"]
        name = _sweep_name(group)
        if len(head) > 1:
            ends = [f"{style.percent(value)} at {LEVELS.get(at, at)}" for (_, at), value in
                    ((head.idxmax(), head.max()), (head.idxmin(), head.min()))]  # fmt: skip
            ranges.append((head.max() - head.min(), f"{name}: {' and '.join(ends)}"))
        for measure in (UNSEEN, WRAPPED):
            attacked = measure.of(part).astype({"attack_success": float})
            plain = attacked[attacked["method"] == "sft"]
            for (value, level), rows in attacked[attacked["method"] == "presafe"].groupby(["value", "level"]):
                one = plain if plain["value"].nunique() < 2 else plain[plain["value"] == value]
                if len(one):
                    gap = difference(one, rows, "attack_success")
                    rate, before = (style.percent(float(side["attack_success"].mean())) for side in (rows, one))
                    at = f"{name}, {LEVELS.get(level, level)}, {ATTACKS[measure]}"
                    gains.append((gap, f"{at}: {rate} against {before}"))
    if not ranges:
        return f"{len(parts)} sweeps of a single setting"
    text = f"Attack success under unseen jailbreaks with PreSafe depends most on the {max(ranges)[1]}"
    clear = [(gap.estimate, said) for gap, said in gains if gap.high < 0]
    harm = [(gap.estimate, said) for gap, said in gains if gap.low > 0]
    if clear:
        text += f". The largest gain over {PLAIN} is at the {min(clear)[1]}"
    elif gains:
        text += f". No setting shows a gain over {PLAIN}"
    return f"{text}{'; ' if gains else '. '}most harm at the {max(harm)[1]}" if harm else text
