"""What a model does with what it holds: causal tests of directions, and knowing, saying and refusing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saferlrm.causal import ALL_LAYERS, CELL, know_table
from saferlrm.evaluate import rates
from saferlrm.plots import style
from saferlrm.plots.forest import dot, label_rows, spread
from saferlrm.plots.measures import condition_name, conditions
from saferlrm.plots.mechanism import HARM, seeds_of

READ = {
    ("probe", "on"): "what the probe reads,\nthinking on",
    ("on", "on"): "class means, thinking on,\ntried thinking on",
    ("off", "on"): "class means, thinking off,\ntried thinking on",
    ("off", "off"): "class means, thinking off,\ntried thinking off",
}

SAID = {
    ("probe", "on"): "what the probe reads",
    ("on", "on"): "the class means before the thought",
    ("off", "on"): "those of thinking off, tried thinking on",
    ("off", "off"): "the same, tried thinking off",
}


def causal(rows: pd.DataFrame) -> Figure:
    """Refusals when a direction is added at the last token of the prompt, and attack success when it is removed.

    Args:
        rows: of :meth:`saferlrm.study.interventions.Interventions.mechanism_causal` and of its ``probe_steering``;
            columns ``prompt_id``, ``seed``, ``base``,
            ``harmful``, ``refused``, ``attack_success``, ``intervention``, ``direction``, ``where``,
            ``layer``, ``scale``, ``read``, ``mode``.
    """
    needed = ("prompt_id", "seed", "base", "harmful", "refused", "attack_success", "intervention", "direction")
    style.require(rows, (*needed, "where", "layer", "scale", "read", "mode"), "causal")
    pairs = [pair for pair in READ if ((rows["read"] == pair[0]) & (rows["mode"] == pair[1])).any()]
    pushed = rows.assign(direction=rows["direction"].replace({"refusal": "pushed", "probe": "pushed"}))
    shown = _causal_rates(pushed, pairs)
    bases = conditions(rows["base"])
    shapes = [shown[shown["harmful"] == harmful] for harmful in (False, True)]
    lines = [[(base, at) for base in bases for at in sorted(part["layer"].unique())] for part in shapes]
    total, ratios = sum(map(len, lines)), [max(1, len(part)) for part in lines]
    width = max(10.5, 3.4 * len(pairs))
    figure, axes = style.canvas(2, len(pairs), 0.36 * total + 3.6, width=width, height_ratios=ratios, sharey="row")
    for row, harmful, part, places in zip(axes, (False, True), shapes, lines, strict=True):
        for i, (ax, pair) in enumerate(zip(row, pairs, strict=True)):
            _causal_dots(ax, part[part["pair"] == i], places)
            ax.set_title(READ[pair] if not harmful else "")
            style.rate_axis(ax, "x", "attack success" if harmful else "refused")
        words = [
            f"{condition_name(base)}, {'all layers' if at == ALL_LAYERS else f'layer {at}'}" for base, at in places
        ]
        label_rows(row, words)
        row[0].set_ylabel("removed: harmful prompts" if harmful else "added: benign prompts")
    caption = (
        f"{style.counts(shown['n'])} prompts a dot. Bars: 95\u00a0% Wilson intervals, clustered by prompt over "
        f"{seeds_of(rows.assign(condition=rows['base']))}. Added at the last token before the thought (or the answer), "
        "at the largest scale; removed at all tokens. What the probe reads: its weights, at the length of the class "
        "means' difference. Class means: their difference, of the states before the thought (thinking on) or before "
        "the answer (thinking off). No dots: not tried on this model."
    )
    return style.finish(figure, _causal_finding(shown, pairs), caption, "Dots of rates by layer.", axes[0, 0], 4)


def _causal_rates(rows: pd.DataFrame, pairs: list[tuple[str, str]]) -> pd.DataFrame:
    """Rates of what the figure shows: refusal of benign prompts (added) and attack success (removed at all tokens)."""
    most = rows.loc[rows["intervention"] == "add", "scale"].max()
    kinds = {
        False: (rows["intervention"] == "add") & (rows["scale"] == most),
        True: (rows["intervention"] == "remove") & (rows["where"] == "all"),
    }
    by, found = ("base", "layer", "direction"), []
    for i, (read, mode) in enumerate(pairs):
        here = (rows["read"] == read) & (rows["mode"] == mode)
        for harmful, metric in ((False, "refused"), (True, "attack_success")):
            part = rows[here & kinds[harmful] & (rows["harmful"] == harmful)]
            plain = rows[here & (rows["intervention"] == "none") & (rows["harmful"] == harmful)]
            # What is left alone belongs to every layer.
            layers = sorted(part["layer"].unique())
            both = [part, *(plain.assign(layer=layer) for layer in layers)]
            if len(part):
                found.append(rates(pd.concat(both), metric, by).assign(pair=i, harmful=harmful))
    if not found:
        return pd.DataFrame(columns=[*by, "rate", "low", "high", "n", "pair", "harmful"])
    return pd.concat(found, ignore_index=True)


def _causal_dots(ax: Axes, part: pd.DataFrame, lines: list[tuple[str, int]]) -> None:
    looks = {
        "none": ("left alone", style.PALETTE["before"], -0.25, 1),
        "pushed": ("the direction", style.PALETTE["refusal"], 0.0, 0),
        "random": ("random direction of that length", "#999999", 0.25, 2),
    }
    for direction, (name, shade, offset, marker) in looks.items():
        ax.errorbar([], [], fmt=style.MARKERS[marker], color=shade, label=name)
        for i, (base, layer) in enumerate(lines):
            chosen = part[(part["base"] == base) & (part["layer"] == layer) & (part["direction"] == direction)]
            for _, row in chosen.iterrows():
                dot(ax, row, ("rate", "low", "high"), i + offset, shade, marker)


def _causal_finding(shown: pd.DataFrame, pairs: list[tuple[str, str]]) -> str:
    words = []
    for i, pair in enumerate(pairs):
        gains = []
        for harmful in (False, True):
            part = shown[(shown["pair"] == i) & (shown["harmful"] == harmful)]
            wide = part.pivot_table(index=["base", "layer"], columns="direction", values="rate")
            gain = (wide["pushed"] - wide["none"]).max() if {"pushed", "none"} <= set(wide) else np.nan
            gains.append("no rows" if np.isnan(gain) else f"{100 * gain:+.0f}".replace("-0", "+0"))
        words.append(f"{gains[0]} and {gains[1]} along {SAID[pair]}")
    return (
        "Added, a direction raises refusals of benign prompts, and removed, attack success, by at most (points) "
        f"{'; '.join(words)}"
    )


def know_but_dont_say(rows: pd.DataFrame) -> Figure:
    """The 2 x 2 x 2 table of knowing before the thought, saying in it and refusing after it, by model.

    Args:
        rows: of :meth:`saferlrm.study.mechanism.Mechanism.mechanism_know`; columns ``prompt_id``, ``seed``,
            ``condition``, ``harmful``, ``knows``, ``says``, ``refused``.
    """
    style.require(rows, ("prompt_id", "seed", "condition", "harmful", *CELL), "know_but_dont_say")
    table = know_table(rows)
    names = conditions(table["condition"])
    kinds = [harmful for harmful in (True, False) if (table["harmful"] == harmful).any()]
    cells = sorted({tuple(map(bool, cell)) for cell in table[list(CELL)].itertuples(index=False)}, reverse=True)
    words = [("knows", "says", "refuses"), ("unaware", "silent", "no refusal")]
    labels = ["\n".join(words[not value][i] for i, value in enumerate(cell)) for cell in cells]
    height = 0.62 * len(names) * len(kinds) + 1.1 * len(kinds) + 1.6
    figure, axes = style.canvas(len(kinds), 1, height, width=10.5)
    for ax, harmful in zip(axes[:, 0], kinds, strict=True):
        part = table[table["harmful"] == harmful].set_index(["condition", *CELL])
        rate = np.array([[part.loc[(name, *cell), "rate"] for cell in cells] for name in names], float)
        notes = [[_cell_text(part.loc[(name, *cell)]) for cell in cells] for name in names]
        sns.heatmap(
            rate, ax=ax, vmin=0, vmax=1, cmap="Blues", annot=np.array(notes), fmt="", annot_kws={"fontsize": 10},
            cbar=False, linewidths=1.5, xticklabels=labels, yticklabels=[condition_name(name) for name in names],
        )  # fmt: skip
        ax.tick_params(axis="both", rotation=0)
        ax.set_title(f"{HARM[harmful]} prompts")
    one = table[table["harmful"] == kinds[0]]
    caption = (
        f"{style.counts(table['n'])} prompts a row, {spread(table['seeds'])} alignment seeds; rates of a row sum to 1. "
        "In brackets: 95\u00a0% Wilson intervals, clustered by prompt. Knows: a probe at the last token before the "
        "thought gives harm above 1/2. Says: the thought names a harmful kind, hurting, or a refusal."
    )
    return style.finish(figure, _know_finding(one, kinds[0], names), caption, "Heat map of a table of 8 cells.")


def _cell_text(row: pd.Series) -> str:
    low, high = (round(100 * float(row[name])) for name in ("low", "high"))
    return f"{style.percent(float(row['rate']))}\n[{low}, {high}]"


def _know_finding(table: pd.DataFrame, harmful: bool, names: list[str]) -> str:
    known = table[table["knows"].astype(bool)]
    quiet = known[~known["says"].astype(bool) & ~known["refused"].astype(bool)].set_index("condition")["rate"]
    spoken = known[known["says"].astype(bool) & ~known["refused"].astype(bool)].set_index("condition")["rate"]
    words = [f"{style.percent(spoken[name] + quiet[name])} ({condition_name(name)})" for name in names if name in quiet]
    first = names[0]
    unrefused = quiet.get(first, 0.0) + spoken.get(first, 0.0)
    text = f"Aware that a request is {HARM[harmful]}, the model does not refuse: {', '.join(words)} of prompts"
    if unrefused < 0.005 or not harmful:  # nothing is left whose thoughts could be silent
        return text
    share = quiet[first] / unrefused
    return f"{text}; {condition_name(first)}, {style.percent(share)} of these thoughts are silent about it"
