"""Thresholds and costs, against counting by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from saferlrm import costs
from saferlrm.errors import SaferlrmError
from saferlrm.stats import wilson

HARMFUL = np.array([True, True, True, False, False, False])
P = np.array([0.9, 0.8, 0.3, 0.6, 0.2, 0.1])


def test_rates_at_a_threshold_are_counted():
    found = costs.at_threshold(HARMFUL, P, 0.5)
    assert (found["miss"].estimate, found["false_alarm"].estimate) == (1 / 3, 1 / 3)
    assert found["miss"].n == 3


def test_the_curve_runs_from_flagging_nothing_to_flagging_all():
    line = costs.curve(HARMFUL, P)
    assert (line["miss"].iloc[0], line["false_alarm"].iloc[0]) == (1, 0)
    assert (line["miss"].iloc[-1], line["false_alarm"].iloc[-1]) == (0, 1)
    for row in line.iloc[1:].itertuples():
        found = costs.at_threshold(HARMFUL, P, row.threshold)
        assert (row.miss, row.false_alarm) == pytest.approx((found["miss"].estimate, found["false_alarm"].estimate))


@pytest.mark.parametrize("ratio", [0.1, 1, 10, 100])
@pytest.mark.parametrize("base", [0.01, 0.5])
def test_the_chosen_threshold_costs_least(ratio, base):
    rng = np.random.default_rng(1)
    harmful = rng.random(200) < 0.5
    p = np.clip(rng.normal(0.35 + 0.3 * harmful, 0.2), 0, 1)
    chosen = costs.choose_threshold(harmful, p, ratio, base)
    price = {}
    for threshold in [chosen, *np.linspace(0, 1, 101)]:
        found = costs.at_threshold(harmful, p, threshold)
        price[threshold] = costs.expected_cost(found["miss"].estimate, found["false_alarm"].estimate, ratio, base)
    assert price[chosen] <= min(price.values()) + 1e-12


def test_dearer_misses_never_raise_the_threshold():
    rng = np.random.default_rng(2)
    harmful = rng.random(400) < 0.5
    p = rng.beta(2 + 2 * harmful, 4 - 2 * harmful)
    cuts = [costs.choose_threshold(harmful, p, ratio) for ratio in (0.1, 1, 10, 100)]
    assert cuts == sorted(cuts, reverse=True)


def test_the_threshold_of_calibrated_probabilities_is_elkans():
    rng = np.random.default_rng(3)
    p = rng.random(200_000)
    harmful = rng.random(200_000) < p
    for ratio in (1, 4):
        assert costs.choose_threshold(harmful, p, ratio, 0.5) == pytest.approx(costs.elkan(ratio), abs=0.03)


def test_a_threshold_lies_between_the_prompts_it_parts():
    assert costs.choose_threshold([False, True], [0.2, 0.6], 1) == pytest.approx(0.4)


def test_few_false_alarms_are_many_requests_at_scale():
    miss, alarm = wilson(5, 100), wilson(10, 1000)
    found = costs.at_scale(miss, alarm, [0.001, 0.5]).iloc
    assert (found[0]["harmful"], found[0]["missed"], found[0]["refused_in_vain"]) == (1000, 50, 9990)
    assert found[0]["precision"] == pytest.approx(950 / (950 + 9990))
    assert found[0]["precision_low"] < found[0]["precision"] < found[0]["precision_high"]
    assert found[1]["precision"] > 0.98
    with pytest.raises(SaferlrmError, match="between 0 and 1"):
        costs.at_scale(miss, alarm, [0.0])


def test_decisions_transfer_or_do_not():
    rng = np.random.default_rng(4)
    harmful = np.arange(400) % 2 == 0
    sets = {"validation": rng.normal(0.2 + 0.6 * harmful, 0.1), "test": rng.normal(0.4 + 0.2 * harmful, 0.2)}
    made = [pd.DataFrame({"prompts": name, "harmful": harmful, "p_refuse": p.clip(0, 1)}) for name, p in sets.items()]
    table = costs.decisions(pd.concat(made), (1, 10))
    assert table.groupby("ratio")["threshold"].nunique().tolist() == [1, 1]
    assert (table["least"] <= table["cost"] + 1e-12).all()
    by = table.set_index(["ratio", "prompts"])["cost"]
    assert by[1, "validation"] < by[1, "test"]


def test_one_kind_of_prompts_is_refused():
    with pytest.raises(SaferlrmError, match="harmful and harmless"):
        costs.curve([True, True], [0.1, 0.2])
