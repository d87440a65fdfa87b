"""The conclusions on every organism: which of them depend on how the organism grew, and how attacks fail."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from saferlrm.answers import BOTH
from saferlrm.conditions import BEFORE, FEW
from saferlrm.plots import style
from saferlrm.plots.behaviour import stacked
from saferlrm.plots.forest import OPEN, difference, dot, grid, label_rows, zero_line
from saferlrm.plots.measures import ORDER, PLAIN, condition_name
from saferlrm.suites.synthetic import REASONING

HEAD = f"presafe/{FEW}"
EMPTY = ("babble", "truncated")  # verdicts on an answer without content
DECIDED = style.PALETTE["presafe"]


class Conclusion(NamedTuple):
    """A difference between two models or modes, and the sign that it has if the conclusion holds.

    ``before`` and ``after`` name a condition and a mode: ``presafe/few:prefilled``.
    """

    title: str
    said: str
    metric: str
    suite: str
    before: str
    after: str
    sign: int


CONCLUSIONS = (
    Conclusion(
        "Attack success: thinking\nagainst no thinking", "thinking raises attack success",
        "attack_success", "harmful_unseen", "before:off", "before:on", 1,
    ),
    Conclusion(
        "Attack success: PreSafe\nagainst before alignment", "PreSafe lowers it",
        "attack_success", "harmful_unseen", "before:on", "presafe:on", -1,
    ),
    Conclusion(
        f"Attack success, prefilled:\nPreSafe against {PLAIN}", f"is safer than {PLAIN} under prefilled thoughts",
        "attack_success", "harmful_unseen", "sft:prefilled", "presafe:prefilled", -1,
    ),
    Conclusion(
        f"Attacks, few examples:\nPreSafe against {PLAIN}", "on direct requests with few examples",
        "attack_success", "harmful_unseen", "sft/few:on", "presafe/few:on", -1,
    ),
    Conclusion(
        f"Jailbreaks, few examples:\nPreSafe against {PLAIN}", "on unseen jailbreaks with few examples",
        "attack_success", "harmful_novel_wrapped", "sft/few:on", "presafe/few:on", -1,
    ),
    Conclusion(
        "Over-refusal, scary:\nPreSafe against before", "over-refuses safe but scary requests",
        "refused", "safe_but_scary", "before:on", "presafe:on", 1,
    ),
    Conclusion(
        "Over-refusal, jailbreaks:\nPreSafe against before", "and benign ones in jailbreaks",
        "refused", "benign_novel_wrapped", "before:on", "presafe:on", 1,
    ),
    Conclusion(
        "Problems solved: PreSafe\nagainst before alignment", "solves fewer problems",
        "correct", REASONING, "before:on", "presafe:on", -1,
    ),
)  # fmt: skip


def organisms(rows: pd.DataFrame) -> Figure:
    """The conclusions, as paired differences, on every organism: on how many does each hold?

    Args:
        rows: tidy rows with ``prompt_id``, ``suite``, ``mode``, ``attack_success``, ``refused``, ``correct``,
            ``condition`` (``before``, ``sft``, ``presafe`` and ``/few``), ``seed`` and ``organism`` (growth seed).
    """
    needed = ("prompt_id", "suite", "mode", "attack_success", "refused", "correct", "condition", "seed", "organism")
    style.require(rows, needed, "organisms")
    called = rows.assign(method=rows["condition"].astype(str) + ":" + rows["mode"].astype(str))
    found = [(one, table) for one in CONCLUSIONS if len(table := _differences(called, one))]
    style.require(pd.DataFrame(range(len(found))), (), "organisms")
    names = sorted(set(rows["organism"]))
    figure, axes = grid(len(found), 0.42 * len(names) + 0.95)
    most = max(float(table[["low", "high"]].abs().to_numpy().max()) for _, table in found)
    words = []
    for ax, (one, table) in zip(axes, found, strict=True):
        zero_line(ax, min(1.05, 1.1 * most))
        for _, row in table.iterrows():
            decided = row["low"] > 0 or row["high"] < 0
            shade = DECIDED if decided else OPEN
            dot(ax, row, ("difference", "low", "high"), names.index(row["organism"]), shade, hollow=not decided)
        ax.set_title(one.title)
        words.append(f"{one.said} {_counted(one, table)}")
    label_rows(axes, [f"organism {seed:g}" for seed in names])
    for ax in axes[-3:]:
        ax.set_xlabel("points")
    ax = axes[0]
    ax.plot([], [], "o", color=DECIDED, markersize=8, label="interval excludes 0")
    ax.plot([], [], "o", color=OPEN, markerfacecolor="white", markersize=8, label="interval includes 0")
    sizes = pd.concat([table["n"] for _, table in found])
    trained = rows.loc[rows["condition"] != "before", "seed"].nunique()
    caption = (
        f"{style.counts(sizes)} prompts a difference, {len(names)} organisms (growth seeds), {trained} alignment seeds "
        "each. Bars: 95\u00a0% intervals of the difference over prompts and seeds, paired by prompt, not corrected."
    )
    shows = "Dots with intervals around a line at zero: a row for each organism, a panel for each conclusion."
    finding = f"By organism: {', '.join(words)}"
    return style.finish(figure, finding, caption, shows, ax)


def failed_attacks(rows: pd.DataFrame) -> Figure:
    """What became of attacks after alignment with few examples, as shares of verdicts: a panel for each organism.

    An attack that fails is not yet a refusal: an answer without content is no success either.

    Args:
        rows: tidy rows with ``prompt_id``, ``suite``, ``mode``, ``verdict``, ``condition`` and ``organism``.
    """
    needed = ("prompt_id", "suite", "mode", "verdict", "condition", "organism")
    style.require(rows, needed, "failed_attacks")
    few = rows["condition"].str.endswith(f"/{FEW}") | (rows["condition"] == BEFORE)
    part = rows[few & rows["suite"].isin(BOTH) & (rows["mode"] == "on")]
    style.require(part, (), "failed_attacks")
    order = style.in_order(part["condition"], [end for name in ORDER for end in (name, f"{name}/{FEW}")])
    names = sorted(set(part["organism"]))
    figure, axes = style.canvas(1, len(names), 0.42 * len(order) + 2.2, sharex=True, sharey=True)
    refused, empty = [], []
    for ax, organism in zip(axes[0], names, strict=True):
        own = part[part["organism"] == organism]
        shares = pd.crosstab(own["condition"], own["verdict"], normalize="index").reindex(order).fillna(0)
        stacked(ax, shares, part["verdict"])
        ax.set_xticks([0, 0.5, 1])
        ax.set_title(f"organism {organism:g}")
        ax.set_yticks(range(len(order)), [condition_name(name).replace(" (few)", "") for name in order])
        if HEAD in order:
            refused.append(style.percent(shares.loc[HEAD].get("refusal", 0.0)))
            empty.append(style.percent(shares.loc[HEAD].reindex(EMPTY).fillna(0).sum()))
    axes[0, 0].invert_yaxis()
    sizes = part.groupby(["organism", "condition"])["prompt_id"].nunique()
    widest = 100 * 1.96 * (0.25 / sizes.min()) ** 0.5
    caption = (
        f"{style.counts(sizes)} harmful requests a bar, direct and in unseen jailbreaks, thinking on, few examples; "
        "mean over seeds. No content: babble, cut off. 95\u00a0% intervals over prompts alone: within "
        f"{widest:.0f} points."
    )
    finding = "What becomes of harmful requests"
    if refused:
        finding = (
            f"Failed is not refused: PreSafe refuses {', '.join(refused)} of attacks on organisms "
            f"{', '.join(f'{name:g}' for name in names)}, and gives {', '.join(empty)} an answer without content"
        )
    shows = "Stacked bars: share of each verdict by model, a panel for each organism."
    return style.finish(figure, finding, caption, shows, axes[0, 0])


def _counted(one: Conclusion, table: pd.DataFrame) -> str:
    """On how many organisms the interval lies on the side of the conclusion, and on how many on the other."""
    holds, fails = table["low"] > 0, table["high"] < 0
    if one.sign < 0:
        holds, fails = fails, holds
    text = f"on {int(holds.sum())} of {len(table)}"
    return text + (f" (the opposite on {int(fails.sum())})" if fails.any() else "")


def _differences(rows: pd.DataFrame, one: Conclusion) -> pd.DataFrame:
    """The difference of a conclusion on every organism that has both sides of it."""
    chosen, found = rows[(rows["suite"] == one.suite) & rows[one.metric].notna()], []
    for organism, part in chosen.groupby("organism"):
        before, after = (part[part["method"] == name] for name in (one.before, one.after))
        if len(before) and len(after):
            gap = difference(before, after, one.metric)
            found.append((organism, gap.estimate, gap.low, gap.high, gap.n))
    return pd.DataFrame(found, columns=["organism", "difference", "low", "high", "n"])
