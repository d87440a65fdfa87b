"""Figures: drawn from hand-made tables, with a computed finding, n, alt text and nothing cut off."""

from __future__ import annotations

import re
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tables
from matplotlib.figure import Figure
from pictures import cleanly, words

from saferlrm import plots
from saferlrm.errors import SaferlrmError
from saferlrm.plots import style

SCORECARD, EVALUATION = tables.scorecard(size=36), tables.evaluation(size=36, seeds=2)
FIGURES: dict[str, tuple[Callable[[pd.DataFrame], Figure], pd.DataFrame]] = {
    "accuracy_by_depth": (plots.accuracy_by_depth, SCORECARD),
    "safety_by_mode": (plots.safety_by_mode, SCORECARD),
    "verdicts": (plots.verdicts, SCORECARD),
    "thought_length": (plots.thought_length, EVALUATION),
    "probe_by_layer": (plots.probe_by_layer, tables.probes()),
    "probe_along_thought": (plots.probe_along_thought, tables.thought_probes()),
    "classifier_scores": (plots.classifier_scores, tables.classifier_scores()),
    "learning_curve": (plots.learning_curve, tables.learning_curve()),
    "reliability": (plots.reliability, tables.predictions()),
    "training_curves": (plots.training_curves, tables.histories()),
    "safety_gradient": (plots.safety_gradient, tables.gradients()),
    "before_after": (plots.before_after, EVALUATION),
    "frontier": (plots.frontier, EVALUATION),
    "overview": (plots.overview, EVALUATION),
}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_a_fixed_size_a_finding_n_and_alt_text(name: str) -> None:
    draw, table = FIGURES[name]
    figure = cleanly(draw, table)
    assert isinstance(figure, Figure)
    assert tuple(figure.get_size_inches()) == tuple(draw(table).get_size_inches())
    assert re.search(r"\d", words(figure))
    alt, caption = plots.alt_text(figure), figure.get_supxlabel()
    assert len(alt) > 80
    assert " ".join(caption.split()) in " ".join(alt.split())
    assert re.search(r"n = \d|seeds? a method", caption)


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_or_printed_over_something_else(name: str) -> None:
    draw, table = FIGURES[name]
    figure = draw(table)
    figure.canvas.draw()
    renderer, page = figure.canvas.get_renderer(), figure.bbox
    boxes = {
        "title": figure._suptitle.get_window_extent(renderer),
        "caption": figure._supxlabel.get_window_extent(renderer),
    }
    for i, ax in enumerate(ax for ax in figure.axes if ax.get_visible()):
        boxes[f"axes {i}"] = ax.get_tightbbox(renderer)
    for what, box in boxes.items():
        assert box.x0 >= page.x0 - 1, what
        assert box.y0 >= page.y0 - 1, what
        assert box.x1 <= page.x1 + 1, what
        assert box.y1 <= page.y1 + 1, what
    for legend in figure.legends:  # it stands below the last line of the title and above every panel
        box = legend.get_window_extent(renderer)
        assert box.x1 <= page.x1
        assert all(box.y0 >= other.y1 - 2 for what, other in boxes.items() if what.startswith("axes"))
    names = list(boxes)
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            width = min(boxes[one].x1, boxes[two].x1) - max(boxes[one].x0, boxes[two].x0)
            height = min(boxes[one].y1, boxes[two].y1) - max(boxes[one].y0, boxes[two].y0)
            assert min(width, height) < 2, f"{one} overlaps {two}"


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_readable_at_half_size(name: str) -> None:
    draw, table = FIGURES[name]
    texts = [t for t in draw(table).findobj(plt.Text) if t.get_text().strip() and t.get_visible()]
    assert min(t.get_fontsize() for t in texts) >= 10


def test_the_finding_follows_the_table() -> None:
    safe = SCORECARD.assign(
        attack_success=SCORECARD["attack_success"].where(SCORECARD["attack_success"].isna(), False)
    )
    assert "0 % of the requests" in words(plots.safety_by_mode(safe)).replace("\u00a0", " ")
    assert words(plots.safety_by_mode(SCORECARD)) != words(plots.safety_by_mode(safe))
    swapped = SCORECARD.assign(
        mode=SCORECARD["mode"].map({"off": "on", "on": "off", "short": "short", "forced": "forced"})
    )
    first, second = (re.findall(r"\d+", words(plots.accuracy_by_depth(t))) for t in (SCORECARD, swapped))
    assert first == second[::-1]


