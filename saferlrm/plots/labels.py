"""Labels beside points, moved until none covers another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colors, patheffects
from matplotlib.axes import Axes

SIZE = 10.5  # points of the text
# Places that are tried around a point: directions, the most natural first, and distances in points.
ANGLES = np.deg2rad([15, -15, 165, -165, 90, -90, 45, -45, 135, -135, 65, -65, 115, -115, 0, 180])
DISTANCES = (11, 18, 27, 38, 50, 64, 80, 98, 120, 145)
ROUNDS = 6  # in each, every label may move once
DOT = 6  # half the width of a marker, in points
BAR = 2  # half the width of a bar, in points


def place(
    ax: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    shades: Sequence[str],
    bars: Sequence[tuple[tuple[float, float], tuple[float, float]]] = (),
) -> None:
    """Writes ``texts`` beside ``points`` (data coordinates), with a thin line where a label stands away from its point.

    ``bars`` are lines along an axis, from one end to the other, that a label should not lie upon.

    One label after the other moves to the place where it covers least (labels, points, lines) and is nearest to its
    point, until none moves: coordinate descent, with the order of the points as its only chance.
    """
    ax.figure.canvas.draw()  # the layout engine moves the axes
    renderer, scale = ax.figure.canvas.get_renderer(), ax.figure.dpi / 72
    at = ax.transData.transform(np.asarray(points, float).reshape(-1, 2)) / scale  # in points of the page
    page = ax.get_window_extent(renderer).get_points().ravel() / scale
    lines = ax.transData.transform(np.asarray(bars, float).reshape(-1, 2)).reshape(-1, 4) / scale
    lines = np.concatenate([lines[:, :2] - BAR, lines[:, 2:] + BAR], axis=1)
    notes = [_write(ax, point, text, shade) for point, text, shade in zip(points, texts, shades, strict=True)]
    sizes = [note.get_window_extent(renderer) for note in notes]
    tried = [_places(point, box.width / scale, box.height / scale) for point, box in zip(at, sizes, strict=True)]
    alone = [
        _alone(boxes, at, i, page) + sum(0.25 * _overlap(boxes, line) for line in lines)
        for i, boxes in enumerate(tried)
    ]
    chosen = [int(cost.argmin()) for cost in alone]
    for _ in range(ROUNDS):
        before = list(chosen)
        for i, boxes in enumerate(tried):
            cost = alone[i].copy()
            for j, other in enumerate(tried):
                if j != i:
                    cost += _between(boxes, at[i], other[chosen[j]], at[j])
            chosen[i] = int(cost.argmin())
        if chosen == before:
            break
    for i, note in enumerate(notes):
        box = tried[i][chosen[i]]
        note.set_position(tuple(box[:2] - at[i]))
        end = np.clip(at[i], box[:2], box[2:])
        if np.hypot(*(end - at[i])) > DOT + 4:
            ax.annotate(
                "", points[i], xytext=tuple(end - at[i]), textcoords="offset points", zorder=2, in_layout=False,
                arrowprops={"arrowstyle": "-", "color": shades[i], "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip


def _write(ax: Axes, point: tuple[float, float], text: str, shade: str):
    dark = tuple(0.6 * channel for channel in colors.to_rgb(shade))
    return ax.annotate(
        text, point, xytext=(0, 0), textcoords="offset points", fontsize=SIZE, color=dark, zorder=5, in_layout=False,
        path_effects=[patheffects.withStroke(linewidth=2.5, foreground="white")],
    )  # fmt: skip


def _places(point: np.ndarray, width: float, height: float) -> np.ndarray:
    """Boxes that a label may fill, shape [places, (left, bottom, right, top)]."""
    ways = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
    half = np.array([width, height]) / 2
    centres = point + np.concatenate([ways * (distance + np.abs(ways) * half) for distance in DISTANCES])
    return np.concatenate([centres - half, centres + half], axis=1)


def _alone(boxes: np.ndarray, at: np.ndarray, own: int, page: np.ndarray) -> np.ndarray:
    """What each place costs by itself: distance, points that are covered or crossed, and leaving the axes."""
    ends = np.clip(at[own], boxes[:, :2], boxes[:, 2:])
    cost = np.hypot(*(ends - at[own]).T) + 0.05 * np.tile(np.arange(len(ANGLES)), len(DISTANCES))
    size = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    cost += 20 * (size - _overlap(boxes, page))
    for j, point in enumerate(at):
        dot = np.concatenate([point - DOT, point + DOT])
        cost += 2 * _overlap(boxes, dot)
        if j != own:
            nearer = np.hypot(*(np.clip(point, boxes[:, :2], boxes[:, 2:]) - point).T) < np.hypot(*(ends - at[own]).T)
            apart = np.hypot(*(point - at[own])) > DOT
            cost += 15 * (nearer & apart) + 15 * (_crossing(at[own], ends, dot) & apart)
    return cost


def _between(boxes: np.ndarray, point: np.ndarray, other: np.ndarray, its: np.ndarray) -> np.ndarray:
    """What each place costs beside another label: overlap, and lines through labels or through lines."""
    ends = np.clip(point, boxes[:, :2], boxes[:, 2:])
    end = np.clip(its, other[:2], other[2:])
    cost = 5 * _overlap(boxes, other + np.array([-2.0, -1.0, 2.0, 1.0]))
    cost += 60 * _crossing(point, ends, other)
    steps = its + np.linspace(0, 1, 25)[:, None] * (end - its)  # the other label's line
    inside = (steps[None] > boxes[:, None, :2]) & (steps[None] < boxes[:, None, 2:])
    return cost + 60 * inside.all(2).any(1) + 20 * _meet(point, ends, its, end)


def _overlap(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    return np.clip(sides, 0, None).prod(1)


def _crossing(start: np.ndarray, ends: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Whether the line from ``start`` to each of ``ends`` runs through the box."""
    steps = start + np.linspace(0, 1, 25)[:, None, None] * (ends - start)
    return ((steps > box[:2]) & (steps < box[2:])).all(2).any(0)


def _meet(start: np.ndarray, ends: np.ndarray, other: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Whether the line from ``start`` to each of ``ends`` meets the line from ``other`` to ``end``."""

    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return np.sign((b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0])

    one = side(start, ends, np.broadcast_to(other, ends.shape)) * side(start, ends, np.broadcast_to(end, ends.shape))
    two = side(other, end, start[None]) * side(other, end, ends)
    return (one < 0) & (two < 0)
