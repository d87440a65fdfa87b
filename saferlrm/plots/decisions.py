"""The safety-decision classifier: how well it ranks, what it needs, what its probabilities are worth."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saferlrm.plots import style
from saferlrm.plots.probing import GROUPS
from saferlrm.stats import expected_calibration_error, wilson

SHADES = (style.PALETTE["classifier"], style.PALETTE["bag of words"], style.PALETTE["control"], "#7A4EAB")
BINS = 10


def _shade(models: list[str]) -> dict[str, str]:
    return {name: SHADES[i % len(SHADES)] for i, name in enumerate(models)}


def _group_name(name: str) -> str:
    return "all prompts" if name == "all" else GROUPS.get(name, name.replace("_", " "))


def classifier_scores(scores: pd.DataFrame) -> Figure:
    """AUROC and accuracy of the classifier and its baselines, group by group.

    Args:
        scores: columns ``model`` (the fine-tuned encoder first), ``group``, ``n`` and ``accuracy``,
            ``auroc``, each with ``_low`` and ``_high``. Rows of uncalibrated models are left out.
    """
    columns = [f"{metric}{end}" for metric in ("accuracy", "auroc") for end in ("", "_low", "_high")]
    style.require(scores, ("model", "group", "n", *columns), "classifier_scores")
    table = scores[~scores["model"].str.contains("uncalibrated")]
    models = list(dict.fromkeys(table["model"]))
    groups = style.in_order(table["group"], ["all", *GROUPS])
    figure, axes = style.canvas(1, 2, 2.2 + 0.62 * len(groups), sharey=True)
    for ax, (metric, label) in zip(axes[0], (("auroc", "AUROC"), ("accuracy", "accuracy")), strict=True):
        names = (metric, f"{metric}_low", f"{metric}_high")
        style.dots(ax, table, "group", groups, "model", models, _group_name, str, names, _shade(models))
        ax.set_xlabel(label)
        low = np.nanmin(table[names[1]].astype(float))
        ax.set_xlim(min(0.48, low - 0.03), 1.02)
        ax.axvline(0.5, color="#BBBBBB", linewidth=1)
    group = next((g for g in ("novel_wrapped", "all") if g in groups), groups[0])
    area = table[table["group"] == group].set_index("model")["auroc"]
    told = ", ".join(f"{name} {area[name]:.2f}" for name in models if name in area)
    finding = f"Predicting the decision ({_group_name(group)}), AUROC: {told}"
    caption = f"{style.counts(table['n'])} prompts a row. Bars: 95 % intervals (Wilson; Newcombe for AUROC)."
    return style.finish(
        figure, finding, caption, "Dots of AUROC and accuracy by group of prompts and model.", axes[0, 0]
    )


def learning_curve(curve: pd.DataFrame) -> Figure:
    """AUROC against the number of training prompts, on a logarithmic axis, a line per model.

    Args:
        curve: columns ``model``, ``n_train`` (or ``n_prompts``), ``auroc``, ``auroc_low``, ``auroc_high``
            and, if known, ``n``.
    """
    table = curve.rename(columns={"n_prompts": "n_train"})
    style.require(table, ("model", "n_train", "auroc", "auroc_low", "auroc_high"), "learning_curve")
    models = list(dict.fromkeys(table["model"]))
    figure, axes = style.canvas()
    ax = axes[0, 0]
    for i, (name, shade) in enumerate(_shade(models).items()):
        part = table[table["model"] == name].sort_values("n_train")
        bounds = part["auroc_low"], part["auroc_high"]
        style.line(ax, part["n_train"], part["auroc"], *bounds, name, color=shade, marker=style.MARKERS[i])
    sizes = sorted(table["n_train"].unique())
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    ax.set_xlabel("training prompts (logarithmic)")
    ax.set_ylabel("AUROC on unseen prompts")
    ax.set_ylim(top=1.01)
    main = table[table["model"] == models[0]].set_index("n_train")["auroc"]
    best = main.max()
    enough = min(size for size in main.index if main[size] >= best - 0.01)
    finding = f"{models[0]}: AUROC {main[max(main.index)]:.2f} with {max(main.index):,} prompts; " + (
        f"{enough:,} come within 0.01 of the best" if enough < max(main.index) else "fewer do worse"
    )
    n = f"{style.counts(table['n'])} test prompts. " if "n" in table else ""
    return style.finish(
        figure, finding, f"{n}Bands: 95 % intervals.", "Lines of AUROC by number of training prompts.", ax
    )


def reliability(predictions: pd.DataFrame) -> Figure:
    """Observed share of refusals against the predicted probability, in ten bins, over their histogram.

    Args:
        predictions: columns ``p_refuse`` and ``refused``, one row per prompt.
    """
    style.require(predictions, ("p_refuse", "refused"), "reliability")
    p, truth = predictions["p_refuse"].to_numpy(float), predictions["refused"].to_numpy(float)
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.digitize(p, edges) - 1, 0, BINS - 1)
    rows = []
    for i in sorted(set(place)):
        found = wilson(truth[place == i].sum(), int((place == i).sum()))
        rows.append((p[place == i].mean(), found.estimate, found.low, found.high))
    x, y, low, high = np.array(rows).T
    figure, axes = style.canvas(2, 1, 6.0, width=7.5, height_ratios=[3, 1], sharex=True)
    top, bottom = axes[:, 0]
    top.plot([0, 1], [0, 1], color="#BBBBBB", linestyle="--", label="perfectly calibrated")
    shade = style.PALETTE["classifier"]
    error = np.clip([y - low, high - y], 0, None)
    top.errorbar(x, y, yerr=error, fmt="o-", color=shade, markersize=7, label="classifier")
    style.rate_axis(top, "y", "refused")
    bottom.hist(p, bins=edges, color=shade)
    bottom.set_ylabel("prompts")
    style.rate_axis(bottom, "x", "predicted probability of refusal")
    error_size = expected_calibration_error(truth.astype(bool), p)
    extreme = float(np.mean((p < 0.1) | (p > 0.9)))
    finding = (
        f"Calibration error {error_size:.3f}; "
        f"{style.percent(extreme)} of the predictions are below 10\u00a0% or above 90\u00a0%"
    )
    caption = f"n = {len(p):,} prompts in {len(rows)} filled bins. Bars: 95 % intervals (Wilson)."
    return style.finish(
        figure, finding, caption, "Reliability diagram over a histogram of predicted probabilities.", top
    )
