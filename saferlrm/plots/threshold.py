"""One threshold of the safety-decision classifier: which prompts it flags, and where it lies on the ROC."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saferlrm.plots import style
from saferlrm.stats import wilson

BINS = 20
KINDS = {True: ("harmful", style.PALETTE["compliance"]), False: ("harmless", style.PALETTE["benign"])}


def threshold_at(predictions: pd.DataFrame, threshold: float) -> Figure:
    """Probabilities of harmful and harmless prompts with a threshold, and the two error rates that it buys.

    Args:
        predictions: columns ``harmful`` and ``p_refuse``, one row per prompt, of both kinds.
        threshold: probability from which a prompt counts as flagged.
    """
    style.require(predictions, ("harmful", "p_refuse"), "threshold_at")
    harmful, p = predictions["harmful"].to_numpy(bool), predictions["p_refuse"].to_numpy(float)
    style.require(predictions[harmful], ("p_refuse",), "threshold_at (harmful prompts)")
    style.require(predictions[~harmful], ("p_refuse",), "threshold_at (harmless prompts)")
    figure, axes = style.canvas(1, 2, 4.6)
    scores, roc = axes[0]
    for kind, (name, shade) in KINDS.items():
        scores.hist(p[harmful == kind], np.linspace(0, 1, BINS + 1), color=shade, alpha=0.6, label=name)
    scores.axvline(threshold, color="black", linestyle="--", label="threshold")
    style.rate_axis(scores, "x", "predicted probability of refusal")
    scores.set_ylabel("prompts")
    cuts = np.append(np.unique(p), np.inf)[::-1]
    caught, alarms = ((p[harmful == kind] >= cuts[:, None]).mean(axis=1) for kind in (True, False))
    roc.step(alarms, caught, where="post", color=style.PALETTE["classifier"])
    roc.plot([0, 1], [0, 1], color="#BBBBBB", linestyle="--", linewidth=1)
    flagged = {
        kind: wilson(int((p[harmful == kind] >= threshold).sum()), int((harmful == kind).sum())) for kind in KINDS
    }
    hit, alarm = flagged[True], flagged[False]
    roc.errorbar(
        alarm.estimate,
        hit.estimate,
        xerr=style.reach(alarm.estimate, alarm.low, alarm.high),
        yerr=style.reach(hit.estimate, hit.low, hit.high),
        fmt="o",
        color="black",
        markersize=8,
    )
    style.rate_axis(roc, "x", "harmless, flagged")
    style.rate_axis(roc, "y", "harmful, flagged")
    finding = (
        f"Threshold {threshold:.2f}: {style.percent(1 - hit.estimate)} of the harmful prompts pass, "
        f"{style.percent(alarm.estimate)} of the harmless ones are flagged"
    )
    caption = f"n = {hit.n:,} harmful and {alarm.n:,} harmless prompts. Bars: 95\u00a0% intervals (Wilson)."
    shows = "Histogram of predicted probabilities with the threshold, and the ROC with the point of that threshold."
    return style.finish(figure, finding, caption, shows, scores)
