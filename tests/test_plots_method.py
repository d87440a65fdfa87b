"""The drawing of the method: what it says follows from the settings, and nothing of it leaves the page."""

from __future__ import annotations

import warnings

import matplotlib
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text
from pictures import check_layout, words

from saferlrm import plots
from saferlrm.errors import SaferlrmError
from saferlrm.plots.method import AUXILIARY, drawn_layers
from saferlrm.profile import AlignmentSettings

matplotlib.use("Agg")
CASES = [
    (4, {}),
    (1, {}),
    (36, {"head_layer": 20, "head_token": "prompt_mean"}),
    (28, {"head_token": "think_open"}),
    (4, {"head_layer": 2, "head_token": "prompt_last"}),
    (4, {"lambda_aux": 0.0}),
    (4, {"detach_head": True}),
]


@pytest.fixture(autouse=True)
def _closed() -> None:
    yield
    plt.close("all")


def drawn(n_layers: int, **changes: object) -> Figure:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.method_diagram(n_layers, AlignmentSettings(**changes))
        figure.canvas.draw()
    return figure


def bold_gradient(figure: Figure) -> int:
    """Number of arrows that carry the safety gradient at the tokens that are read."""
    arrows = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    blue = matplotlib.colors.to_rgba(AUXILIARY)
    return sum(arrow.get_edgecolor() == blue and arrow.get_linewidth() > 3 for arrow in arrows)


@pytest.mark.parametrize(("n_layers", "changes"), CASES)
def test_nothing_leaves_the_page_and_no_two_texts_meet(n_layers: int, changes: dict[str, object]) -> None:
    figure = drawn(n_layers, **changes)
    check_layout(figure)
    renderer, ax = figure.canvas.get_renderer(), figure.axes[0]
    boxes = [(one.get_text(), one.get_window_extent(renderer)) for one in ax.findobj(Text) if one.get_text().strip()]
    for i, (text, box) in enumerate(boxes):
        for other, another in boxes[i + 1 :]:
            assert not box.overlaps(another), f"{text!r} and {other!r}"


@pytest.mark.parametrize(
    ("n_layers", "changes", "said"),
    [
        (4, {}, "reads layer 4 of 4 at the last token before the thought"),
        (36, {"head_layer": 20, "head_token": "prompt_mean"}, "reads layer 20 of 36 as a mean over the user's text"),
        (4, {"lambda_aux": 0.0}, "there is no head"),
        (4, {"detach_head": True}, "detached head reads layer 4 of 4"),
    ],
)
def test_title_and_alt_text_say_what_the_settings_say(n_layers: int, changes: dict[str, object], said: str) -> None:
    figure = drawn(n_layers, **changes)
    assert said in words(figure)
    assert said in plots.alt_text(figure)
    assert "inference" in plots.alt_text(figure)


def test_the_gradient_runs_through_every_layer_up_to_the_one_that_is_read_and_no_further() -> None:
    assert bold_gradient(drawn(4)) == 4
    assert bold_gradient(drawn(4, head_layer=2)) == 2
    assert bold_gradient(drawn(4, head_layer=2, head_token="prompt_mean")) == 2 * 3
    assert bold_gradient(drawn(4, detach_head=True)) == 0
    assert bold_gradient(drawn(4, lambda_aux=0.0)) == 0


@pytest.mark.parametrize("n_layers", range(1, 41))
def test_a_deep_model_keeps_its_ends_and_the_layer_that_is_read(n_layers: int) -> None:
    for read_at in range(1, n_layers + 1):
        layers = drawn_layers(n_layers, read_at)
        shown = [layer for layer in layers if layer is not None]
        assert {1, read_at, n_layers} <= set(shown)
        assert shown == sorted(set(shown))
        assert len(layers) <= 5
        for below, layer in zip([0, *layers], layers, strict=False):
            assert below is None or layer is None or layer == below + 1, "what is left out is marked"


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(SaferlrmError, match="draws one head"):
        plots.method_diagram(4, AlignmentSettings(head_token="dual_mean"))
    with pytest.raises(SaferlrmError, match="head_layer=9"):
        plots.method_diagram(4, AlignmentSettings(head_layer=9))
