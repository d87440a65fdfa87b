"""A figure with a slider: where a notebook runs, moving the slider redraws the figure; elsewhere it is a picture.

The picture is an ordinary output of the cell, so it stays in the saved notebook, on GitHub and on the web page. Its
plain text says what it shows (:func:`saferlrm.plots.alt_text`), and the web page takes its alternative text from there.
The slider stands below the picture and replaces it through its display id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.core.pylabtools import print_figure
from IPython.display import Markdown, display
from matplotlib.figure import Figure

from saferlrm.plots.style import alt_text
from saferlrm.plots.threshold import threshold_at

STATIC = "A slider appears here where the notebook runs (JupyterLab, Notebook, VS Code)."


def threshold_slider(predictions: pd.DataFrame, threshold: float) -> None:
    """The classifier's threshold as a slider: which prompts it flags and which errors it buys.

    Args:
        predictions: columns ``harmful`` and ``p_refuse``, one row per prompt, of both kinds.
        threshold: where the slider stands at first; what the saved picture shows.
    """
    slider(lambda value: threshold_at(predictions, value), threshold, "threshold")


def slider(draw: Callable[[float], Figure], value: float, label: str, step: float = 0.02) -> Any:
    """Shows ``draw(value)`` and a slider from 0 to 1 that draws it anew.

    Returns:
        The slider, or ``None`` without the package ipywidgets.
    """
    picture = display(pictured(draw(value)), raw=True, display_id=True)
    try:
        import ipywidgets
    except ImportError:
        display(Markdown(f"*{STATIC} It needs the package ipywidgets.*"))
        return None
    # Redrawing takes a moment: it follows the slider when it is let go, not on its way.
    control = ipywidgets.FloatSlider(
        value=value, min=0.0, max=1.0, step=step, description=label, continuous_update=False, readout_format=".2f"
    )

    def moved(change: dict[str, Any]) -> None:
        picture.update(pictured(draw(float(change["new"]))), raw=True)

    control.observe(moved, names="value")
    bundle = control._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    display(data | {"text/plain": STATIC}, raw=True)
    return control


def pictured(figure: Figure) -> dict[str, str]:
    """A figure as the output of a cell, with its alternative text in place of the name of its class; closes it."""
    data = {"image/png": print_figure(figure, base64=True), "text/plain": alt_text(figure)}
    plt.close(figure)
    return data
