"""Sentences of notebook 08: words follow from paired intervals, and what cannot be told comes with its bound."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from saferlrm import mechanism_findings as findings
from saferlrm.mechanism import shift_table
from saferlrm.shift_contrasts import over_both, with_contrasts
from saferlrm.stats import Interval


def known(thought: bool) -> pd.DataFrame:
    return pd.DataFrame(
        {"prompt_id": f"p{i}", "seed": 0, "condition": "presafe", "harmful": i % 2 == 0, "knows": i % 4 == 0,
         "says": i % 8 == 0, "refused": False, "n_thought_tokens": 9 * thought}
        for i in range(80)
    )  # fmt: skip


def test_only_a_thought_that_was_written_can_hide_something():
    assert findings.silent(known(True), "presafe").startswith("0.25 [")
    assert findings.silent(known(False), "presafe") == "not measurable (no thought written in 100%)"
    assert findings.silent(known(True), "sft") == "no prompts"
    shares = findings.called_harmful(known(True)).set_index("harmful")["rate"]
    assert shares.to_dict() == {True: 0.5, False: 0.0}


def shift_rows(harmful: float, benign: float, condition: str = "presafe", spread: float = 0.1) -> pd.DataFrame:
    """Prompts' shifts along the refusal direction and a direction of the scatter, for three seeds."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"condition": condition, "seed": seed, "layer": 4, "direction": direction, "harmful": kind,
         "prompt_id": f"{kind}{i}", "projection": part * (mean + spread * rng.normal()),
         "share": 0.05 * part + 0.01 * rng.random(), "norm": 3.0}
        for kind, mean in ((True, harmful), (False, benign)) for direction, part in (("refusal", 1.0), ("within", 0.1))
        for seed in range(3) for i in range(30)
    )  # fmt: skip


def shifts(*rows: pd.DataFrame) -> pd.DataFrame:
    table = pd.concat(rows, ignore_index=True)
    return with_contrasts(shift_table(table), table)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_difference_over_seeds_covers(seeds):
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        shared, own = rng.normal(size=seeds), rng.normal(size=(2, seeds))
        rows = [
            {"condition": name, "seed": seed, "auroc": 0.8 + gain + 0.05 * shared[seed] + 0.02 * own[i, seed]}
            for i, (name, gain) in enumerate((("sft", 0.0), ("presafe", 0.1))) for seed in range(seeds)
        ]  # fmt: skip
        found = findings.over_seeds(pd.DataFrame(rows), "auroc", "sft", "presafe")
        hits += found.low <= 0.1 <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_a_difference_over_seeds_needs_two_that_both_have():
    rows = pd.DataFrame({"condition": ["sft", "presafe", "presafe"], "seed": [0, 0, 1], "auroc": [0.7, 0.8, 0.9]})
    assert np.isnan(findings.over_seeds(rows, "auroc", "sft", "presafe").low)
    assert np.isnan(findings.over_seeds(rows, "auroc", "sft", "gold").estimate)


def test_an_interval_over_both_carries_the_seeds():
    alike = np.random.default_rng(0).normal(1.0, 0.1, (50, 1)) + np.zeros((1, 3))
    apart = alike + np.array([[-0.5, 0.0, 0.5]])
    one, two = over_both(alike), over_both(apart)
    assert one.estimate == pytest.approx(two.estimate)
    assert one.high - one.low < 0.1 < 1.0 < two.high - two.low
    assert over_both(apart[:, :1]).high - over_both(apart[:, :1]).low < 0.1  # one seed: prompts alone
    assert over_both(apart, apart).estimate == 0


@pytest.mark.parametrize(
    ("benign", "spread", "said"),
    [
        (-2.0, 0.1, "the two kinds move the same way, and apart (−1.0"),
        (2.0, 0.1, "in opposite ways (−5.0"),
        (-3.0, 2.0, "whether the two kinds move apart cannot be told ("),
    ],
)
def test_a_shift_tells_the_kinds_apart_only_if_its_interval_does(benign, spread, said):
    table = shifts(shift_rows(-3.0, benign, "presafe/few", spread))
    text = findings.common_shift(table, "presafe/few")
    assert text.startswith("PreSafe (few): harmful −")
    assert said in text
    assert "not measured" in findings.common_shift(table, "sft")


