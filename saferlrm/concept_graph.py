"""The concept graph for the browser: inline SVG whose nodes are links, explained on hover by style sheets alone.

No script and nothing loaded, so it works as the output of a cell in JupyterLab and as part of a web page; a viewer that
strips HTML shows the static figure (:func:`saferlrm.plots.concepts`) and the table of ideas beside it. Nodes are HTML
links inside the SVG (``foreignObject``), because JupyterLab opens notebooks by such links and not by SVG's own.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from IPython.display import HTML

from saferlrm.course_map import EDGES, GROUPS, IDEAS, Edge, Group, Place

Point = tuple[float, float]
COLUMN, ROW = 290.0, 130.0  # distances of the centres of nodes
NODE = (192.0, 64.0)  # width and height
LEFT, TOP = 116.0, 140.0  # centre of the node in column 0 and row 0
SIZE = (1520.0, 700.0)  # of the drawing
PANEL = 74.0  # height of the explanation below it
NARROWEST = 760.0  # pixels; below that the graph scrolls in its box. The site's text is 772 wide on a screen of 1400
GAP = 5.0  # between a line and a node
VERB_WIDTH = 12  # characters of a line
COLOURS: dict[Group, str] = {  # Okabe and Ito's set; on white each has the contrast of a border
    "question": "#D55E00",
    "teacher": "#009E73",
    "signal": "#0072B2",
    "cure": "#8E3A6D",
    "verdict": "#4C5B6B",
}


@dataclass(frozen=True)
class Line:
    """An edge as it is drawn.

    Attributes:
        points: corners, from border to border of the two nodes.
        words: the verb, in lines.
        at, side: where the words stand: ``above`` the point, to its ``right``, or ``on`` the line.
    """

    edge: Edge
    points: tuple[Point, ...]
    words: tuple[str, ...]
    at: Point
    side: Literal["above", "right", "on"]


def centre(at: Point) -> Point:
    """Centre of a place (column, row) in the drawing, y downwards."""
    return LEFT + at[0] * COLUMN, TOP + at[1] * ROW


def line(edge: Edge) -> Line:
    """Where an edge runs, and where its verb stands: on its longest part, clear of nodes."""
    source, target = centre(IDEAS[edge.source].at), centre(IDEAS[edge.target].at)
    via = [centre(point) for point in edge.via]
    start = _border(source, via[0] if via else target, straight=not via)
    end = _border(target, via[-1] if via else source, straight=not via)
    points = (start, *via, end)
    (x0, y0), (x1, y1) = max(pairwise(points), key=lambda pair: _length(*pair))
    at = ((x0 + x1) / 2, (y0 + y1) / 2)
    if y0 == y1:
        width = VERB_WIDTH if abs(x1 - x0) < COLUMN / 2 else 40
        return Line(edge, points, tuple(textwrap.wrap(edge.verb, width)), at, "above")
    if x0 == x1 and abs(y1 - y0) < ROW:
        return Line(edge, points, tuple(textwrap.wrap(edge.verb, VERB_WIDTH + 6)), at, "right")
    return Line(edge, points, tuple(textwrap.wrap(edge.verb, VERB_WIDTH)), at, "on")


def lines() -> list[Line]:
    """All edges as they are drawn."""
    return [line(edge) for edge in EDGES]


def described() -> str:
    """The graph in words, for a reader who cannot see it."""
    told = "; ".join(f"{IDEAS[e.source].name} {e.verb} {IDEAS[e.target].name}" for e in EDGES)
    return f"A graph of {len(IDEAS)} ideas and {len(EDGES)} links. {told}."


def graph_html(link: Callable[[Place], str] = Place.link) -> str:
    """The graph as one piece of HTML.

    Args:
        link: address of a place; :meth:`Place.link` for a notebook beside the others, :meth:`Place.site_link` for the
            web site.
    """
    parts = [f"<style>{_style()}</style>", '<div class="concepts">']
    parts.append(
        f'<svg viewBox="0 0 {SIZE[0]:g} {SIZE[1] + PANEL:g}" role="group" aria-label="{html.escape(described())}">'
    )
    parts.append(
        '<defs><marker id="concepts-arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="#6b7480"/></marker></defs>'
    )
    parts += [_node(key, link) for key in IDEAS]
    parts += [_edge(one) for one in lines()]
    parts += [_legend(), _panel("", "Point at an idea to read it; open it to see where it is measured.")]
    parts += [_panel(f" t-{key}", _tip(key)) for key in IDEAS]
    return "".join([*parts, "</svg></div>"])


def show_graph(link: Callable[[Place], str] = Place.link) -> HTML:
    """The graph as the output of a cell."""
    return HTML(graph_html(link))


def _style() -> str:
    rules = [
        ".concepts{overflow-x:auto;background:#fff;color:#1d2430;border-radius:6px}",
        f".concepts svg{{min-width:{NARROWEST:g}px;width:100%;height:auto;display:block;"
        "font-family:system-ui,sans-serif}",
        ".concepts a{display:flex;box-sizing:border-box;height:100%;align-items:center;justify-content:center;"
        "text-align:center;font:600 19px/1.15 system-ui,sans-serif;color:#1d2430;text-decoration:none;"
        "border:2px solid;border-radius:9px;padding:0 4px;background:#fff}",
        ".concepts a:hover,.concepts a:focus-visible{background:#f2f5f8;box-shadow:inset 0 0 0 2px currentColor}",
        ".concepts path.e{fill:none;stroke:#6b7480;stroke-width:1.8}",
        ".concepts text.v{font:italic 16px system-ui,sans-serif;fill:#39424e;paint-order:stroke;stroke:#fff;"
        "stroke-width:5px}",
        ".concepts .t{visibility:hidden;font:19px/1.3 system-ui,sans-serif;background:#fff;color:#1d2430;height:100%}",
        ".concepts .t0{visibility:visible;color:#5c6675}",
    ]
    rules += [f".concepts a.g-{group}{{border-color:{colour}}}" for group, colour in COLOURS.items()]
    for key in IDEAS:  # a node under the pointer shows its sentence and its edges
        on = [f".concepts .n-{key}:hover~", f".concepts .n-{key}:focus-within~"]
        rules.append(",".join(f"{one}* .t-{key}" for one in on) + "{visibility:visible}")
        rules.append(",".join(f"{one}.e-{key} path.e" for one in on) + "{stroke:#1d2430;stroke-width:3.4}")
    return "".join(rules)


def _node(key: str, link: Callable[[Place], str]) -> str:
    idea = IDEAS[key]
    x, y = centre(idea.at)
    place = f"{idea.measured.notebook[:2]}: {idea.measured.heading}"
    return (
        f'<foreignObject class="n-{key}" x="{x - NODE[0] / 2:g}" y="{y - NODE[1] / 2:g}" width="{NODE[0]:g}" '
        f'height="{NODE[1]:g}"><a class="g-{idea.group}" href="{html.escape(link(idea.measured))}" '
        f'title="{html.escape(f"{idea.says} Measured in {place}")}">{html.escape(idea.name)}</a></foreignObject>'
    )


def _edge(one: Line) -> str:
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in one.points)
    (x, y), step = one.at, 18
    anchor = "start" if one.side == "right" else "middle"
    x += 9 if one.side == "right" else 0
    first = y - 7 - step * (len(one.words) - 1) if one.side == "above" else y + 5 - step * (len(one.words) - 1) / 2
    verbs = "".join(
        f'<text class="v" x="{x:g}" y="{first + i * step:g}" text-anchor="{anchor}">{html.escape(word)}</text>'
        for i, word in enumerate(one.words)
    )
    drawn = f'<path class="e" d="{path}" marker-end="url(#concepts-arrow)"/>'
    return f'<g class="e-{one.edge.source} e-{one.edge.target}">{drawn}{verbs}</g>'


def _legend() -> str:
    drawn = []
    for i, (group, name) in enumerate(GROUPS.items()):
        x = 24 + 150 * i
        drawn.append(f'<rect x="{x}" y="12" width="18" height="18" rx="4" fill="#fff" stroke-width="3" ')
        drawn.append(f'stroke="{COLOURS[group]}"/><text x="{x + 26}" y="27" font-size="16">{name}</text>')
    return f"<g>{''.join(drawn)}</g>"


def _panel(name: str, text: str) -> str:
    kind = f"t{name}" if name else "t t0"
    return (
        f'<foreignObject x="24" y="{SIZE[1]:g}" width="{SIZE[0] - 48:g}" height="{PANEL:g}" '
        f'style="pointer-events:none"><div class="{kind}">{text}</div></foreignObject>'
    )


def _tip(key: str) -> str:
    idea = IDEAS[key]
    place = f"{idea.measured.notebook[:2]}, {idea.measured.heading}"
    return f"<b>{html.escape(idea.name)}.</b> {html.escape(idea.says)} Measured in {html.escape(place)}"


def _border(node: Point, towards: Point, straight: bool) -> Point:
    """Where a line that comes from ``towards`` meets the node; bent lines arrive at a right angle."""
    (x, y), (px, py) = node, towards
    width, height = NODE[0] / 2 + GAP, NODE[1] / 2 + GAP
    if not straight and abs(px - x) < width:
        return px, y + (height if py > y else -height)
    if not straight and abs(py - y) < height:
        return x + (width if px > x else -width), py
    dx, dy = px - x, py - y
    share = min(width / abs(dx) if dx else float("inf"), height / abs(dy) if dy else float("inf"))
    return x + dx * share, y + dy * share


def _length(one: Point, two: Point) -> float:
    return abs(one[0] - two[0]) + abs(one[1] - two[1])
