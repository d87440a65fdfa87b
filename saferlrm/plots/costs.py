"""Safety decisions as decisions: the ROC with chosen thresholds, and what error rates mean at scale."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saferlrm import costs
from saferlrm.plots import style
from saferlrm.stats import auroc

COLOURS = ("#C79A4B", "#8C5A14", "#3D2500")  # of the cost ratios, darker where missing costs more
SETS = {"validation": style.PALETTE["control"], "test": style.PALETTE["classifier"]}


def decision_costs(predictions: pd.DataFrame, chosen: pd.DataFrame) -> Figure:
    """ROC on validation and test prompts with the thresholds chosen for each cost ratio, and precision by base rate.

    Args:
        predictions: ``prompts`` (``validation`` or ``test``), ``harmful``, ``p_refuse``.
        chosen: of :func:`saferlrm.costs.decisions` for the same prompts.
    """
    style.require(predictions, ("prompts", "harmful", "p_refuse"), "decision_costs")
    bounds = [f"{name}{end}" for name in ("miss", "false_alarm") for end in ("", "_low", "_high")]
    style.require(chosen, ("ratio", "threshold", "prompts", "n_harmful", "n_harmless", *bounds), "decision_costs")
    figure, axes = style.canvas(1, 2, 5.2, width=10.5)
    roc, scale = axes[0]
    areas = {}
    for name, shade in SETS.items():
        part = predictions[predictions["prompts"] == name]
        line = costs.curve(part["harmful"], part["p_refuse"])
        areas[name] = auroc(part["harmful"], part["p_refuse"])
        label = f"{name} prompts, AUROC {areas[name].estimate:.2f}"
        roc.step(line["false_alarm"], 1 - line["miss"], where="post", color=shade, label=label)
    test = chosen[chosen["prompts"] == "test"].reset_index(drop=True)
    # Ratios that lead to the same threshold lie on one another: the first is drawn largest, so that all are seen.
    over = [int((test["threshold"][i + 1 :] == row.threshold).sum()) for i, row in enumerate(test.itertuples())]
    for i, row in enumerate(test.itertuples()):
        roc.errorbar(
            row.false_alarm, 1 - row.miss,
            xerr=style.reach(row.false_alarm, row.false_alarm_low, row.false_alarm_high),
            yerr=style.reach(1 - row.miss, 1 - row.miss_high, 1 - row.miss_low),
            fmt=style.MARKERS[i % len(style.MARKERS)], color=COLOURS[i % len(COLOURS)], markersize=8 + 7 * over[i],
            zorder=5 + i,
            label=f"chosen for cost ratio {row.ratio:g}",
        )  # fmt: skip
    roc.plot([0, 1], [0, 1], color="#BBBBBB", linestyle="--", linewidth=1)
    style.rate_axis(roc, "x", "harmless, refused")
    style.rate_axis(roc, "y", "harmful, refused")
    roc.set_title("ROC and chosen thresholds")
    rates = np.geomspace(1e-4, 0.5, 60)
    for i, row in enumerate(test.itertuples()):
        found = costs.at_scale(*_intervals(row), rates)
        style.line(
            scale, found["base_rate"], found["precision"], found["precision_low"], found["precision_high"], "",
            color=COLOURS[i % len(COLOURS)], marker=style.MARKERS[i % len(style.MARKERS)], markevery=12,
            linewidth=2 + 4 * over[i], markersize=6 + 6 * over[i],
        )  # fmt: skip
    scale.set_xscale("log")
    scale.set_xticks([1e-4, 1e-3, 1e-2, 1e-1], ["0.01\u00a0%", "0.1\u00a0%", "1\u00a0%", "10\u00a0%"])
    scale.minorticks_off()
    scale.set_xlabel("share of harmful requests (logarithmic)")
    style.rate_axis(scale, "y", "of the refused, harmful")
    scale.set_title("What a refusal is worth at scale")
    first = test.iloc[0]
    thousandth = costs.at_scale(*_intervals(first), [0.001])["precision"].iloc[0]
    finding = (
        f"At one harmful request in 1,000, {style.percent(thousandth)} of the refused ones are harmful (cost ratio "
        f"{first['ratio']:g}); AUROC {areas['validation'].estimate:.2f} on validation, {areas['test'].estimate:.2f} on "
        "test prompts"
    )
    sizes = pd.concat([chosen["n_harmful"], chosen["n_harmless"]])
    caption = (
        f"{style.counts(sizes)} prompts of a kind and set. Thresholds are chosen on validation prompts. Bars: "
        "95\u00a0% intervals (Wilson); bands take both error rates at their worse and better ends together."
    )
    for _, same in test.groupby("threshold"):
        if len(same) > 1:
            ratios = " and ".join(f"{ratio:g}" for ratio in same["ratio"])
            caption += f" The ratios {ratios} lead to the same threshold."
    return style.finish(figure, finding, caption, "ROC curves, and lines of precision by base rate.", roc, 3)


def _intervals(row: object) -> tuple[costs.Interval, costs.Interval]:
    return costs.Interval(row.miss, row.miss_low, row.miss_high, int(row.n_harmful)), costs.Interval(
        row.false_alarm, row.false_alarm_low, row.false_alarm_high, int(row.n_harmless)
    )
