"""What the tests of figures share."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from saferlrm.errors import SaferlrmError


def words(figure: Figure) -> str:
    """The title on one line."""
    return " ".join(figure.get_suptitle().split())


def cleanly(draw: Callable[[pd.DataFrame], Figure], table: pd.DataFrame) -> Figure:
    """The figure, drawn to the end without a warning; it reads its table and leaves it alone."""
    before = table.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw(table)
        figure.canvas.draw()
    pd.testing.assert_frame_equal(table, before)
    return figure


def check_layout(figure: Figure) -> None:
    """Nothing leaves the page, no legend covers a panel, and all text can be read at half size."""
    renderer, page = figure.canvas.get_renderer(), figure.bbox
    boxes = [figure._suptitle.get_window_extent(renderer), figure._supxlabel.get_window_extent(renderer)]
    boxes += [ax.get_tightbbox(renderer) for ax in figure.axes if ax.get_visible()]
    for box in boxes:
        assert box.x0 >= page.x0 - 1
        assert box.x1 <= page.x1 + 1
        assert box.y0 >= page.y0 - 1
        assert box.y1 <= page.y1 + 1
    for legend in figure.legends:
        assert all(legend.get_window_extent(renderer).y0 >= box.y1 - 2 for box in boxes[2:])
        assert legend.get_window_extent(renderer).x1 <= page.x1
    assert min(t.get_fontsize() for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()) >= 10


def check_refusals(draw: Callable[[pd.DataFrame], Figure], table: pd.DataFrame, name: str) -> None:
    """An empty table and one without columns are errors that name the figure."""
    with pytest.raises(SaferlrmError, match=name):
        draw(table.head(0))
    with pytest.raises(SaferlrmError, match=f"{name} needs a column"):
        draw(table[[]].assign(other=1))