def test_the_overview_names_every_condition_with_its_value() -> None:
    title = words(plots.overview(EVALUATION)).replace("\u00a0", " ")
    rows = EVALUATION[(EVALUATION["suite"] == "harmful_unseen") & (EVALUATION["mode"] == "on")]
    for method in ("before", "sft", "presafe"):
        share = rows.loc[rows["method"] == method, "attack_success"].astype(float).mean()
        assert style.percent(share).replace("\u00a0", " ") in title
    assert "λ = 0" in title


def test_the_length_of_thoughts_is_told_for_harmless_requests_too() -> None:
    text = words(plots.thought_length(EVALUATION))
    assert "about harmful requests" in text
    assert "about harmless requests" in text


def test_the_gradient_that_reaches_nothing_is_said_to_reach_nothing() -> None:
    detached = tables.gradients().assign(norm_aux=0.0, cosine=np.nan)
    assert "reaches no layer" in words(plots.safety_gradient(detached))


@pytest.mark.parametrize("name", ["accuracy_by_depth", "safety_by_mode", "verdicts"])
def test_a_scorecard_of_one_mode_is_drawn(name: str) -> None:
    FIGURES[name][0](SCORECARD[SCORECARD["mode"] == "on"]).canvas.draw()


@pytest.mark.parametrize("name", ["thought_length", "before_after", "frontier", "overview"])
def test_an_evaluation_of_one_model_or_of_an_extra_method_is_drawn(name: str) -> None:
    draw = FIGURES[name][0]
    draw(EVALUATION[EVALUATION["method"] == "before"]).canvas.draw()
    extra = EVALUATION[EVALUATION["method"] == "sft"].assign(method="shuffled")
    figure = draw(pd.concat([EVALUATION, extra]))
    figure.canvas.draw()


@pytest.mark.parametrize("name", FIGURES)
def test_an_empty_table_and_a_missing_column_are_said_in_one_line(name: str) -> None:
    draw, table = FIGURES[name]
    with pytest.raises(SaferlrmError, match=name):
        draw(table.head(0))
    with pytest.raises(SaferlrmError, match=f"{name} needs a column"):
        draw(table[[]].assign(other=1))


def test_colours_are_fixed_and_apart() -> None:
    assert len({plots.PALETTE[name] for name in ("before", "sft", "presafe", "classifier", "control")}) == 5
    methods = ("before", "sft", "presafe", "classifier", "detached")
    others = ("auxiliary loss", "refusal", "partial", "benign", "probe", "difference in means", "bag of words")
    assert len({plots.PALETTE[name] for name in (*methods, *others)}) == len(methods) + len(others)
    lightness = [sum(int(plots.PALETTE[m][i : i + 2], 16) for i in (1, 3, 5)) for m in style.MODE_NAMES]
    assert lightness == sorted(lightness, reverse=True)  # more thinking, darker


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0 %"), (0.004, "0.4 %"), (0.037, "3.7 %"), (0.0999, "10 %"), (1.0, "100 %")]
)
def test_rates_inwords(value: float, text: str) -> None:
    assert style.percent(value).replace("\u00a0", " ") == text


def test_a_figure_says_what_it_shows_where_its_class_would_be_named() -> None:
    figure = plots.overview(EVALUATION)
    assert repr(figure) == plots.alt_text(figure)
    assert repr(style.canvas()[0]).startswith("<"), "nothing is said before it is finished"


def test_modes_without_an_order_of_depth_are_not_joined() -> None:
    ax = plots.accuracy_by_depth(SCORECARD).axes[0]
    lines = {bars.get_label().split(" (")[0]: bars[0].get_linestyle() for bars in ax.containers}
    assert lines["forced long"] == "None"
    assert lines["thinking"] == "-"
