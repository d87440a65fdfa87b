"""The evidence: controls, their differences to λ = 0, sweeps, and rivals between safety and its price."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from saferlrm import evaluate
from saferlrm.conditions import BEFORE, FEW, SWEEPS
from saferlrm.plots import style
from saferlrm.plots.behaviour import INTERVALS
from saferlrm.plots.forest import BETTER, OPEN, WORSE, dot, grid, label_rows, rate_limits, seeds_said, spread, zero_line
from saferlrm.plots.measures import (
    ATTACKS,
    BUDGETS,
    MEASURES,
    PLAIN,
    PREFILLED,
    SCARY,
    WRAPPED,
    Measure,
    colour,
    condition_name,
    conditions,
)  # fmt: skip
from saferlrm.plots.rivals import rivals_frontier
from saferlrm.suites.synthetic import HARMFUL_SUITES

__all__ = ["control_differences", "controls", "rivals_frontier", "sweeps"]

# What a sweep calls its settings where the level is a key.
LEVELS = {
    "pre_cot": "pre-CoT",
    "prompt_last": "prompt end",
    "think_open": "<think>",
    "prompt_mean": "prompt mean",
    "on": "own",
    "forced": "long",
}


def controls(rows: pd.DataFrame) -> Figure:
    """Every control with the full alignment set and with few examples: three attacks, two over-refusals, accuracy.

    Args:
        rows: tidy rows with ``prompt_id``, ``suite``, ``mode``, ``attack_success``, ``refused``, ``correct``,
            ``group`` (``control``, ``few``), ``method`` and ``seed``.
    """
    needed = ("prompt_id", "suite", "mode", "attack_success", "refused", "correct", "group", "method", "seed")
    style.require(rows, needed, "controls")
    # The unaligned model belongs to both budgets; it is drawn once.
    unaligned = rows["method"] == BEFORE
    first = rows.loc[unaligned, "group"].head(1).tolist() or [""]
    table = rows[np.where(unaligned, rows["group"] == first[0], rows["group"].isin(BUDGETS))]
    style.require(table, needed, "controls")
    shown = [measure for measure in MEASURES if len(measure.of(table))]
    order = conditions(table["method"])
    budgets = style.in_order(table.loc[table["method"] != BEFORE, "group"], list(BUDGETS))
    figure, axes = grid(len(shown), len(order) * 0.42 + 0.7)
    sizes = []
    for ax, measure in zip(axes, shown, strict=True):
        rates = evaluate.rates(measure.of(table), measure.metric, ("method", "group"))
        sizes.append(rates["n"])
        for _, row in rates.iterrows():
            at, few = order.index(row["method"]), row["group"] == FEW
            alone = row["method"] == BEFORE or len(budgets) == 1
            place = at if alone else at + (0.18 if few else -0.18)
            dot(ax, row, ("rate", "low", "high"), place, colour(row["method"], at), int(few), few and not alone)
            if row["method"] == "sft":  # what every other row is compared with
                ax.axvline(row["rate"], color=colour("sft"), linewidth=1, linestyle=":" if few else "--", zorder=1)
        ax.set_title(measure.title)
        rate_limits(ax, rates, measure.metric == "correct")
    label_rows(axes, [condition_name(name) for name in order])
    for budget in budgets:
        few = budget == FEW
        look = {"marker": style.MARKERS[few], "markerfacecolor": "white" if few and len(budgets) > 1 else style.GREY}
        name = BUDGETS[budget]
        axes[0].plot([], [], color=style.GREY, linestyle=":" if few else "--", markersize=8, label=name, **look)
    caption = (
        f"{style.counts(pd.concat(sizes))} prompts a dot.{seeds_said(table)} {INTERVALS} Vertical lines: {PLAIN}. "
        "Clearly: the 95\u00a0% interval of the paired difference excludes 0, not corrected for the number of them."
    )
    shows = "Dots with intervals: a row for each control, a panel for each suite and metric."
    return style.finish(figure, _controls_finding(table, budgets), caption, shows, axes[0])


def _controls_finding(table: pd.DataFrame, budgets: list[str]) -> str:
    """On how many attacks the head adds something to the same training without it, by budget, with one example."""
    words = []
    for budget in budgets:
        part, gaps = table[table["group"] == budget], []
        for measure in ATTACKS:
            found = measure.of(part)
            if {"sft", "presafe"} <= set(found["method"]):
                gap = evaluate.compare(found, "attack_success", "sft", "presafe", ("group",)).iloc[0]
                rate = found.astype({"attack_success": float}).groupby("method")["attack_success"].mean()
                gaps.append((gap["difference"], gap["low"], gap["high"], measure, rate))
        if not gaps:
            continue
        safer = sum(high < 0 for _, _, high, *_ in gaps)
        worse = sum(low > 0 for _, low, *_ in gaps)
        *_, measure, rate = max(gaps, key=lambda gap: abs(gap[0]))
        words.append(
            f"on {safer} of {len(gaps)} attacks with {BUDGETS[budget]}"
            + (f", and less safe on {worse}" if worse else "")
            + f" ({ATTACKS[measure]}: {style.percent(rate['presafe'])} against {style.percent(rate['sft'])})"
        )
    if not words:
        return f"{table['method'].nunique()} conditions: attack success, over-refusal and problems solved"
    return f"PreSafe is clearly safer than {PLAIN} {'; '.join(words)}"


def control_differences(table: pd.DataFrame, against: Sequence[str] = ("sft",)) -> Figure:
    """What every control changes against λ = 0, around a line at no change; filled where it is decided.

    Args:
        table: one row per comparison: ``suite``, ``mode``, ``metric``, ``before``, ``after`` (methods or conditions),
            ``difference``, ``low``, ``high``, ``p_holm``, ``n`` (prompts), ``seeds``, and ``group`` (``control``,
            ``few``) where ``before`` and ``after`` do not end in ``/few``.
        against: the methods that stand in ``before`` of the comparisons shown. With several, rows name both sides.
    """
    needed = ("suite", "mode", "metric", "before", "after", "difference", "low", "high", "p_holm", "n", "seeds")
    style.require(table, needed, "control_differences")
    few = table["after"].str.endswith(f"/{FEW}") | (table["group"] == FEW if "group" in table else False)
    base, method = (table[side].str.partition("/")[0] for side in ("before", "after"))
    table = table.assign(few=few, base=base, method=method)[base.isin(against)]
    style.require(table, needed, "control_differences")
    known = {(m.suite, m.mode, m.metric): m.title for m in MEASURES}
    keys = ["suite", "mode", "metric"]
    panels = style.in_order(pd.Series(list(table[keys].itertuples(index=False, name=None))), list(known))
    pairs = [(one, two) for one in against for two in conditions(table["method"])]
    pairs = [pair for pair in pairs if (table[["base", "method"]] == pair).all(axis=1).any()]
    budgets = sorted(table["few"].unique())
    figure, axes = grid(len(panels), len(pairs) * (0.26 + 0.12 * len(budgets)) + 0.75)
    most = float(table[["low", "high"]].abs().to_numpy().max())
    for ax, panel in zip(axes, panels, strict=True):
        zero_line(ax, 1.08 * most)
        for _, row in table[(table[keys] == panel).all(axis=1)].iterrows():
            shade = {1: BETTER, -1: WORSE, 0: OPEN}[_judged(row)]
            place = pairs.index((row["base"], row["method"]))
            place += 0.36 * (row["few"] - 0.5) if len(budgets) == 2 else 0.0
            dot(ax, row, ("difference", "low", "high"), place, shade, int(row["few"]), shade == OPEN)
        ax.set_title(known.get(panel) or _panel_name(*panel))
    label_rows(axes, [_pair_name(*pair, alone=len(against) == 1) for pair in pairs])
    for ax in axes[-3:]:
        ax.set_xlabel("points")
    for shade, name in ((BETTER, "better"), (WORSE, "worse"), (OPEN, "not decided")):
        face = "white" if shade == OPEN else shade
        axes[0].plot([], [], "o", color=shade, markerfacecolor=face, markersize=8, label=name)
    for small in budgets if len(budgets) == 2 else ():
        name = BUDGETS[FEW if small else "control"]
        axes[0].plot([], [], style.MARKERS[int(small)], color=style.GREY, markersize=8, label=name)
    caption = (
        f"{style.counts(table['n'])} prompts a comparison, {spread(table['seeds'])} seeds. Bars: 95\u00a0% intervals "
        "of the difference, paired by prompt, not corrected. Decided: p < 0.05 after Holm's correction."
    )
    shows = "Dots with intervals around a line at zero: a row a comparison, a panel for each suite and metric."
    return style.finish(figure, _differences_finding(table, pairs), caption, shows, axes[0])


def _judged(row: pd.Series) -> int:
    """1: better, -1: worse, 0: not decided after correction."""
    if not row["p_holm"] < 0.05:
        return 0
    more_is_better = row["metric"] == "correct" or (row["metric"] == "refused" and row["suite"] in HARMFUL_SUITES)
    return int(np.sign(row["difference"]) * (1 if more_is_better else -1))


def _differences_finding(table: pd.DataFrame, pairs: list[tuple[str, str]]) -> str:
    judged = table.assign(judged=[_judged(row) for _, row in table.iterrows()])
    bases = {base for base, _ in pairs}
    words = []
    for pair in pairs:
        found = judged.loc[(judged[["base", "method"]] == pair).all(axis=1), "judged"]
        counts = [(int((found > 0).sum()), "better"), (int((found < 0).sum()), "worse")]
        said = [f"{n} {word}" for n, word in counts if n]
        if said:
            words.append(f"{_pair_name(*pair, alone=len(bases) == 1)} {' and '.join(said)}")
    to = f" to {condition_name(pairs[0][0])}" if len(bases) == 1 else ""
    text = f"{int((judged['judged'] != 0).sum())} of {len(table)} differences{to} are decided"
    return f"{text}: {', '.join(words)}" if words else text


def _pair_name(base: str, method: str, alone: bool) -> str:
    return condition_name(method) if alone else f"{condition_name(method)} − {condition_name(base)}"


def _panel_name(suite: str, mode: str, metric: str) -> str:
    metric = "over-refusal" if metric == "refused" and suite not in HARMFUL_SUITES else metric.replace("_", " ")
    return f"{metric.capitalize()},\n{style.suite_name(suite)}{'' if mode == 'on' else f', {mode}'}"


def sweeps(rows: pd.DataFrame, names: Sequence[str] = tuple(SWEEPS)) -> Figure:
    """One setting at a time: attack success in two ways and over-refusal, with the head and without it.

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
    columns = (WRAPPED, PREFILLED, SCARY)
    figure, axes = style.canvas(len(groups), len(columns), 1.45 * len(groups) + 2.0, width=10.5, sharey="col")
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
        row[0].set_ylabel(textwrap.fill(_sweep_name(group), 14), rotation=0, ha="right", va="center", labelpad=8)
    for ax, measure in zip(axes[0], columns, strict=True):
        ax.set_title(measure.title)
        ax.set_ylim(0, None)
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
    rates = evaluate.rates(part.assign(value=part["value"].fillna(-1.0)), measure.metric, ("value",))
    rates = rates.sort_values("value")
    shade, name = colour(method), condition_name(method)
    if len(rates) == 1 and method == "sft":
        one = rates.iloc[0]
        ax.axhline(one["rate"], color=shade, linestyle="--", label=name)
        ax.axhspan(one["low"], one["high"], color=shade, alpha=0.13, linewidth=0)
    else:
        at, look = rates["value"].map(place), {"color": shade, "marker": "s" if method == "sft" else "o"}
        style.line(ax, at, rates["rate"], rates["low"], rates["high"], name, markersize=6, **look)
    return rates["n"]


