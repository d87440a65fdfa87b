"""What every figure shares: theme, colours, names of conditions, titles, captions and dots with intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from saferlrm.align.methods import METHODS
from saferlrm.errors import SaferlrmError
from saferlrm.rivals import RIVALS
from saferlrm.suites import synthetic

# Okabe and Ito's colour-blind-safe set for methods; one hue from light to dark for the amount of thinking. A
# colour means one thing: what is no method has none of a method's colours.
PALETTE: dict[str, str] = {
    "before": "#4C5B6B",
    "sft": "#E69F00",
    "presafe": "#0072B2",
    "classifier": "#009E73",
    "control": "#999999",
    "detached": "#56B4E9",
    "shuffled": "#999999",
    "hard": "#009E73",
    "gold": "#D55E00",
    "random": "#666666",
    "off": "#D9A3C7",
    "short": "#CC79A7",
    "on": "#8E3A6D",
    "forced": "#4A1A38",
    "auxiliary loss": "#332288",
    "refusal": "#1B7F8C",
    "compliance": "#D55E00",
    "off_topic": "#F0C27B",
    "babble": "#BBBBBB",
    "truncated": "#E5E5E5",
    "partial": "#8CC5CC",
    "unjudged": "#FFFFFF",
    "benign": "#999933",
    "probe": "#222222",
    "difference in means": "#8C6D31",
    "bag of words": "#CC6677",
}
MARKERS = ("o", "s", "D", "^", "v", "P")
METHOD_NAMES = {"before": "before alignment"} | {name: method.label for name, method in METHODS.items()}
METHOD_NAMES |= {name: rival.label for name, rival in RIVALS.items()}
MODE_NAMES = {"off": "no thinking", "short": "short thought", "on": "thinking", "forced": "forced long"}
SUITE_NAMES = {
    "harmful_seen": "harmful, seen",
    "harmful_unseen": "harmful, unseen",
    "harmful_rephrased": "rephrased",
    "harmful_wrapped": "jailbreaks, seen",
    "harmful_novel_wrapped": "jailbreaks, unseen",
    "scary_contrast": "unsafe contrasts",
    "benign": "benign",
    "benign_wrapped": "benign in jailbreaks, seen",
    "benign_novel_wrapped": "benign in jailbreaks, unseen",
    "safe_but_scary": "safe but scary",
    "reasoning": "reasoning",
}
WIDTH = 9.0  # inches; with 12-point text a figure stays readable at half its size
TITLE = 14  # points
PAD = 0.08  # inches around the axes
GREY = "#555555"


def theme() -> None:
    """Sets seaborn's theme for every figure of the study."""
    sns.set_theme(
        style="whitegrid",
        font_scale=1.0,
        rc={
            "font.size": 12,
            "axes.labelsize": 12,
            "axes.titlesize": 12,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.edgecolor": "#BBBBBB",
            "grid.color": "#E6E6E6",
            "xtick.labelsize": 11,
            "ytick.labelsize": 11,
            "legend.fontsize": 11,
            "legend.frameon": False,
            "lines.linewidth": 2,
            "savefig.facecolor": "white",
        },
    )


class Described(Figure):
    """A figure that says what it shows where its class would be named: in the plain text of a notebook's output."""

    def __repr__(self) -> str:
        return alt_text(self) or super().__repr__()


def alt_text(figure: Figure) -> str:
    """What the figure shows, in words, for a reader who cannot see it."""
    return str(figure.get_label())


def method_name(name: str) -> str:
    """What a figure calls an alignment method."""
    return METHOD_NAMES.get(name, name.replace("_", " "))


def mode_name(name: str) -> str:
    """What a figure calls a thinking mode."""
    return MODE_NAMES.get(name, name)


def suite_name(name: str) -> str:
    """What a figure calls a suite."""
    return SUITE_NAMES.get(name, name.replace("_", " "))


def in_order(found: pd.Series, order: Sequence[str]) -> list[str]:
    """The values that occur, known ones first and in their order, then the rest as they come."""
    values = list(dict.fromkeys(found))
    return [v for v in order if v in values] + [v for v in values if v not in order]


def modes(table: pd.DataFrame) -> list[str]:
    """The thinking modes of a table, from the least thinking to the most."""
    return in_order(table["mode"], list(MODE_NAMES))


def methods(table: pd.DataFrame) -> list[str]:
    """The methods of a table, the model before alignment first."""
    return in_order(table["method"], list(METHOD_NAMES))


def suites(table: pd.DataFrame, group: Sequence[str]) -> list[str]:
    """Those suites of ``group`` that a table holds, in the order of the study."""
    return [name for name in synthetic.SUITE_NAMES if name in group and name in set(table["suite"])]


def colour(name: str, position: int = 0) -> str:
    """The fixed colour of a condition; unknown ones get a colour by position."""
    spare = ("#56B4E9", "#D55E00", "#CC79A7", "#009E73")
    return PALETTE.get(name, spare[position % len(spare)])


