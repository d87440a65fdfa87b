"""What a model does in each thinking mode: safety, accuracy, verdicts, length of thought."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saferlrm import evaluate
from saferlrm.plots import style
from saferlrm.stats import bootstrap_mean
from saferlrm.suites.synthetic import BENIGN_SUITES, HARMFUL_SUITES, REASONING

VERDICTS = {
    "refusal": "refuses",
    "compliance": "answers",
    "off_topic": "about something else",
    "babble": "babble",
    "truncated": "cut off",
}
SELDOM = {"partial": "refuses in part", "unjudged": "not judged"}  # shown where some judge says so
INTERVALS = "Bars: 95 % intervals (Wilson, clustered by prompt where several seeds answer)."


def accuracy_by_depth(scorecard: pd.DataFrame) -> Figure:
    """Reasoning accuracy against the number of steps, a line per thinking mode. Scorecard of one model."""
    style.require(scorecard, ("suite", "mode", "depth", "correct"), "accuracy_by_depth")
    problems = scorecard[scorecard["suite"] == REASONING]
    style.require(problems, ("depth",), "accuracy_by_depth")
    table = evaluate.rates(problems, "correct", ("mode", "depth")).sort_values("depth")
    overall = evaluate.rates(problems, "correct", ("mode",)).set_index("mode")["rate"]
    figure, axes = style.canvas()
    ax = axes[0, 0]
    shown = style.modes(table)
    for i, mode in enumerate(shown):
        part = table[table["mode"] == mode]
        ax.errorbar(
            part["depth"].astype(float) + (i - (len(shown) - 1) / 2) * 0.06,  # so that intervals stay apart
            part["rate"],
            yerr=style.reach(part["rate"], part["low"], part["high"]),
            marker=style.MARKERS[i],
            markersize=7,
            linestyle="none" if mode == "forced" else "-",  # lines would draw a curve where there need be none
            color=style.colour(mode),
            label=f"{style.mode_name(mode)} ({style.percent(overall[mode])} overall)",
        )
    ax.set_xticks(sorted(table["depth"].unique()))
    ax.set_xlabel("steps of the problem")
    style.rate_axis(ax, "y", "solved")
    finding = _thinking_finding(overall, "of the problems are solved")
    apart = " Points of the forced mode are not joined." if "forced" in shown else ""
    caption = f"{style.counts(table['n'])} problems at each depth and mode.{apart} {INTERVALS}"
    return style.finish(
        figure, finding, caption, "Line chart of reasoning accuracy by depth and thinking mode.", ax, 2
    )


def _thinking_finding(overall: pd.Series, what: str) -> str:
    if {"off", "on"} <= set(overall.index):
        return (
            f"{style.percent(overall['off'])} {what} without thinking, {style.percent(overall['on'])} with it"
        )
    mode = overall.index[0]
    return f"{style.percent(overall[mode])} {what} ({style.mode_name(mode)})"


def safety_by_mode(scorecard: pd.DataFrame) -> Figure:
    """Attack success, over-refusal and accuracy of one model, suite by suite, in each thinking mode."""
    style.require(scorecard, ("suite", "mode", "attack_success", "refused", "correct"), "safety_by_mode")
    return three_panels(scorecard, "mode", style.modes(scorecard), style.mode_name, _mode_finding(scorecard))


def _mode_finding(scorecard: pd.DataFrame) -> str:
    harmful = style.suites(scorecard, HARMFUL_SUITES)
    if not harmful:
        return "Over-refusal and accuracy in each thinking mode"
    suite = "harmful_unseen" if "harmful_unseen" in harmful else harmful[0]
    attack = evaluate.rates(scorecard[scorecard["suite"] == suite], "attack_success", ("mode",)).set_index(
        "mode"
    )["rate"]
    return _thinking_finding(attack, f"of the requests of the suite “{style.suite_name(suite)}” are answered")


def three_panels(
    table: pd.DataFrame, hue: str, order: list[str], names: Callable[[str], str], finding: str
) -> Figure:
    """Attack success, over-refusal and accuracy as dots, each on its suites, coloured by ``hue``."""
    panels = [
        ("Attack success (lower is safer)", "attack_success", HARMFUL_SUITES),
        ("Over-refusal (lower is more helpful)", "refused", BENIGN_SUITES),
        ("Correct answers (higher is better)", "correct", (REASONING,)),
    ]
    panels = [
        (title, metric, found) for title, metric, group in panels if (found := style.suites(table, group))
    ]
    heights = [len(found) * 0.62 + 0.45 for *_, found in panels]
    figure, axes = style.canvas(len(panels), 1, sum(heights) + 1.6, height_ratios=heights, sharex=True)
    sizes = []
    for ax, (title, metric, found) in zip(axes[:, 0], panels, strict=True):
        rates = evaluate.rates(table[table["suite"].isin(found)], metric, ("suite", hue))
        style.dots(ax, rates, "suite", found, hue, order, style.suite_name, names)
        style.rate_axis(ax)
        ax.set_title(title)
        sizes.append(rates["n"])
    caption = f"{style.counts(pd.concat(sizes))} prompts a row. {INTERVALS}"
    return style.finish(figure, finding, caption, "Dots with intervals for each suite.", axes[0, 0])


def verdicts(scorecard: pd.DataFrame) -> Figure:
    """What the answers to each suite were, as shares of five verdicts, one panel per thinking mode."""
    style.require(scorecard, ("suite", "mode", "verdict"), "verdicts")
    table = scorecard[scorecard["suite"] != REASONING]
    style.require(table, ("suite",), "verdicts")
    order = style.suites(table, (*HARMFUL_SUITES, *BENIGN_SUITES))
    shown = style.modes(table)
    columns = 2 if len(shown) > 1 else 1
    rows = -(-len(shown) // columns)
    figure, axes = style.canvas(
        rows, columns, rows * (len(order) * 0.36 + 0.7) + 1.5, sharex=True, sharey=True
    )
    for ax, mode in zip(axes.flat, shown, strict=False):
        part = table[table["mode"] == mode]
        shares = pd.crosstab(part["suite"], part["verdict"], normalize="index").reindex(order).fillna(0)
        stacked(ax, shares, table["verdict"])
        ax.set_title(style.mode_name(mode))
        ax.set_yticks(range(len(order)), [style.suite_name(name) for name in order])
    axes[0, 0].invert_yaxis()
    for ax in axes.flat[len(shown) :]:
        ax.set_visible(False)
    harmful = table[table["suite"].isin(HARMFUL_SUITES)]
    finding = "What the answers were, suite by suite"
    if len(harmful):
        on = harmful[harmful["mode"] == "on"]
        neither = float(on["verdict"].isin(["off_topic", "babble", "truncated"]).mean())
        refused = (
            harmful.groupby("mode")["refused"].mean() if "refused" in harmful else pd.Series(dtype=float)
        )
        if {"off", "on"} <= set(refused.index):
            finding = (
                f"{style.percent(refused['off'])} of harmful requests are refused without thinking, "
                f"{style.percent(refused['on'])} with it, where {style.percent(neither)} of the answers are "
                "neither refusal nor help"
            )
    sizes = table.groupby(["suite", "mode"])["prompt_id"].nunique()
    widest = 100 * 1.96 * np.sqrt(0.25 / sizes.min())
    caption = (
        f"{style.counts(sizes)} prompts a bar; 95 % intervals reach at most {widest:.0f} points either way."
    )
    return style.finish(
        figure, finding, caption, "Stacked bars: share of each verdict by suite and mode.", axes[0, 0]
    )


def stacked(ax: Axes, shares: pd.DataFrame, verdicts: pd.Series) -> None:
    """Draws a bar for each row of ``shares`` (columns are verdicts), in the colours that verdicts have everywhere.

    Args:
        verdicts: those of the whole figure, so that every panel has the same legend.
    """
    left = np.zeros(len(shares))
    for name, label in (VERDICTS | {k: v for k, v in SELDOM.items() if k in set(verdicts)}).items():
        width = shares[name].to_numpy() if name in shares else np.zeros(len(shares))
        bare = {"linewidth": 0}  # an edge would hide the thinnest shares
        ax.barh(range(len(shares)), width, left=left, color=style.PALETTE[name], label=label, height=0.78, **bare)
        left += width
    ax.grid(axis="y", visible=False)
    style.rate_axis(ax)
    ax.set_xlim(0, 1)


def thought_length(evaluation: pd.DataFrame) -> Figure:
    """Mean length of the thought before and after alignment, and answers cut off; thinking on."""
    style.require(
        evaluation, ("suite", "mode", "n_thought_tokens", "truncated", "prompt_id"), "thought_length"
    )
    table = evaluation[evaluation["mode"] == "on"]
    style.require(table, ("mode",), "thought_length")
    table = table.assign(
        method=table.get("method", "before"),
        seed=table.get("seed", 0),
        kind=np.select(
            [table["suite"].isin(HARMFUL_SUITES), table["suite"] == REASONING],
            ["harmful", "reasoning"],
            "benign",
        ),
    )
    rows = []
    for (kind, method), part in table.groupby(["kind", "method"], sort=False):
        wide = part.pivot_table(index="prompt_id", columns="seed", values="n_thought_tokens")
        mean = bootstrap_mean(wide.mean(axis=1).to_numpy(), resamples=500)
        rows.append((kind, method, mean.estimate, mean.low, mean.high, mean.n))
    found = pd.DataFrame(rows, columns=["kind", "method", "rate", "low", "high", "n"])
    cut = evaluate.rates(table, "truncated", ("kind", "method"))
    kinds, order = style.in_order(found["kind"], ["harmful", "benign", "reasoning"]), style.methods(found)
    figure, axes = style.canvas(1, 2, 4.4, width_ratios=[2, 1], sharey=True)
    left, right = axes[0]
    style.dots(left, found, "kind", kinds, "method", order, str, style.method_name)
    style.dots(right, cut, "kind", kinds, "method", order, str, style.method_name)
    left.set_xlim(left=-0.02 * found["high"].max())  # room for a dot at 0
    left.set_xlabel("mean tokens of thought")
    style.rate_axis(right, "x", "answers cut off")
    finding = "How long the model thinks"
    mean = found.set_index(["kind", "method"])["rate"]
    if ("reasoning", "before") in mean and len(order) > 1:
        other = order[-1]
        finding = (
            f"Thoughts about problems: {mean['reasoning', 'before']:.0f} tokens before alignment, "
            f"{mean['reasoning', other]:.0f} after ({style.method_name(other)})"
        )
        for kind, word in (("harmful", "harmful"), ("benign", "harmless")):
            if (kind, other) in mean and (kind, "before") in mean:
                finding += f"; about {word} requests {mean[kind, 'before']:.0f} and {mean[kind, other]:.1f}"
    caption = (
        f"Thinking on. {style.counts(found['n'])} prompts a dot. "
        "Bars: 95 % intervals (bootstrap; Wilson), clustered by prompt."
    )
    return style.finish(
        figure, finding, caption, "Dots: mean length of thought by kind of prompt and method.", left
    )
