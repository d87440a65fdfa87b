"""Figures of real benchmarks: findings follow the tables, nothing is cut off, all is readable at half size."""

from __future__ import annotations

import re
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from pictures import cleanly, words

from saferlrm import plots
from saferlrm.errors import SaferlrmError
from saferlrm.judges.calibration import DEVELOPED_ON, MATCHER, RULES
from saferlrm.plots import alt_text


def judged() -> pd.DataFrame:
    rows = []
    for judge, gain in ((RULES, 0.04), (MATCHER, 0.0), ("a language model", 0.02)):
        for i, model in enumerate(("one", "two", DEVELOPED_ON)):
            role = "developed on" if (judge, model) == (RULES, DEVELOPED_ON) else "held out"
            for prompts, n in (("all", 450), ("unsafe", 200)):
                row = {"judge": judge, "model": model, "role": role, "prompts": prompts, "n": n, "p_matcher": 0.01 + i}
                for name, rate in (("binary_accuracy", 0.88 + gain), ("accuracy", 0.8 - gain)):
                    row |= {name: rate, f"{name}_low": rate - 0.03, f"{name}_high": rate + 0.03}
                rows.append(row)
    return pd.DataFrame(rows)


def scored() -> pd.DataFrame:
    rows = []
    for name, seed in (("TF-IDF", None), ("frozen", None), ("fine-tuned encoder", 0), ("fine-tuned encoder", 1)):
        for test, n in (("xstest", 450), ("jbb", 200)):
            row = {"model": name, "seed": seed, "test": test, "n": n, "n_train": 1004}
            for metric, rate in (("auroc", 0.7 + 0.05 * (test == "jbb")), ("fpr_recall", 0.8)):
                row |= {metric: rate, f"{metric}_low": rate - 0.1, f"{metric}_high": rate + 0.1}
            rows.append(row)
    return pd.DataFrame(rows).astype({"seed": "Int64"})


FIGURES: dict[str, tuple[Callable[[pd.DataFrame], Figure], pd.DataFrame]] = {
    "judge_accuracy": (plots.judge_accuracy, judged()),
    "prompt_classifiers": (plots.prompt_classifiers, scored()),
}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_a_finding_n_intervals_and_alt_text(name: str) -> None:
    figure = cleanly(*FIGURES[name])
    caption = " ".join(figure.get_supxlabel().replace("\u00a0", " ").split())
    assert re.search(r"\d", words(figure))
    assert re.search(r"n = \d", caption)
    assert "95 % intervals" in caption
    alt = " ".join(alt_text(figure).replace("\u00a0", " ").split())
    assert words(figure).replace("\u00a0", " ") in alt
    assert caption in alt


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_or_covered_and_all_is_readable_at_half_size(name: str) -> None:
    figure = cleanly(*FIGURES[name])
    renderer, page = figure.canvas.get_renderer(), figure.bbox
    boxes = [figure._suptitle.get_window_extent(renderer), figure._supxlabel.get_window_extent(renderer)]
    boxes += [ax.get_tightbbox(renderer) for ax in figure.axes]
    for i, one in enumerate(boxes):
        assert min(one.x0 - page.x0, one.y0 - page.y0, page.x1 - one.x1, page.y1 - one.y1) >= -1
        for two in boxes[i + 1 :]:
            width, height = min(one.x1, two.x1) - max(one.x0, two.x0), min(one.y1, two.y1) - max(one.y0, two.y0)
            assert min(width, height) < 2
    texts = [t for t in figure.findobj(plt.Text) if t.get_text().strip() and t.get_visible()]
    assert min(t.get_fontsize() for t in texts) >= 10


def test_the_finding_counts_held_out_models_alone() -> None:
    title = words(plots.judge_accuracy(judged()))
    assert "on 2 of 2 held-out models (p < 0.05 on 1), in three classes on 0 of 2" in title
    worse = judged().replace({"judge": {RULES: MATCHER, MATCHER: RULES}})
    worse["role"] = np.where((worse["judge"] == RULES) & (worse["model"] == DEVELOPED_ON), "developed on", "held out")
    assert "on 0 of 2 held-out models (p < 0.05 on 0), in three classes on 2 of 2" in words(plots.judge_accuracy(worse))


def test_the_model_that_the_rules_were_developed_on_is_marked() -> None:
    labels = [label.get_text() for label in plots.judge_accuracy(judged()).axes[0].get_yticklabels()]
    assert [label for label in labels if "developed on" in label] == [f"{DEVELOPED_ON}\n(rules developed on it)"]


def test_ranges_are_those_of_the_table() -> None:
    title = words(plots.prompt_classifiers(scored())).replace("\u00a0", " ")
    assert "AUROC 0.70 to 0.70 on XSTest and 0.75 to 0.75 on JailbreakBench" in title
    assert "80 % to 80 % of the safe ones" in title
    only = scored()[lambda table: table["test"] == "jbb"]
    assert "XSTest" not in words(plots.prompt_classifiers(only))


@pytest.mark.parametrize("name", FIGURES)
def test_an_empty_table_and_a_missing_column_are_said_in_one_line(name: str) -> None:
    draw, table = FIGURES[name]
    with pytest.raises(SaferlrmError, match=f"{name} needs at least one row"):
        draw(table.head(0))
    with pytest.raises(SaferlrmError, match=f"{name} needs a column"):
        draw(table[[]].assign(other=1))
