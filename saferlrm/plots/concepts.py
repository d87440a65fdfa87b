"""The concept graph as a figure: what :mod:`saferlrm.concept_graph` shows in a browser, on paper."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from saferlrm import concept_graph as graph
from saferlrm.course_map import EDGES, GROUPS, IDEAS
from saferlrm.plots import style

INK = "#39424E"
WIDTH, HEIGHT = 13.0, 7.3  # inches
NAME_WIDTH = 17  # characters of a line in a box
CROPPED = 64  # units at the top that the browser's legend needs and the figure does not


def concepts() -> Figure:
    """Every idea of the course, how one leads to the next, and the notebook in which it is measured."""
    figure, axes = style.canvas(1, 1, HEIGHT, width=WIDTH)
    ax = axes[0, 0]
    for idea in IDEAS.values():
        _node(ax, graph.centre(idea.at), idea.name, idea.measured.notebook[:2], graph.COLOURS[idea.group])
    for one in graph.lines():
        _edge(ax, one)
    for group, name in GROUPS.items():
        ax.plot([], [], "s", markersize=11, markerfacecolor="white", markeredgecolor=graph.COLOURS[group],
                markeredgewidth=2.2, label=name)  # fmt: skip
    ax.set_xlim(0, graph.SIZE[0])
    ax.set_ylim(graph.SIZE[1] + 4, CROPPED - 36)
    ax.set_axis_off()
    finding = (
        f"{len(IDEAS)} ideas, {len(EDGES)} links: from safety lost in the thought, by a decision learned before it, "
        "to a verdict"
    )
    caption = "The number in a box is the notebook in which the idea is measured; arrows read as sentences."
    figure = style.finish(figure, finding, caption, "A graph of ideas.", ax)
    figure.set_label(f"{style.alt_text(figure)} {graph.described()}")
    return figure


def _node(ax: Axes, centre: graph.Point, name: str, notebook: str, colour: str) -> None:
    (x, y), (width, height) = centre, graph.NODE
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2 + 4, y - height / 2 + 4), width - 8, height - 8, boxstyle="round,pad=4,rounding_size=9",
            facecolor="white", edgecolor=colour, linewidth=2.2,
        )
    )  # fmt: skip
    text = textwrap.fill(f"{name}\u00a0·\u00a0{notebook}", NAME_WIDTH)  # the spaces do not break
    ax.text(x, y, text, ha="center", va="center", fontsize=10, fontweight="bold", color="#1D2430", linespacing=1.1)


def _edge(ax: Axes, one: graph.Line) -> None:
    ax.add_patch(
        FancyArrowPatch(
            path=Path(one.points), arrowstyle="-|>", mutation_scale=11, color="#6B7480", linewidth=1.3,
            joinstyle="round", shrinkA=0, shrinkB=0,
        )
    )  # fmt: skip
    x, y = one.at
    place = {
        "above": {"ha": "center", "va": "bottom", "xy": (x, y - 4)},
        "right": {"ha": "left", "va": "center", "xy": (x + 8, y)},
        "on": {"ha": "center", "va": "center", "xy": (x, y)},
    }[one.side]
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2} if one.side == "on" else None
    at = place.pop("xy")
    ax.text(*at, "\n".join(one.words), fontsize=10, style="italic", color=INK, linespacing=1.0, bbox=box, **place)
