"""Alignment seen from inside: losses, and the gradients of the two objectives layer by layer."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saferlrm.plots import style

PANELS = {
    "lm_loss": "next-token loss",
    "aux_loss": "auxiliary loss",
    "head_accuracy": "accuracy of the head",
}
PLACES = {"latent": "at the latents (head's token)", "lora": "at the adapter's weights"}


def training_curves(histories: pd.DataFrame) -> Figure:
    """Losses along the alignment runs: a thin line per seed, a thick one for their mean.

    Args:
        histories: logging steps of all runs, columns ``method``, ``seed``, ``step`` and some of ``lm_loss``,
            ``aux_loss``, ``head_accuracy``.
    """
    style.require(histories, ("method", "seed", "step", "lm_loss"), "training_curves")
    shown = [name for name in PANELS if name in histories and histories[name].notna().any()]
    figure, axes = style.canvas(1, len(shown), 4.3, width=3.6 * len(shown) if len(shown) > 2 else style.WIDTH)
    order = style.methods(histories)
    for ax, column in zip(axes[0], shown, strict=True):
        for i, method in enumerate(order):
            part = histories[(histories["method"] == method) & histories[column].notna()]
            if part.empty:
                continue
            shade = style.colour(method, i)
            for _, run in part.groupby("seed"):
                ax.plot(run["step"], run[column], color=shade, linewidth=0.8, alpha=0.45)
            mean = part.groupby("step")[column].mean()
            ax.plot(
                mean.index,
                mean,
                color=shade,
                linestyle=("-", "--", "-.", ":")[i % 4],
                label=style.method_name(method),
            )
        ax.set_title(PANELS[column])
        ax.set_xlabel("step")
        if column == "head_accuracy":
            style.rate_axis(ax, "y")
        else:
            ax.set_ylim(bottom=0)
    last = histories.sort_values("step").groupby(["method", "seed"])["lm_loss"].last().groupby("method").mean()
    ends = ", ".join(f"{last[method]:.3f} with {style.method_name(method)}" for method in order)
    finding = f"Next-token loss at the end of alignment: {ends}"
    if "aux_loss" in shown:
        labelled = histories.dropna(subset="aux_loss")
        one = "presafe" if "presafe" in set(labelled["method"]) else labelled["method"].iloc[0]
        runs = labelled[labelled["method"] == one].groupby("seed")["aux_loss"].agg(["first", "last"]).mean()
        finding += f"; auxiliary loss from {runs['first']:.2f} to {runs['last']:.2f}"
    seeds = histories.groupby("method")["seed"].nunique()
    many = seeds.max() > 1
    steps = histories.groupby(["method", "seed"])["step"].nunique()
    caption = f"{style.counts(steps)} logged steps a run. " + (
        f"Thin lines: {seeds.max()} seeds a method, too few for an interval; thick lines: their means."
        if many
        else "One seed a method."
    )
    return style.finish(figure, finding, caption, "Lines of training losses by step.", axes[0, 0])


def safety_gradient(gradients: pd.DataFrame) -> Figure:
    """Gradient norms with and without the auxiliary head, and the cosine of both objectives, layer by layer.

    Args:
        gradients: columns ``of`` (``latent``, ``lora``), ``layer``, ``norm_lm``, ``norm_aux``,
            ``norm_total``, ``cosine``, each again with ``_low`` and ``_high`` (95 % intervals), and ``n``.
    """
    measures = ("norm_lm", "norm_aux", "norm_total", "cosine")
    columns = ("of", "layer", *measures, *(f"{name}_{end}" for name in measures for end in ("low", "high")), "n")
    style.require(gradients, columns, "safety_gradient")
    places = style.in_order(gradients["of"], list(PLACES))
    figure, axes = style.canvas(len(places), 2, 2.7 * len(places) + 1.5, width_ratios=[1.7, 1])
    bars = (
        ("norm_lm", "next-token loss alone (λ = 0)", style.PALETTE["sft"]),
        ("norm_total", "both losses (PreSafe)", style.PALETTE["presafe"]),
        ("norm_aux", "auxiliary loss alone, before λ", style.PALETTE["auxiliary loss"]),
    )
    for (left, right), place in zip(axes, places, strict=True):
        part = gradients[gradients["of"] == place].sort_values("layer")
        at = np.arange(len(part))
        for i, (column, label, shade) in enumerate(bars):
            left.bar(
                at + (i - 1) * 0.26, part[column].astype(float), width=0.25, color=shade, label=label,
                yerr=_reach(part, column), error_kw={"elinewidth": 1.2, "ecolor": "#333333"},
            )
        left.set_title(f"Norm {PLACES.get(place, place)}")
        left.set_xticks(at, part["layer"].astype(int))
        left.set_ylabel("gradient norm")
        left.grid(axis="x", visible=False)
        right.axhline(0, color="#888888", linewidth=1)
        right.errorbar(
            at, part["cosine"].astype(float), _reach(part, "cosine"), fmt="o-", color="#333333", markersize=7
        )
        right.set_title("Cosine of the two gradients")
        right.set_xticks(at, part["layer"].astype(int))
        right.set_xlim(-0.5, len(part) - 0.5)
        right.set_ylim(-1.05, 1.05)
    for ax in axes[-1]:
        ax.set_xlabel("layer")
    place = places[0]
    part = gradients[gradients["of"] == place]
    reached = part.loc[part["norm_aux"] > 0, "layer"]
    if reached.empty:
        finding = "The safety gradient reaches no layer"
    else:
        mean = part["cosine"].mean()
        finding = (
            f"The safety gradient reaches {len(reached)} of {len(part)} layers; its cosine with the "
            f"next-token gradient is {mean:+.2f} on average"
        )
    caption = (
        f"{style.counts(gradients['n'])} examples at the start of alignment, head fitted to frozen latents; "
        "means over examples with 95 % intervals; of the adapter's weights there is one gradient, of the mean loss."
    )
    return style.finish(
        figure, finding, caption, "Bars of gradient norms and a line of cosines by layer.", axes[0, 0]
    )


def _reach(part: pd.DataFrame, column: str) -> np.ndarray:
    """How far the interval reaches below and above the value, [2, rows]; NaN where there is none."""
    value = part[column].astype(float)
    return np.abs(np.stack([value - part[f"{column}_low"], part[f"{column}_high"] - value]))
