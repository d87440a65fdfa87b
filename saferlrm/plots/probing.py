"""Where the safety decision can be read: probes by layer, and along the thought."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saferlrm.plots import style

CONTROLS = {
    "probe": ("logistic probe", style.PALETTE["probe"], "-", "o"),
    "difference_in_means": ("difference in means", style.PALETTE["difference in means"], "-", "s"),
    "bag_of_words": ("bag of words", style.PALETTE["bag of words"], "--", "D"),
    "shuffled": ("shuffled labels", style.PALETTE["detached"], ":", "^"),
    "random_direction": ("random direction", style.PALETTE["shuffled"], ":", "v"),
}
GROUPS = {
    "direct": "direct requests",
    "wrapped": "seen jailbreaks",
    "novel_wrapped": "unseen jailbreaks",
    "scary": "safe but scary",
}
POSITIONS = {"prompt_last": "the prompt's\nlast token", "pre_cot": "the last token\nbefore the thought"}
CAPTION = "Bands: 95 % intervals; 0.5 is chance."


def probe_by_layer(probes: pd.DataFrame) -> Figure:
    """AUROC of reading harmful against harmless at each layer, a panel per position and group of prompts.

    Args:
        probes: columns ``position``, ``layer``, ``group``, ``control``, ``auroc``, ``low``, ``high``, ``n``.
    """
    style.require(
        probes, ("position", "layer", "group", "control", "auroc", "low", "high", "n"), "probe_by_layer"
    )
    positions = style.in_order(probes["position"].dropna(), list(POSITIONS))
    groups = style.in_order(probes["group"], list(GROUPS))
    figure, axes = style.canvas(
        len(positions), len(groups), 2.7 * len(positions) + 1.6, width=10.5, sharex=True, sharey=True
    )
    for row, position in zip(axes, positions, strict=True):
        for ax, group in zip(row, groups, strict=True):
            # A bag of words has no position: its line is the same in every row.
            here = (probes["position"] == position) | probes["position"].isna()
            _lines(ax, probes[here & (probes["group"] == group)], "layer")
            ax.set_title(GROUPS.get(group, group.replace("_", " ")) if position == positions[0] else "")
        row[0].set_ylabel(f"AUROC, {POSITIONS.get(position, position)}")
    for ax in axes[-1]:
        ax.set_xlabel("layer (0: embeddings)")
        ax.set_xticks(sorted(probes["layer"].dropna().unique()))
    caption = f"{style.counts(probes['n'])} held-out prompts a point. {CAPTION}"
    return style.finish(
        figure,
        _layer_finding(probes, groups),
        caption,
        "Lines of AUROC by layer for probes and controls.",
        axes[0, 0],
    )


def _layer_finding(probes: pd.DataFrame, groups: list[str]) -> str:
    group = "novel_wrapped" if "novel_wrapped" in groups else groups[0]
    part = probes[probes["group"] == group]
    real = part[part["control"] == "probe"].dropna(subset="auroc")
    if real.empty:
        return "Reading the safety decision from hidden states"
    best = real.loc[real["auroc"].idxmax()]
    text = (
        f"Before the thought, layer {best['layer']:.0f} tells harmful from harmless "
        f"({GROUPS.get(group, group)}) with AUROC {best['auroc']:.2f}"
    )
    others = [
        f"{CONTROLS[name][0]} {found.max():.2f}"
        for name in ("bag_of_words", "shuffled", "random_direction")
        if len(found := part.loc[part["control"] == name, "auroc"].dropna())
    ]
    return text + (f"; at best {', '.join(others)}" if others else "")


def probe_along_thought(thought_probes: pd.DataFrame) -> Figure:
    """AUROC along the thought: probe and controls at the probe's best layer, and the probe at every layer.

    Args:
        thought_probes: columns ``fraction`` (of the thought), ``layer``, ``control``, ``auroc``, ``low``,
            ``high``, ``n``.
    """
    needed = ("fraction", "layer", "control", "auroc", "low", "high", "n")
    style.require(thought_probes, needed, "probe_along_thought")
    real = thought_probes[thought_probes["control"] == "probe"]
    style.require(real, needed, "probe_along_thought")
    layer = real.groupby("layer")["auroc"].mean().idxmax()
    at_best = thought_probes[(thought_probes["layer"] == layer) | thought_probes["layer"].isna()]
    figure, axes = style.canvas(1, 2, 5.4, width=10.5, width_ratios=[1.1, 1])
    left, right = axes[0]
    _lines(left, at_best, "fraction")
    left.set_title(f"layer {layer:.0f}")
    left.set_ylabel("AUROC")
    left.set_xlabel("share of the thought that is written")
    left.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    wide = real.pivot_table(index="layer", columns="fraction", values="auroc").sort_index(ascending=False)
    wide.columns = [f"{100 * f:.0f} %" for f in wide.columns]
    sns.heatmap(
        wide, ax=right, vmin=0.5, vmax=1, cmap="cividis", annot=wide.size <= 60, fmt=".2f",
        annot_kws={"fontsize": 12},
        cbar_kws={"label": "AUROC", "pad": 0.02},
    )  # fmt: skip
    right.set_title("logistic probe, every layer")
    right.set_xlabel("share of the thought")
    right.tick_params(axis="y", rotation=0)
    line = real[real["layer"] == layer].sort_values("fraction")
    first, last = line.iloc[0], line.iloc[-1]
    change = "stays" if abs(last["auroc"] - first["auroc"]) < 0.03 else "goes"
    joined = "at" if change == "stays" else "from"
    finding = (
        f"Along the thought, layer {layer:.0f} {change} {joined} AUROC {first['auroc']:.2f} at its start "
        f"{'and' if change == 'stays' else 'to'} {last['auroc']:.2f} at its end"
    )
    caption = f"{style.counts(thought_probes['n'])} held-out prompts a point. {CAPTION}"
    return style.finish(figure, finding, caption, "Lines and a heat map of AUROC along the thought.", left)


def _lines(ax: Axes, table: pd.DataFrame, x: str) -> None:
    for control in style.in_order(table["control"], list(CONTROLS)):
        name, shade, dash, marker = CONTROLS.get(control, (control, "#CC79A7", "-", "P"))
        part = table[table["control"] == control]
        look = {"color": shade, "linestyle": dash}
        if part[x].isna().all():  # a baseline that reads no layer
            one = part.iloc[0]
            ax.axhline(one["auroc"], label=name, **look)
            ax.axhspan(one["low"], one["high"], color=shade, alpha=0.1)
            continue
        part = part.dropna(subset=x).sort_values(x)
        style.line(
            ax, part[x].astype(float), part["auroc"], part["low"], part["high"], name, marker=marker, **look
        )
    ax.axhline(0.5, color="#CCCCCC", linewidth=1, zorder=0)
    low = float(np.nanmin([table["low"].min(), 0.4])) if len(table) else 0.4
    ax.set_ylim(max(0.0, min(ax.get_ylim()[0], low)), 1.03)
