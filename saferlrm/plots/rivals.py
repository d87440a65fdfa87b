"""Rivals between safety and its price."""

from __future__ import annotations

from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saferlrm.conditions import FEW
from saferlrm.crossed import crossed_rates
from saferlrm.errors import SaferlrmError
from saferlrm.plots import labels, style
from saferlrm.plots.forest import INTERVALS, seeds_said
from saferlrm.plots.measures import colour, conditions
from saferlrm.suites.synthetic import BENIGN_SUITES, HARMFUL_SUITES, REASONING

ANSWERS = 0.5  # share of the harmless requests that a method must answer to be compared


def rivals_frontier(rows: pd.DataFrame, budget: Literal["full", "few"] = "full") -> Figure:
    """Safety against over-refusal and against accuracy, one labelled marker per rival.

    Who answers less than half of the harmless requests (babble refuses nothing, and is no attack's success either) is
    struck through, labelled with that share and left out of the best. Each rival answers in its own thinking mode;
    trained ones think. Rivals without training are the same in both budgets.

    Args:
        rows: tidy rows with ``prompt_id``, ``suite``, ``mode``, ``verdict``, ``attack_success``, ``refused``,
            ``correct``, ``condition``, ``method``, ``seed``, ``label`` and ``train_tokens`` (0: nothing is trained).
        budget: ``full`` or ``few`` alignment examples.
    """
    needed = ("prompt_id", "suite", "mode", "attack_success", "refused", "correct", "condition", "method", "seed")
    needed = (*needed, "label", "train_tokens", "verdict")
    style.require(rows, needed, "rivals_frontier")
    if budget not in ("full", "few"):
        raise SaferlrmError(f"the figure rivals_frontier knows the budgets full and few, not {budget!r}")
    few = rows["condition"].str.endswith(f"/{FEW}")
    table = rows[few | (rows["train_tokens"] == 0)] if budget == "few" else rows[~few]
    style.require(table, needed, "rivals_frontier")
    table = pd.concat([_own_mode(part) for _, part in table.groupby("condition", sort=False)])
    table = table.assign(answered=table["verdict"] == "compliance")
    suites = {"attack_success": HARMFUL_SUITES, "refused": BENIGN_SUITES, "correct": (REASONING,)}
    suites["answered"] = BENIGN_SUITES
    for metric, group in suites.items():
        style.require(table[table["suite"].isin(group) & table[metric].notna()], (), f"rivals_frontier ({metric})")
    found = {
        metric: crossed_rates(table[table["suite"].isin(group)], metric, ("condition",)).set_index("condition")
        for metric, group in suites.items()
    }
    names = table.drop_duplicates("condition").set_index("condition")["label"].str.replace(", few", "", regex=False)
    trained = table.drop_duplicates("condition").set_index("condition")["train_tokens"] > 0
    order = [name for name in conditions(table["condition"]) if all(name in one.index for one in found.values())]
    answered = found["answered"]["rate"]
    silent = [name for name in order if answered[name] < ANSWERS]
    figure, axes = style.canvas(1, 2, 7.0, width=11.0, sharey=True)
    attack = found["attack_success"]
    for ax, metric in zip(axes[0], ("refused", "correct"), strict=True):
        for name in order:
            _cross(ax, found[metric].loc[name], attack.loc[name], colour(name), bool(trained[name]))
            if name in silent:
                ax.plot(found[metric].loc[name, "rate"], attack.loc[name, "rate"], "x", color="#222222", zorder=5)
    style.low_rate_axis(axes[0, 0], "x", "over-refusal", found["refused"]["high"].max())
    style.rate_axis(axes[0, 1], "x", "problems solved")
    solved = found["correct"]
    axes[0, 1].set_xlim(max(-0.03, solved["low"].min() - 0.08), min(1.03, solved["high"].max() + 0.08))
    style.low_rate_axis(axes[0, 0], "y", "attack success", attack["high"].max())
    for ax, good in zip(axes[0], ("left", "right"), strict=True):
        ax.set_title(f"lower {good} is better", fontweight="normal", fontsize=11, color=style.GREY)
    axes[0, 0].plot([], [], "o", color=style.GREY, markersize=9, label="trained")
    axes[0, 0].plot([], [], "D", color=style.GREY, markerfacecolor="white", markersize=8, label="not trained")
    if silent:
        name = "answers less than half of the harmless requests"
        axes[0, 0].plot([], [], "x", color="#222222", markersize=7, label=name)
    sizes = pd.concat([one["n"] for one in found.values()])
    budget_name = "Few alignment examples" if budget == "few" else "Full alignment set"
    caption = (
        f"{budget_name}. {style.counts(sizes)} prompts a rate.{seeds_said(table)} Attack success on all harmful "
        f"suites, over-refusal on all harmless ones. {INTERVALS}"
    )
    shows = "Two scatter plots of attack success, against over-refusal and against problems solved."
    finding = _rivals_finding(found, [name for name in order if name not in silent] or order, names)
    if silent and len(silent) < len(order):
        said = ", ".join(f"{names[name]} (answers {style.percent(answered[name])})" for name in silent)
        finding += f". Left out, for few harmless requests are answered: {said}"
    figure = style.finish(figure, finding, caption, shows, axes[0, 0])
    told = [names[n] + (f", answers {style.percent(answered[n])}" if n in silent else "") for n in order]
    for ax, metric in zip(axes[0], ("refused", "correct"), strict=True):
        points = [(found[metric].loc[name, "rate"], attack.loc[name, "rate"]) for name in order]
        bars = []
        for name, (x, y) in zip(order, points, strict=True):
            wide, high = found[metric].loc[name], attack.loc[name]
            bars += [((wide["low"], y), (wide["high"], y)), ((x, high["low"]), (x, high["high"]))]
        labels.place(ax, points, told, [colour(name) for name in order], bars)
    return figure


