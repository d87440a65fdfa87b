"""Dots with intervals in rows, and what else several figures of the evidence draw alike."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from saferlrm.crossed import crossed_difference, outcomes, paired
from saferlrm.plots import style
from saferlrm.stats import Interval

INTERVALS = "Bars: 95\u00a0% intervals over prompts and alignment seeds."
BETTER, WORSE, OPEN = style.PALETTE["classifier"], style.PALETTE["gold"], "#8C8C8C"


def difference(before: pd.DataFrame, after: pd.DataFrame, metric: str) -> Interval:
    """Rate of ``metric`` in the rows ``after`` minus that in the rows ``before``, on the prompts that both have."""
    return crossed_difference(*paired(outcomes(before, metric), outcomes(after, metric)))


def grid(panels: int, height: float, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """Panels in rows of three that share their y axis; what is left over stays empty."""
    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure, axes = style.canvas(rows, columns, rows * height + 1.9, width=10.5, sharey=True)
    for ax in axes.flat[panels:]:
        ax.set_visible(False)
    return figure, list(axes.flat[:panels])


def label_rows(axes: Sequence[Axes], names: Sequence[str]) -> None:
    """A row with a band for each name, from top to bottom."""
    for ax in axes:
        for row in range(0, len(names), 2):
            ax.axhspan(row - 0.5, row + 0.5, color="#F5F6F7", zorder=0)
        ax.set_yticks(range(len(names)), names)
        ax.grid(axis="y", visible=False)
        ax.set_ylim(len(names) - 0.5, -0.5)


def zero_line(ax: Axes, most: float) -> None:
    """An axis of differences in percentage points with a line at no change."""
    ax.axvline(0, color="#444444", linewidth=1.2, zorder=1)
    ax.set_xlim(-most, most)
    ax.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
    ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:+.0f}" if round(100 * value) else "0")


def dot(
    ax: Axes, row: pd.Series, columns: tuple[str, str, str], place: float, shade: str, i: int = 0, hollow: bool = False
) -> None:
    """One estimate with its interval, from the columns of ``row`` named (estimate, low, high)."""
    estimate, low, high = (float(row[name]) for name in columns)
    ax.errorbar(
        [estimate],
        [place],
        xerr=style.reach(estimate, low, high),
        fmt=style.MARKERS[i],
        color=shade,
        markerfacecolor="white" if hollow else shade,
        markersize=7,
        elinewidth=2,
        zorder=3,
    )


def rate_limits(ax: Axes, rates: pd.DataFrame, near: bool) -> None:
    """Per cent from 0 to the highest interval; ``near``: from below the lowest one."""
    low, high = float(rates["low"].min()), float(rates["high"].max())
    margin = 0.06 * max(0.1, high - (low if near else 0.0))
    ax.set_xlim(max(-0.03, low - margin) if near else -margin / 2, max(0.1, high) + margin)
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(lambda value, _: f"{round(100 * value, 1):g}%")  # a tick between two per cent says so


def seeds_said(table: pd.DataFrame) -> str:
    """`` 5 alignment seeds.`` where several were trained, else nothing."""
    by = [column for column in ("method", "group") if column in table]
    counts = table[table["method"] != "before"].groupby(by)["seed"].nunique()
    counts = counts[counts > 1]
    return f" {spread(counts)} alignment seeds." if len(counts) else ""


def spread(values: pd.Series) -> str:
    """``5`` or ``3 to 5``: the range of whole numbers in words."""
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"