def test_what_the_head_adds_is_held_against_the_same_training_without_it():
    table = shifts(
        shift_rows(-1.0, -1.0, "sft"), shift_rows(-2.0, -1.0),
        shift_rows(-1.0, -1.0, "detached_decisions/few"), shift_rows(3.0, -1.0, "presafe_decisions/few"),
    )  # fmt: skip
    text = findings.head_adds(table, "presafe")
    assert "harmful prompts, further against it (−1.00" in text
    assert "benign prompts, cannot be told (0.00 [" in text
    assert "harmful prompts, further along it (4.00" in findings.head_adds(table, "presafe_decisions/few")
    assert findings.head_adds(table, "sft").count("not measured") == 2  # it is the control


def tried(gain: int, base: str = "presafe", seeds: int = 2, pushed: str = "refusal") -> pd.DataFrame:
    """Answers of 40 prompts; the direction ``pushed`` at layer 4 makes ``gain`` of them refused, nothing else does."""
    kinds = [("none", "none", "none", 0, np.nan)]
    kinds += [("add", name, "pre_cot", layer, 1.0) for name in (pushed, "random") for layer in (1, 4)]
    read = "probe" if pushed == "probe" else "on"
    return pd.DataFrame(
        {"base": base, "suite": "benign", "read": read, "seed": seed, "prompt_id": f"p{i}", "intervention": what,
         "direction": name, "where": where, "layer": layer, "scale": scale,
         "refused": name == pushed and layer == 4 and i < gain}
        for what, name, where, layer, scale in kinds for seed in range(seeds) for i in range(40)
    )  # fmt: skip


def test_no_place_is_named_where_no_interval_leaves_zero_out():
    (line,) = findings.effect_lines(findings.causal_effects(tried(1)))
    assert "PreSafe, benign, class means, thinking on, add: cannot be told from nothing done at any of 2 places" in line
    most = int(line.split("more than ")[1].split(" ")[0])
    assert 3 <= most <= 20


def test_the_largest_effect_says_of_how_many_it_is_the_largest():
    effects = findings.causal_effects(tried(30))
    (line,) = findings.effect_lines(effects)
    assert "raises refusals at 1 of 2 places and strengths, most at layer 4, pre_cot (0.75 [" in line
    assert "against a random direction 0.75 [" in line
    assert effects.loc[effects["direction"] == "random", "beyond"].isna().all()


def test_harm_and_decision_are_compared_by_contrast():
    table = pd.DataFrame({"suite": ["harmful_unseen", "benign"] * 10, "harmful": [True, False] * 10,
                          "prompt_id": [f"p{i}" for i in range(20)],
                          "refused": [True, False] * 9 + [False, True]})  # fmt: skip
    found = findings.harm_and_decision(table, ["direct"])
    assert found.loc[0, "rate"] == pytest.approx(0.9)


def test_what_cannot_be_told_comes_with_its_bound():
    assert findings.told(Interval(0.01, -0.05, 0.07, 9), "less", "more") == (
        "cannot be told (0.01 [−0.05, 0.07]: at most 0.07 either way)"
    )
    assert findings.told(Interval(0.1, 0.05, 0.15, 9), "less", "more").startswith("more (")
    assert findings.told(Interval(-0.1, -0.15, -0.05, 9), "less", "more").startswith("less (")
    assert findings.told(Interval(np.nan, np.nan, np.nan, 0), "less", "more") == "not measured"


