"""The figure with a slider: a picture in every file, a slider where there are widgets, and a redrawn figure."""

from __future__ import annotations

import base64
import io
import re
import sys

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image

from saferlrm import sliders
from saferlrm.errors import SaferlrmError
from saferlrm.plots.threshold import threshold_at

TABLE = pd.DataFrame({"harmful": [True] * 4 + [False] * 4, "p_refuse": [0.9, 0.8, 0.7, 0.2, 0.6, 0.1, 0.1, 0.0]})


class Handle:
    """What IPython returns for a display id; remembers what it was updated with."""

    def __init__(self) -> None:
        self.pictures: list[dict[str, str]] = []

    def update(self, picture: dict[str, str], raw: bool = False) -> None:
        assert raw
        self.pictures.append(picture)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> tuple[list, Handle]:
    plt.close("all")
    outputs, handle = [], Handle()

    def display(output, display_id=None, raw=False):
        outputs.append(output)
        return handle if display_id else None

    monkeypatch.setattr(sliders, "display", display)
    yield outputs, handle
    plt.close("all")


@pytest.mark.parametrize(
    ("threshold", "passed", "flagged"), [(0.5, "25\u00a0%", "25\u00a0%"), (0.15, "0\u00a0%", "25\u00a0%")]
)
def test_the_title_tells_both_errors_of_the_threshold(threshold: float, passed: str, flagged: str) -> None:
    title = threshold_at(TABLE, threshold).get_suptitle()
    assert f"{passed} of the harmful prompts pass" in title.replace("\n", " ")
    assert f"{flagged} of the harmless" in title.replace("\n", " ")


def test_prompts_of_one_kind_are_refused() -> None:
    with pytest.raises(SaferlrmError, match="harmless prompts"):
        threshold_at(TABLE[TABLE["harmful"]], 0.5)


def test_the_first_output_is_a_picture_and_the_second_a_slider_with_a_sentence_in_its_place(shown) -> None:
    outputs, _ = shown
    sliders.threshold_slider(TABLE, 0.5)
    picture, control = outputs
    assert Image.open(io.BytesIO(base64.b64decode(picture["image/png"]))).width > 600
    said = picture["text/plain"]
    assert "Threshold 0.50" in said
    assert re.search(r"n = \d", said)
    assert len(said) > 80
    assert control["text/plain"] == sliders.STATIC
    assert any("widget-view" in kind for kind in control)
    assert not plt.get_fignums(), "the figure would be shown twice"


def test_moving_the_slider_redraws_the_figure(shown) -> None:
    _, handle = shown
    control = sliders.slider(lambda value: threshold_at(TABLE, value), 0.5, "threshold")
    control.value = 0.9
    assert ["Threshold 0.90" in picture["text/plain"] for picture in handle.pictures] == [True]


def test_without_widgets_the_picture_stays(shown, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, _ = shown
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    sliders.threshold_slider(TABLE, 0.5)
    assert outputs[0]["image/png"]
    assert "needs the package ipywidgets" in outputs[1].data
