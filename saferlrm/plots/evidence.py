"""The evidence: controls, and their differences to λ = 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saferlrm.align.methods import METHODS
from saferlrm.conditions import BEFORE, FEW
from saferlrm.crossed import crossed_rates
from saferlrm.plots import style
from saferlrm.plots.forest import (
    BETTER,
    INTERVALS,
    OPEN,
    WORSE,
    difference,
    dot,
    grid,
    label_rows,
    rate_limits,
    seeds_said,
    spread,
    zero_line,
)
from saferlrm.plots.measures import ATTACKS, BUDGETS, MEASURES, PLAIN, colour, condition_name, conditions
from saferlrm.suites.synthetic import HARMFUL_SUITES

# Their further prompts fill batches, so they take more steps than plain fine-tuning.
MORE_STEPS = tuple(name for name, method in METHODS.items() if method.decisions)


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
        drawn = crossed_rates(measure.of(table), measure.metric, ("method", "group"))
        sizes.append(drawn["n"])
        for _, row in drawn.iterrows():
            at, few = order.index(row["method"]), row["group"] == FEW
            alone = row["method"] == BEFORE or len(budgets) == 1
            place = at if alone else at + (0.18 if few else -0.18)
            dot(ax, row, ("rate", "low", "high"), place, colour(row["method"], at), int(few), few and not alone)
            if row["method"] == "sft":  # what every other row is compared with
                ax.axvline(row["rate"], color=colour("sft"), linewidth=1, linestyle=":" if few else "--", zorder=1)
        ax.set_title(measure.title)
        rate_limits(ax, drawn, measure.metric == "correct")
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
                plain, head = (found[found["method"] == name] for name in ("sft", "presafe"))
                gap = difference(plain, head, "attack_success")
                rate = found.astype({"attack_success": float}).groupby("method")["attack_success"].mean()
                gaps.append((gap.estimate, gap.low, gap.high, measure, rate))
        if not gaps:
            continue
        safer = sum(high < 0 for _, _, high, *_ in gaps)
        worse = sum(low > 0 for _, low, *_ in gaps)
        clear = [gap for gap in gaps if gap[1] > 0 or gap[2] < 0]
        *_, measure, rate = max(clear or gaps, key=lambda gap: abs(gap[0]))
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
    whole = table.assign(few=few, base=base, method=method)
    table = whole[base.isin(against)]
    style.require(table, needed, "control_differences")
    known = {(m.suite, m.mode, m.metric): m.title for m in MEASURES}
    keys = ["suite", "mode", "metric"]
    panels = style.in_order(pd.Series(list(table[keys].itertuples(index=False, name=None))), list(known))
    metrics = style.in_order(table["metric"], ("attack_success", "refused", "correct"))
    panels.sort(key=lambda panel: metrics.index(panel[2]))
    columns = 4 if len(panels) in (4, 7, 8) else 3
    found = dict(list(table.groupby(["base", "method"])))
    pairs = [pair for one in against for two in conditions(table["method"]) if (pair := (one, two)) in found]
    budgets = sorted(table["few"].unique())
    figure, axes = grid(len(panels), len(pairs) * (0.26 + 0.12 * len(budgets)) + 0.75, columns)
    most = float(table[["low", "high"]].abs().to_numpy().max())
    for ax, panel in zip(axes, panels, strict=True):
        zero_line(ax, 1.08 * most)
        for _, row in table.groupby(keys).get_group(panel).iterrows():
            shade = {1: BETTER, -1: WORSE, 0: OPEN}[_judged(row)]
            place = pairs.index((row["base"], row["method"]))
            place += 0.36 * (row["few"] - 0.5) if len(budgets) == 2 else 0.0
            dot(ax, row, ("difference", "low", "high"), place, shade, int(row["few"]), shade == OPEN)
        title = known.get(panel) or _panel_name(*panel)
        ax.set_title(title if columns == 3 else title.replace(" in ", " in\n"))
    label_rows(axes, [_pair_name(*pair, alone=len(against) == 1) for pair in pairs])
    for ax in axes[-columns:]:
        ax.set_xlabel("points")
    for shade, name in ((BETTER, "better"), (WORSE, "worse"), (OPEN, "not decided")):
        face = "white" if shade == OPEN else shade
        axes[0].plot([], [], "o", color=shade, markerfacecolor=face, markersize=8, label=name)
    for small in budgets if len(budgets) == 2 else ():
        name = BUDGETS[FEW if small else "control"]
        axes[0].plot([], [], style.MARKERS[int(small)], color=style.GREY, markersize=8, label=name)
    caption = (
        f"{style.counts(table['n'])} prompts a comparison, {spread(table['seeds'])} seeds. Bars: 95\u00a0% intervals "
        "of the difference, paired by prompt, not corrected. Decided: p < 0.05 after Holm's correction over all suites "
        "and metrics of one pair of methods on one alignment set."
    )
    shows = "Dots with intervals around a line at zero: a row a comparison, a panel for each suite and metric."
    return style.finish(figure, _differences_finding(table, pairs, whole), caption, shows, axes[0])


def _judged(row: pd.Series) -> int:
    """1: better, -1: worse, 0: not decided after correction."""
    if not row["p_holm"] < 0.05:
        return 0
    more_is_better = row["metric"] == "correct" or (row["metric"] == "refused" and row["suite"] in HARMFUL_SUITES)
    return int(np.sign(row["difference"]) * (1 if more_is_better else -1))


def _differences_finding(table: pd.DataFrame, pairs: list[tuple[str, str]], whole: pd.DataFrame) -> str:
    """How many are decided, for which pairs, and a caveat where all of them took more steps than what they beat."""
    judged = table.assign(judged=[_judged(row) for _, row in table.iterrows()])
    bases = {base for base, _ in pairs}
    words = []
    for pair in pairs:
        found = judged.groupby(["base", "method"])["judged"].get_group(pair)
        counts = [(int((found > 0).sum()), "better"), (int((found < 0).sum()), "worse")]
        said = [f"{n} {word}" for n, word in counts if n]
        if said:
            words.append(f"{_pair_name(*pair, alone=len(bases) == 1)} {' and '.join(said)}")
    to = f" to {condition_name(pairs[0][0])}" if len(bases) == 1 else ""
    text = f"{int((judged['judged'] != 0).sum())} of {len(table)} differences{to} are decided"
    decided = judged[judged["judged"] != 0]
    if len(decided) and decided["method"].isin(MORE_STEPS).all() and bases == {"sft"}:
        own = whole[whole["method"].isin(MORE_STEPS) & whole["base"].isin(MORE_STEPS)]
        beside = int(sum(_judged(row) != 0 for _, row in own.iterrows()))
        words[-1] += ". All of them have label-only prompts, and so more steps than λ = 0"
        if len(own):
            words[-1] += f"; against their own controls {beside} of {len(own)} are decided"
    return f"{text}: {', '.join(words)}" if words else text


def _pair_name(base: str, method: str, alone: bool) -> str:
    return condition_name(method) if alone else f"{condition_name(method)} − {condition_name(base)}"


def _panel_name(suite: str, mode: str, metric: str) -> str:
    metric = "over-refusal" if metric == "refused" and suite not in HARMFUL_SUITES else metric.replace("_", " ")
    return f"{metric.capitalize()},\n{style.suite_name(suite)}{'' if mode == 'on' else f', {mode}'}"
