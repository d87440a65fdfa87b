"""Figures of the mechanism: a computed finding, n, intervals, alt text, and nothing cut off."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import pytest
from mechanism_tables import causal_rows, known, path_rows, probe_rows, shifts
from pictures import check_layout, check_refusals, cleanly, words

from saferlrm import plots

FIGURES = {
    "probes_before_after": (plots.probes_before_after, probe_rows()),
    "latent_shift": (plots.latent_shift, shifts()),
    "gradient_path": (plots.gradient_path, path_rows()),
    "causal": (plots.causal, causal_rows()),
    "know_but_dont_say": (plots.know_but_dont_say, known()),
}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_states_a_finding_with_n_and_intervals_and_cuts_nothing_off(name):
    draw, table = FIGURES[name]
    figure = cleanly(draw, table)
    assert re.search(r"\d", words(figure))
    caption = " ".join(figure.get_supxlabel().split())
    assert re.search(r"n = \d", caption)
    assert re.search("interval|bootstrap", caption)
    assert caption in " ".join(plots.alt_text(figure).split())
    check_layout(figure)
    check_refusals(draw, table, name)


def test_titles_follow_their_tables():
    assert "0.87 before alignment" in words(plots.probes_before_after(probe_rows()))
    assert "by +0.80, benign ones by -0.24" in words(plots.latent_shift(shifts()))
    assert "peaks at epoch 0.5" in words(plots.gradient_path(path_rows()))
    assert "peaks at epoch 2.0" in words(plots.gradient_path(path_rows(2.0)))
    tried = "along the same, tried thinking off"
    assert f"+100 and +100 {tried}" in words(plots.causal(causal_rows()))
    assert f"+0 and +0 {tried}" in words(plots.causal(causal_rows(works=False)))
    assert "+0 and +0 along what the probe reads" in words(plots.causal(causal_rows()))
    rows = known()
    all_refused = rows.assign(refused=True)
    assert "0 % (before alignment)" in words(plots.know_but_dont_say(all_refused)).replace("\u00a0", " ")
