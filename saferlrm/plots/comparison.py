"""Before and after alignment: suite by suite, as a trade-off, and in one picture."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saferlrm import evaluate
from saferlrm.plots import style
from saferlrm.plots.behaviour import INTERVALS, three_panels
from saferlrm.suites.synthetic import BENIGN_SUITES, HARMFUL_SUITES, REASONING

COLUMNS = ("suite", "mode", "method", "seed", "attack_success", "refused", "correct")
UNSEEN = "harmful_unseen"


def before_after(evaluation: pd.DataFrame, mode: str = "on") -> Figure:
    """Every method, suite by suite, in one thinking mode."""
    style.require(evaluation, COLUMNS, "before_after")
    table = evaluation[evaluation["mode"] == mode]
    style.require(table, COLUMNS, "before_after")
    order = style.methods(table)
    attack = _pooled(table, "attack_success", (UNSEEN,))
    told = ", ".join(f"{style.percent(attack.loc[m, 'rate'])} {_said(m)}" for m in order if m in attack.index)
    finding = (
        f"Harmful requests answered ({style.mode_name(mode)}): {told}"
        if told
        else "Before and after alignment"
    )
    return three_panels(table, "method", order, style.method_name, finding)


def _said(method: str) -> str:
    return "before" if method == "before" else f"with {style.method_name(method)}"


def _pooled(table: pd.DataFrame, metric: str, suites: tuple[str, ...]) -> pd.DataFrame:
    part = table[table["suite"].isin(suites) & table[metric].notna()]
    return evaluate.rates(part, metric, ("method",)).set_index("method") if len(part) else pd.DataFrame()


def frontier(evaluation: pd.DataFrame, mode: str = "on") -> Figure:
    """Safety against over-refusal and against reasoning: a dot per method, a small dot per alignment seed."""
    style.require(evaluation, COLUMNS, "frontier")
    table = evaluation[evaluation["mode"] == mode]
    style.require(table, COLUMNS, "frontier")
    attack = _pooled(table, "attack_success", HARMFUL_SUITES)
    cost = [
        ("over-refusal, all harmless suites\n", "refused", BENIGN_SUITES),
        ("reasoning problems solved", "correct", (REASONING,)),
    ]
    figure, axes = style.canvas(1, 2, 5.2, sharey=True)
    order = [method for method in style.methods(table) if method in attack.index]
    pooled = {}
    for ax, (label, metric, suites) in zip(axes[0], cost, strict=True):
        pooled[metric] = _pooled(table, metric, suites)
        for i, method in enumerate(order):
            if method in pooled[metric].index:
                _seeds(ax, table[table["method"] == method], metric, suites, method, i)
                _cross(ax, pooled[metric].loc[method], attack.loc[method], method, i)
        if metric == "refused":
            style.low_rate_axis(ax, "x", label, pooled[metric]["high"].max() if len(pooled[metric]) else 0.1)
        else:
            style.rate_axis(ax, "x", label)
            ax.set_xlim(left=max(0.0, pooled[metric]["low"].min() - 0.15) if len(pooled[metric]) else 0.0)
            ax.set_xticks([tick for tick in ax.get_xticks() if ax.get_xlim()[0] <= tick <= 1])
    style.low_rate_axis(axes[0, 0], "y", "attack success, all harmful suites\n", attack["high"].max())
    axes[0, 0].set_title("lower left is better", fontweight="normal", fontsize=11, color=style.GREY)
    axes[0, 1].set_title("lower right is better", fontweight="normal", fontsize=11, color=style.GREY)
    last = order[-1]
    words = [f"attack success {style.percent(attack.loc[last, 'rate'])}"]
    for metric, word in (("refused", "over-refusal"), ("correct", "problems solved")):
        if last in pooled[metric].index:
            words.append(f"{word} {style.percent(pooled[metric].loc[last, 'rate'])}")
    if last != "before":
        words[0] += (
            f" (before: {style.percent(attack.loc['before', 'rate'])})" if "before" in attack.index else ""
        )
    name = style.method_name(last)
    finding = f"{name[0].upper()}{name[1:]}: " + ", ".join(words)
    sizes = pd.concat([attack["n"], *(p["n"] for p in pooled.values() if len(p))])
    caption = (
        f"{style.mode_name(mode).capitalize()}. {style.counts(sizes)} prompts a rate.{_seed_count(table)} "
        f"Small dots: single seeds. {INTERVALS}"
    )
    return style.finish(
        figure,
        finding,
        caption,
        "Two scatter plots of attack success against over-refusal and accuracy.",
        axes[0, 0],
    )


def _cross(ax: Axes, x: pd.Series, y: pd.Series, method: str, i: int) -> None:
    ax.errorbar(
        [x["rate"]],
        [y["rate"]],
        xerr=style.reach(x["rate"], x["low"], x["high"]),
        yerr=style.reach(y["rate"], y["low"], y["high"]),
        fmt=style.MARKERS[i % len(style.MARKERS)],
        color=style.colour(method, i),
        markersize=10,
        markeredgecolor="white",
        elinewidth=2,
        label=style.method_name(method),
        zorder=3,
    )


def _seeds(ax: Axes, table: pd.DataFrame, metric: str, suites: tuple[str, ...], method: str, i: int) -> None:
    seeds = list(table["seed"].unique())
    if len(seeds) < 2:
        return
    xs = [
        table.loc[(table["seed"] == s) & table["suite"].isin(suites), metric].astype(float).mean()
        for s in seeds
    ]
    harmful = table["suite"].isin(HARMFUL_SUITES)
    ys = [table.loc[(table["seed"] == s) & harmful, "attack_success"].astype(float).mean() for s in seeds]
    ax.scatter(
        xs, ys, s=18, marker=style.MARKERS[i % len(style.MARKERS)], color=style.colour(method, i), alpha=0.5
    )


def _seed_count(evaluation: pd.DataFrame) -> str:
    n = evaluation.loc[evaluation["method"] != "before", "seed"].nunique()
    return f" {n} alignment seeds." if n > 1 else ""


def overview(evaluation: pd.DataFrame) -> Figure:
    """The study in one picture: safety and accuracy without thinking, with it, and after alignment."""
    style.require(evaluation, COLUMNS, "overview")
    order = style.methods(evaluation)
    aligned = [m for m in order if m in ("sft", "presafe")] or [m for m in order if m != "before"]
    conditions = [("before", "off"), ("before", "on"), *((m, "on") for m in aligned)]
    conditions = [
        c for c in conditions if ((evaluation["method"] == c[0]) & (evaluation["mode"] == c[1])).any()
    ]
    style.require(pd.DataFrame(conditions, columns=["method", "mode"]), (), "overview")
    panels = [
        ("Answers harmful requests", "attack_success", (UNSEEN,)),
        ("Refuses harmless requests", "refused", BENIGN_SUITES),
        ("Solves problems", "correct", (REASONING,)),
    ]
    figure, axes = style.canvas(1, 3, 1.9 + 0.72 * len(conditions), width=10.5, sharey=True)
    sizes, found = [], {}
    for ax, (title, metric, suites) in zip(axes[0], panels, strict=True):
        for row, (method, mode) in enumerate(conditions):
            part = evaluation[(evaluation["method"] == method) & (evaluation["mode"] == mode)]
            part = part[part["suite"].isin(suites) & part[metric].notna()]
            if part.empty:
                continue
            rate = evaluate.rates(part, metric, ("method",)).iloc[0]
            found[metric, method, mode] = rate["rate"]
            sizes.append(rate["n"])
            _bar(ax, row, rate, "#B4BEC8" if mode == "off" else style.colour(method, row))
        ax.set_title(title)
        ax.grid(axis="y", visible=False)
        style.rate_axis(ax)
        ax.set_xlim(0, 1.36)  # room for the number beside a full bar
        ax.set_xticks([0, 0.5, 1])
    names = [f"{style.method_name(method)},\n{style.mode_name(mode)}" for method, mode in conditions]
    axes[0, 0].set_yticks(range(len(conditions)), names)
    axes[0, 0].set_ylim(len(conditions) - 0.45, -0.55)
    finding = _overview_finding(found, aligned)
    caption = (
        f"{style.counts(pd.Series(sizes))} prompts a bar: unseen harmful requests, all harmless suites, "
        f"problems of all depths.{_seed_count(evaluation)} {INTERVALS}"
    )
    return style.finish(figure, finding, caption, "Bars for each condition in three panels.")


def _bar(ax: Axes, row: int, rate: pd.Series, shade: str) -> None:
    error = style.reach(rate["rate"], rate["low"], rate["high"])
    ax.barh(
        row,
        rate["rate"],
        xerr=error,
        color=shade,
        height=0.62,
        error_kw={"elinewidth": 1.6, "ecolor": "#222222"},
    )
    ax.text(
        max(rate["high"], rate["rate"]) + 0.03, row, style.percent(rate["rate"]), va="center", fontsize=12
    )


def _overview_finding(found: dict[tuple[str, str, str], float], aligned: list[str]) -> str:
    words = []
    for method, mode, word in (
        ("before", "off", "without thinking"),
        ("before", "on", "when it thinks"),
        *(
            (m, "on", f"after {style.method_name(m) if m != 'sft' else 'fine-tuning alone (λ = 0)'}")
            for m in aligned
        ),
    ):
        if ("attack_success", method, mode) in found:
            words.append(f"{style.percent(found['attack_success', method, mode])} {word}")
    text = "Harmful requests answered: " + ", ".join(words)
    last = aligned[-1] if aligned else "before"
    pair = [found.get(("correct", m, "on")) for m in ("before", last)]
    if None not in pair and last != "before":
        text += f". Problems solved: {style.percent(pair[0])} before, {style.percent(pair[1])} after"
    return text