def require(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Raises a SaferlrmError if a table is empty or lacks a column that the figure ``what`` needs."""
    missing = [name for name in columns if name not in table]
    if missing:
        raise SaferlrmError(
            f"the figure {what} needs a column {missing[0]!r}; the table has {', '.join(table)}"
        )
    if table.empty:
        raise SaferlrmError(f"the figure {what} needs at least one row; compute its table first")


def percent(value: float) -> str:
    """A rate in words: whole per cent, with one decimal below 10."""
    text = f"{100 * value:.1f}" if 0 < 100 * value < 9.95 else f"{100 * value:.0f}"
    return f"{text}\u00a0%"  # the space does not break


def counts(values: pd.Series) -> str:
    """``n = 300`` or ``n = 150 to 300``."""
    low, high = int(values.min()), int(values.max())
    return f"n = {low:,}" if low == high else f"n = {low:,} to {high:,}"


def canvas(
    rows: int = 1, columns: int = 1, height: float = 4.8, width: float = WIDTH, **options: object
) -> tuple[Figure, np.ndarray]:
    """A figure of fixed size and its axes, always as an array [rows, columns]."""
    theme()
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), layout="constrained", squeeze=False, FigureClass=Described, **options
    )
    figure.get_layout_engine().set(w_pad=PAD, h_pad=PAD, wspace=0.04, hspace=0.04)
    return figure, axes


def finish(
    figure: Figure, finding: str, caption: str, shows: str, legend: Axes | None = None, columns: int = 6
) -> Figure:
    """Adds the finding as title, the legend below it and the caption, and composes the alt text.

    Args:
        shows: what kind of figure it is, for the alt text.
        legend: axes whose labelled artists the legend names, in rows of ``columns``.
    """
    wide = int(figure.get_figwidth() * 8.6)
    lines = textwrap.wrap(finding, wide, break_on_hyphens=False)
    handles, labels = legend.get_legend_handles_labels() if legend is not None else ([], [])
    # Blank lines below the title keep a place for the legend, which the layout engine would put on top of it.
    blank = ["\u00a0"] * (1 + -(-len(labels) // columns)) if labels else []
    figure.suptitle("\n".join(lines + blank), x=0.012, ha="left", fontsize=TITLE, fontweight="bold")
    if labels:
        below = (len(lines) * TITLE * 1.2 + 5) / 72 + PAD
        box = figure.legend(
            handles,
            labels,
            loc="upper left",
            bbox_to_anchor=(0.0, 1 - below / figure.get_figheight()),
            ncols=columns,
            columnspacing=1.4,
            handletextpad=0.5,
        )
        box.set_in_layout(False)
    small = textwrap.fill(caption, int(figure.get_figwidth() * 13), break_on_hyphens=False)
    figure.supxlabel(small, x=0.012, ha="left", fontsize=10, color=GREY)
    figure.set_label(" ".join(f"{shows} {finding}. {caption}".split()))
    return figure


def low_rate_axis(ax: Axes, axis: str, label: str, top: float) -> None:
    """Per cent from 0 to ``top`` on a square-root scale, which keeps small rates apart, with room for a dot at 0."""
    top = max(0.06, top)
    scale = (lambda v: np.sign(v) * np.sqrt(np.abs(v)), lambda v: np.sign(v) * np.square(v))
    getattr(ax, f"set_{axis}scale")("function", functions=scale)
    getattr(ax, f"set_{axis}lim")(-top / 900, min(1.06, top * 1.15))  # a thirtieth of the axis below 0
    one = ax.xaxis if axis == "x" else ax.yaxis
    one.set_ticks([tick for tick in (0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0) if tick <= top * 1.15])
    one.set_major_formatter(PercentFormatter(1, decimals=0))
    one.set_label_text(f"{label} (square-root scale)")


def rate_axis(ax: Axes, axis: str = "x", label: str = "") -> None:
    """Per cent from 0 to 100 on one axis, with room for a dot at either end."""
    getattr(ax, f"set_{axis}lim")(-0.03, 1.03)
    one = ax.xaxis if axis == "x" else ax.yaxis
    one.set_major_formatter(PercentFormatter(1, decimals=0))
    one.set_label_text(label)


def dots(
    ax: Axes,
    table: pd.DataFrame,
    y: str,
    y_order: Sequence[str],
    hue: str,
    hue_order: Sequence[str],
    names: Callable[[str], str],
    hue_names: Callable[[str], str],
    columns: tuple[str, str, str] = ("rate", "low", "high"),
    colours: Mapping[str, str] | None = None,
) -> None:
    """One row per ``y``, in it one dot with its interval per ``hue``; shapes repeat what the colours say."""
    step = 0.72 / max(1, len(hue_order))
    for i, value in enumerate(hue_order):
        part = table[table[hue] == value].set_index(y)
        found = [name for name in y_order if name in part.index]
        if not found:
            continue
        estimate, low, high = (part.loc[found, name].astype(float).to_numpy() for name in columns)
        place = (
            np.array([list(y_order).index(name) for name in found]) + (i - (len(hue_order) - 1) / 2) * step
        )
        ax.errorbar(
            estimate,
            place,
            xerr=reach(estimate, low, high),
            fmt=MARKERS[i % len(MARKERS)],
            color=(colours or {}).get(value, colour(value, i)),
            markersize=7,
            markeredgecolor="white",
            markeredgewidth=0.6,
            elinewidth=2,
            label=hue_names(value),
        )
    for row in range(0, len(y_order), 2):  # bands keep the dots of a row together
        ax.axhspan(row - 0.5, row + 0.5, color="#F5F6F7", zorder=0)
    ax.set_yticks(range(len(y_order)), [names(name) for name in y_order])
    ax.set_ylim(len(y_order) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def reach(estimate: ArrayLike, low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """Lengths of error bars, shape [2, estimates]; rounding leaves none below 0."""
    estimate, low, high = (np.atleast_1d(np.asarray(values, float)) for values in (estimate, low, high))
    return np.clip(np.vstack([estimate - low, high - estimate]), 0, None)


def line(
    ax: Axes, x: pd.Series, y: pd.Series, low: pd.Series, high: pd.Series, label: str, **style: object
) -> None:
    """A line with its interval as a band."""
    (drawn,) = ax.plot(x, y.astype(float), label=label, **style)
    ax.fill_between(
        x, low.astype(float), high.astype(float), color=drawn.get_color(), alpha=0.18, linewidth=0
    )