def _sweeps_finding(parts: Mapping[str, pd.DataFrame]) -> str:
    """The setting that moves attack success with the head most, and where the head gains most over λ = 0."""
    ranges, gains = [], []
    for group, part in parts.items():
        attacked = pd.concat([WRAPPED.of(part), PREFILLED.of(part)]).astype({"attack_success": float})
        mean = attacked.groupby(["method", "value", "level"], dropna=False)["attack_success"].mean()
        if "presafe" not in mean.index:
            continue
        head = mean["presafe"]
        name = _sweep_name(group)
        if len(head) > 1:
            ends = [f"{style.percent(value)} at {LEVELS.get(at, at)}" for (_, at), value in
                    ((head.idxmax(), head.max()), (head.idxmin(), head.min()))]  # fmt: skip
            ranges.append((head.max() - head.min(), f"{name}: {' and '.join(ends)}"))
        if "sft" in mean.index:
            plain = mean["sft"]
            gain = head.rsub(plain.iloc[0]) if len(plain) == 1 else (plain - head).dropna()
            at = gain.idxmax()
            before = plain.iloc[0] if len(plain) == 1 else plain[at]
            said = f"{name}, {LEVELS.get(at[1], at[1])}: {style.percent(head[at])} against {style.percent(before)}"
            gains.append((gain[at], said))
    if not ranges:
        return f"{len(parts)} sweeps of a single setting"
    text = f"Attack success with PreSafe depends most on the {max(ranges)[1]}"
    if gains and max(gains)[0] > 0:
        return f"{text}. The largest gain over {PLAIN} is at the {max(gains)[1]}"
    return f"{text}. It is nowhere below that of {PLAIN}" if gains else text
