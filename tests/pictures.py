"""What the tests of figures share."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure


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
