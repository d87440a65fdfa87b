"""Figures of the evidence: their titles follow the data, n is in the caption, nothing is cut off or covered."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import evidence_tables as tables
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from pictures import cleanly, words

from saferlrm import plots
from saferlrm.errors import SaferlrmError
from saferlrm.plots import alt_text, labels, style
from saferlrm.plots.measures import condition_name

CONTROLS, SWEEPS, RIVALS = tables.controls(), tables.sweeps(), tables.rivals()
FIGURES: dict[str, tuple[Callable[[pd.DataFrame], Figure], pd.DataFrame]] = {
    "controls": (plots.controls, CONTROLS),
    "control_differences": (plots.control_differences, tables.differences()),
    "sweeps": (plots.sweeps, SWEEPS),
    "rivals_frontier": (plots.rivals_frontier, RIVALS),
    "temperature": (plots.temperature, tables.temperature()),
    "safe_at_k": (plots.safe_at_k, tables.safe_at_k()),
    "adaptive": (plots.adaptive, tables.adaptive()),
    "truncation": (plots.truncation, tables.truncation()),
    "organisms": (plots.organisms, tables.organisms()),
    "failed_attacks": (plots.failed_attacks, tables.with_verdicts(tables.organisms())),
}


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    """Every figure once, drawn without a warning from a table that stays as it is."""
    figures = {name: cleanly(draw, table) for name, (draw, table) in FIGURES.items()}
    yield figures
    plt.close("all")


@pytest.fixture(autouse=True)
def _close_figures(drawn):
    """Closes what a test draws, but not the figures that are shared."""
    shared = {figure.number for figure in drawn.values()}
    yield
    for number in set(plt.get_fignums()) - shared:
        plt.close(number)


def caption(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().replace("\u00a0", " ").split())


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_a_finding_n_an_interval_and_alt_text(drawn, name):
    figure = drawn[name]
    assert re.search(r"\d", words(figure))
    assert re.search(r"n = \d", caption(figure))
    assert "95 % intervals" in caption(figure)
    assert "seed" in caption(figure)
    alt = " ".join(alt_text(figure).replace("\u00a0", " ").split())
    assert words(figure) in alt
    assert caption(figure) in alt


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_or_covered_and_all_is_readable_at_half_size(drawn, name):
    figure = drawn[name]
    renderer, page = figure.canvas.get_renderer(), figure.bbox
    boxes = {"title": figure._suptitle.get_window_extent(renderer)}
    boxes["caption"] = figure._supxlabel.get_window_extent(renderer)
    for i, ax in enumerate(ax for ax in figure.axes if ax.get_visible()):
        boxes[f"axes {i}"] = ax.get_tightbbox(renderer)
        ticks = [t.get_window_extent(renderer) for t in ax.get_xticklabels() if t.get_text()]
        for one, two in itertools.pairwise(ticks):
            assert one.x1 < two.x0, f"tick labels of axes {i}"
    for what, box in boxes.items():
        assert min(box.x0 - page.x0, box.y0 - page.y0, page.x1 - box.x1, page.y1 - box.y1) > -1, what
    names = list(boxes)
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            width = min(boxes[one].x1, boxes[two].x1) - max(boxes[one].x0, boxes[two].x0)
            height = min(boxes[one].y1, boxes[two].y1) - max(boxes[one].y0, boxes[two].y0)
            assert min(width, height) < 2, f"{one} covers {two}"
    for legend in figure.legends:
        box = legend.get_window_extent(renderer)
        assert box.x1 <= page.x1
        assert all(box.y0 >= other.y1 - 2 for what, other in boxes.items() if what.startswith("axes"))
    texts = [t for t in figure.findobj(plt.Text) if t.get_text().strip() and t.get_visible()]
    assert min(t.get_fontsize() for t in texts) >= 10


@pytest.mark.parametrize("name", FIGURES)
def test_an_empty_table_and_a_missing_column_are_said_in_one_line(name):
    draw, table = FIGURES[name]
    with pytest.raises(SaferlrmError, match=f"{name} needs at least one row"):
        draw(table.head(0))
    with pytest.raises(SaferlrmError, match=f"{name} needs a column"):
        draw(table[[]].assign(other=1))


def test_the_title_of_the_controls_says_where_the_head_adds_something(drawn):
    assert "on 3 of 3 attacks with few examples (prefilled thoughts:" in words(drawn["controls"])
    turned = CONTROLS.replace({"method": {"sft": "presafe", "presafe": "sft"}})
    assert "on 0 of 3 attacks with few examples, and less safe on 3" in words(plots.controls(turned))
    same = CONTROLS[CONTROLS["method"].isin(["before", "sft"])]
    same = pd.concat([same, same[same["method"] == "sft"].assign(method="presafe")])
    text = words(plots.controls(same))
    assert "on 0 of 3 attacks with the full alignment set" in text
    assert "less safe" not in text


def test_the_title_of_the_controls_gives_the_rates_of_its_table(drawn):
    rows = CONTROLS[(CONTROLS["group"] == "few") & (CONTROLS["mode"] == "prefilled")]
    for method in ("sft", "presafe"):
        share = rows.loc[rows["method"] == method, "attack_success"].astype(float).mean()
        assert style.percent(share).replace("\u00a0", " ") in words(drawn["controls"])


def test_controls_show_the_unaligned_model_once_and_one_budget_alone(drawn):
    twice = pd.concat([CONTROLS, CONTROLS[CONTROLS["method"] == "before"].assign(group="few")])
    assert words(plots.controls(twice)) == words(drawn["controls"])
    alone = plots.controls(CONTROLS[CONTROLS["group"] == "few"])
    assert "full" not in words(alone)
    assert [text.get_text() for text in alone.legends[0].get_texts()] == ["few examples"]


def test_only_what_the_correction_leaves_is_called_better_or_worse():
    table = tables.differences()
    assert words(plots.control_differences(table)).startswith(
        "24 of 84 differences to λ = 0 are decided: PreSafe 6 better"
    )
    assert "PreSafe 6 worse" in words(plots.control_differences(tables.differences(sign=-1)))
    uncorrected = words(plots.control_differences(table.assign(p_holm=1.0)))
    assert uncorrected == "0 of 84 differences to λ = 0 are decided"


def test_more_refusals_of_harmless_prompts_and_fewer_problems_solved_are_worse():
    row = {"mode": "on", "before": "sft", "after": "presafe", "difference": 0.2, "low": 0.1, "high": 0.3}
    row |= {"p_holm": 0.001, "n": 150, "seeds": 5}
    for suite, metric, said in (
        ("safe_but_scary", "refused", "1 worse"),
        ("harmful_unseen", "refused", "1 better"),
        ("harmful_unseen", "attack_success", "1 worse"),
        ("reasoning", "correct", "1 better"),
    ):
        figure = plots.control_differences(pd.DataFrame([row | {"suite": suite, "metric": metric}]))
        assert words(figure).endswith(said)


def test_differences_to_other_controls_name_both_sides():
    table = tables.differences().query("after == 'presafe'")
    table = pd.concat([table.assign(before=name, after="presafe", group="few") for name in ("shuffled", "detached")])
    figure = plots.control_differences(table, against=("detached", "shuffled"))
    assert "PreSafe − detached head 3 better, PreSafe − shuffled labels 3 better" in words(figure)
    assert len(figure.axes[0].get_yticklabels()) == 2
    with pytest.raises(SaferlrmError, match="at least one row"):
        plots.control_differences(table)


@pytest.mark.parametrize("most", ["examples", "rank"])
def test_the_title_of_the_sweeps_names_the_setting_that_matters(most):
    text = words(
        plots.sweeps(
            tables.sweeps(most, size=20, names=("lambda", "rank", "examples")), ("lambda", "rank", "examples")
        )
    )
    name = {"examples": "alignment examples", "rank": "rank of the LoRA adapter"}[most]
    assert f"depends most on the {name}: " in text
    assert "gain over λ = 0" in text


def test_the_title_of_the_sweeps_claims_a_gain_or_harm_only_where_the_interval_excludes_none():
    rank = SWEEPS[SWEEPS["group"] == "sweep:rank"]
    harmful, head = rank["attack_success"].notna(), rank["method"] == "presafe"
    for good, said in ((True, "The largest gain over λ = 0 is at the rank"), (False, "most harm at the rank")):
        made = rank.assign(attack_success=rank["attack_success"].mask(harmful, head != good))
        assert said in words(plots.sweeps(made)), good
    prefilled = rank.assign(mode="prefilled")[harmful & (rank["suite"] == "harmful_unseen")]
    prefilled = prefilled.assign(attack_success=prefilled["method"] != "presafe")
    same = rank.assign(attack_success=rank["attack_success"].mask(harmful, False))
    assert "No setting shows a gain over λ = 0" in words(plots.sweeps(pd.concat([same, prefilled])))


def test_what_took_more_steps_is_said_to_have_taken_them():
    table = tables.differences()
    more = table["after"].str.startswith("presafe_decisions")
    table = table.assign(p_holm=table["p_holm"].where(more, 1.0))
    own = table[more].assign(before="detached_decisions/few", p_holm=0.5)
    text = words(plots.control_differences(pd.concat([table, own])))
    assert "PreSafe + decisions 6 better. All of them have label-only prompts, and so more steps than λ = 0" in text
    assert text.endswith(f"against their own controls 0 of {len(own)} are decided")


def test_a_head_that_never_helps_is_said_not_to_help():
    turned = SWEEPS[SWEEPS["group"] == "sweep:examples"].replace({"method": {"sft": "presafe", "presafe": "sft"}})
    assert "No setting shows a gain over λ = 0" in words(plots.sweeps(turned))


def test_a_sweep_of_the_head_alone_shows_plain_training_as_a_level():
    with_level = plots.sweeps(SWEEPS, ("layer",))
    borrowed = SWEEPS[(SWEEPS["group"] != "sweep:layer") | (SWEEPS["method"] != "sft")]
    for figure in (with_level, plots.sweeps(borrowed, ("layer",))):
        level = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
        assert len(level) == 1
        assert level[0].get_label() == condition_name("sft")


def test_the_title_of_the_rivals_names_the_safest_and_those_that_are_not_told_apart(drawn):
    assert words(drawn["rivals_frontier"]).startswith("PreSafe has the lowest attack success")
    others = tables.rivals({"safepath": 0.0, "presafe": 0.3}, seeds=1, size=30)
    assert words(plots.rivals_frontier(others)).startswith("SAFEPATH has the lowest attack success, 0 %")
    apart = tables.rivals({name: 0.0 if name == "safekey" else 0.6 for name in tables.RIVALS}, 1, 30)
    assert words(plots.rivals_frontier(apart)).endswith("the intervals of all 13 others lie above its own")


def test_rivals_without_training_stand_beside_both_budgets_in_their_own_mode(drawn):
    few = plots.rivals_frontier(RIVALS, "few")
    full = drawn["rivals_frontier"]
    for figure in (few, full):
        named = {note.get_text() for note in figure.findobj(Annotation)} - {""}
        assert named == {label for label, *_ in tables.RIVALS.values()}
    assert words(few) != words(full)
    off = RIVALS[(RIVALS["method"] == "before")].assign(mode="off", attack_success=False)
    assert words(plots.rivals_frontier(pd.concat([RIVALS, off]))) == words(full)
    with pytest.raises(SaferlrmError, match="full and few, not 'some'"):
        plots.rivals_frontier(RIVALS, "some")
    with pytest.raises(SaferlrmError, match=r"correct.*at least one row"):
        plots.rivals_frontier(RIVALS[RIVALS["suite"] != "reasoning"])


def test_labels_of_points_in_a_heap_cover_neither_each_other_nor_the_edge():
    figure, axes = style.canvas(1, 1, 6.0)
    ax = axes[0, 0]
    ax.set(xlim=(0, 1), ylim=(0, 1))
    rng = np.random.default_rng(0)
    points = [tuple(point) for point in 0.03 + 0.05 * rng.random((12, 2))]
    texts = [f"method number {i}" for i in range(12)]
    labels.place(ax, points, texts, ["#0072B2"] * 12)
    figure.canvas.draw()
    notes = [note for note in figure.findobj(Annotation) if note.get_text()]
    boxes = [plt.Text.get_window_extent(note) for note in notes]
    assert [note.get_text() for note in notes] == texts
    for i, one in enumerate(boxes):
        assert ax.bbox.x0 < one.x0 < one.x1 < ax.bbox.x1
        assert ax.bbox.y0 < one.y0 < one.y1 < ax.bbox.y1
        for two in boxes[i + 1 :]:
            assert not one.overlaps(two)


@pytest.mark.parametrize(("rise", "said"), [(0.3, "for 5 of 5 models"), (0.0, "for 0 of 5 models")])
def test_the_title_of_the_temperatures_follows_the_rates(rise, said):
    assert said in words(plots.temperature(tables.temperature(rise, size=30, seeds=1)))


def test_a_fall_with_temperature_is_called_a_fall_and_repeated_samples_are_not_independent():
    table = tables.temperature(-0.45)
    text = words(plots.temperature(table))
    assert re.search(r"Before alignment: \d+ % to [\d.]+ % \(a fall\)", text)
    assert "n = 40 to 80 prompts" in caption(plots.temperature(table))
    whole = table[table["group"] == "robustness:temperature"]
    assert "tail" not in caption(plots.temperature(whole))


def test_the_title_of_safe_at_k_gives_the_worst_case():
    table = tables.safe_at_k()
    row = table[(table["base"] == "presafe") & (table["k"] == 4) & (table["value"] == 1.2)]
    share = row.loc[row["suite"] == "harmful_novel_wrapped", "safe"].item()
    assert f"PreSafe: {style.percent(share)}".replace("\u00a0", " ") in words(plots.safe_at_k(table))


def test_seeds_of_safe_at_k_are_pooled_or_drawn_one_by_one():
    counts = {}
    for by in ((), ("seed",)):
        table = tables.safe_at_k(size=20, by=by)
        figure = plots.safe_at_k(table)
        counts[by] = len(figure.axes[0].lines)
        assert "2 alignment seeds" in caption(figure)
        assert len(figure.legends[0].get_texts()) == 5
    assert counts == {(): 5, ("seed",): 9}


@pytest.mark.parametrize(
    ("worst", "said"), [("prefill=16", "16 tokens prefilled"), ("argue", "thought argues to comply")]
)
def test_the_title_of_the_attacks_names_the_strongest(worst, said):
    assert f"on every model is “{said}”. λ = 0: " in words(
        plots.adaptive(tables.adaptive(worst, seeds=1, size=30))
    )


def test_attacks_that_differ_by_model_are_named_with_it():
    table = tables.adaptive()
    other = tables.adaptive("argue")
    mixed = pd.concat([table[table["base"] != "presafe"], other[other["base"] == "presafe"]])
    text = words(plots.adaptive(mixed))
    assert re.search(r"λ = 0: \d+ % \(16 tokens prefilled\); PreSafe: [\d.]+ % \(thought argues to comply\)", text)
    full = mixed[~mixed["base"].str.endswith("/few")]
    assert len([ax for ax in plots.adaptive(full).axes if ax.get_visible()]) == 1


@pytest.mark.parametrize(("lost", "said"), [(0.9, " depends on"), (0.0, "does not clearly depend on")])
def test_the_title_of_the_token_limits_follows_the_rates(lost, said):
    text = words(plots.truncation(tables.truncation(lost)))
    assert said in text
    assert "with 160 tokens (0 % of the answers cut off)" in text


def test_conclusions_are_counted_organism_by_organism(drawn):
    assert "thinking raises attack success on 3 of 3" in words(drawn["organisms"])
    text = words(plots.organisms(tables.organisms(exceptions=(1,))))
    assert "thinking raises attack success on 2 of 3" in text
    assert "with few examples on 2 of 3" in text
    rows = tables.organisms()
    turned = rows.replace({"condition": {"sft/few": "presafe/few", "presafe/few": "sft/few"}})
    assert "with few examples on 0 of 3 (the opposite on 3)" in words(plots.organisms(turned))


def test_a_failed_attack_is_not_yet_a_refusal(drawn):
    rows = tables.with_verdicts(tables.organisms())
    asked = rows["suite"].isin(["harmful_unseen", "harmful_novel_wrapped"]) & (rows["mode"] == "on")
    head = rows[asked & (rows["condition"] == "presafe/few")]
    refused = [style.percent(part["refused"].mean()) for _, part in head.groupby("organism")]
    said = "refuses {} of attacks on organisms 0, 1, 2, and gives {} an answer without content".format
    nothing = "0\u00a0%"
    expected = said(", ".join(refused), ", ".join([nothing] * 3))
    assert expected.replace("\u00a0", " ") in words(drawn["failed_attacks"])
    rows.loc[(rows["organism"] == 1) & (rows["verdict"] == "refusal"), "verdict"] = "babble"
    broken = said(f"{refused[0]}, {nothing}, {refused[2]}", f"{nothing}, {refused[1]}, {nothing}")
    assert broken.replace("\u00a0", " ") in words(plots.failed_attacks(rows))
    without = plots.failed_attacks(rows[rows["condition"] != "presafe/few"])
    assert words(without) == "What becomes of harmful requests"


def test_an_organism_without_both_sides_of_a_conclusion_is_left_out_of_it():
    rows = tables.organisms()
    rows = rows[(rows["organism"] != 2) | (rows["condition"] != "presafe/few")]
    text = words(plots.organisms(rows))
    assert "with few examples on 2 of 2" in text
    assert "PreSafe lowers it on 3 of 3" in text