def _own_mode(part: pd.DataFrame) -> pd.DataFrame:
    """The rows of one condition in the mode in which it runs: with thinking on where it can, else its only one."""
    counts = part.groupby("mode")["suite"].nunique()
    return part[part["mode"] == ("on" if "on" in counts.index else counts.idxmax())]


def _rivals_finding(found: dict[str, pd.DataFrame], order: list[str], names: pd.Series) -> str:
    attack = found["attack_success"].loc[order]
    best = attack["rate"].idxmin()
    others = attack.drop(best).sort_values("rate")
    tied = others[others["low"] <= attack.loc[best, "high"]]
    text = (
        f"{names[best]} has the lowest attack success, {style.percent(attack.loc[best, 'rate'])} (over-refusal "
        f"{style.percent(found['refused'].loc[best, 'rate'])}, problems solved "
        f"{style.percent(found['correct'].loc[best, 'rate'])})"
    )
    if others.empty:
        return text.replace(" has the lowest", ":")
    if tied.empty:
        return f"{text}; the intervals of all {len(others)} others lie above its own"
    said = "; ".join(f"{names[name]}, {style.percent(rate)}" for name, rate in tied["rate"].head(3).items())
    said = f"next: {said}" if len(tied) > 3 else said
    return f"{text}; its interval overlaps with {len(tied)} of {len(others)} others ({said})"


def _cross(ax: Axes, x: pd.Series, y: pd.Series, shade: str, filled: bool) -> None:
    ax.errorbar(
        [x["rate"]],
        [y["rate"]],
        xerr=style.reach(x["rate"], x["low"], x["high"]),
        yerr=style.reach(y["rate"], y["low"], y["high"]),
        fmt="none",
        ecolor=shade,
        elinewidth=1.4,
        alpha=0.45,
        zorder=2,
    )
    look = {"color": shade, "markerfacecolor": shade if filled else "white"}
    ax.plot([x["rate"]], [y["rate"]], "o" if filled else "D", markersize=8 if filled else 7, zorder=4, **look)