def test_an_interval_over_seeds_needs_two_of_them():
    rows = [(c, s, 0.8 + 0.01 * s + 0.1 * (c == "presafe")) for c in ("sft", "presafe") for s in range(3)]
    table = pd.DataFrame(rows, columns=["condition", "seed", "auroc"])
    found = findings.over_seeds(table, "auroc", "sft", "presafe")
    assert (found.estimate, found.n) == (pytest.approx(0.1), 3)
    assert found.low <= found.estimate <= found.high
    assert np.isnan(findings.over_seeds(table[table["seed"] == 0], "auroc", "sft", "presafe").estimate)
    assert np.isnan(findings.over_seeds(table, "auroc", "sft", "gold").estimate)


def probe_rows(after: float, seeds: tuple[float, ...] = (-0.005, 0.0, 0.005)) -> pd.DataFrame:
    own = {"probe": "own", "position": "pre_cot", "group": "direct", "layer": 4, "low": 0.85, "high": 0.93, "n": 200}
    unchanged = {"change": 0.0, "change_low": 0.0, "change_high": 0.0}
    before = [own | {"condition": "before", "seed": 0, "auroc": 0.9} | unchanged]
    trained = [
        own | {"condition": condition, "seed": k, "auroc": value + part, "change": value + part - 0.9,
               "change_low": value + part - 0.92, "change_high": value + part - 0.88}
        for condition, value in (("sft", 0.9), ("presafe", after)) for k, part in enumerate(seeds)
    ]  # fmt: skip
    return pd.DataFrame(before + trained)


@pytest.mark.parametrize(("after", "word"), [(0.89, "cannot be told"), (0.97, "more readable"), (0.7, "less readable")])
def test_the_three_questions_are_answered_from_paired_intervals(after, word):
    table = shifts(shift_rows(-2.0, -2.0, "sft"), shift_rows(-2.0, -2.0))
    effects = findings.causal_effects(pd.concat([tried(0, pushed="probe"), tried(30)]))
    readable, moved, before, used = findings.three_answers(probe_rows(after), table, effects, "direct")
    assert f"than that: {word} (" in readable
    assert "harmful prompts, against the refusal direction (−2.0" in moved
    assert "cannot be told" in used
    assert "none raises refusals by more than" in used
    assert before == "Used, before alignment: the direction that the probe reads: was not tried."


def test_what_the_probe_reads_is_judged_by_its_own_direction_and_not_by_the_class_means():
    table = shifts(shift_rows(-2.0, -2.0, "sft"), shift_rows(-2.0, -2.0))
    effects = findings.causal_effects(pd.concat([tried(30, pushed="probe"), tried(0)]))
    *_, used = findings.three_answers(probe_rows(0.9), table, effects, "direct")
    assert "added, on benign prompts, it raises refusals at 1 of 2 places and strengths, most at layer 4" in used


def test_how_well_either_direction_tells_harm_is_said_of_the_last_layer():
    rows = [{"base": base, "seed": seed, "layer": layer, "direction": name, "group": "direct", "n": 40,
             "auroc": area, "low": area - 0.1, "high": area + 0.1}
            for base in ("before", "presafe") for seed in range(2) for layer in (1, 4)
            for name, area in (("probe", 0.5 + 0.1 * layer), ("refusal", 0.6))]  # fmt: skip
    first, second = findings.readable_lines(pd.DataFrame(rows))
    assert first == (
        "before alignment, direct: the weights 0.90 [0.80, 1.00], the difference of the class means 0.60 [0.50, 0.70], "
        "n = 40"
    )
    assert second.startswith("PreSafe, direct: ")


def test_seeds_that_disagree_leave_the_answer_open():
    found = findings.readable_change(probe_rows(0.95, (-0.1, 0.0, 0.1)), "presafe", "direct")
    assert found.low < 0 < found.high
    sure = findings.readable_change(probe_rows(0.95), "presafe", "direct")
    assert sure.low > 0
    assert sure.high - sure.low > 0.04  # not narrower than the interval over prompts
    assert np.isnan(findings.readable_change(probe_rows(0.95), "gold", "direct").estimate)
