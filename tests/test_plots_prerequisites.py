"""Figures of notebook 01 and of the costs in 04: a finding from the table, n, intervals, alt text, nothing cut off."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from pictures import check_layout, check_refusals, cleanly, words
from test_faithfulness import table as hinted_answers

from saferlrm import costs, plots

KS = (1, 5, 15)


def vote(rates: tuple[float, ...], **named: object) -> pd.DataFrame:
    rate = np.array(rates)
    gain = rate - rate[0]
    return pd.DataFrame(
        {
            "k": KS, "n": 60, "samples": 15, "rate": rate, "low": rate - 0.05, "high": rate + 0.05,
            "gain": gain, "gain_low": gain - 0.04, "gain_high": gain + 0.04,
        }
    ).assign(**named)  # fmt: skip


def solved(last: float = 0.9) -> pd.DataFrame:
    hot = vote((0.7, 0.8, last), regime="thinking, hot", temperature=1.3)
    return pd.concat([hot, vote((0.4, 0.41, 0.42), regime="no thinking", temperature=0.7)], ignore_index=True)


def refused(last: float = 0.5) -> pd.DataFrame:
    parts = [
        vote((0.5, 0.5, last if suite != "benign" else 0.5), suite=suite, regime=regime, rule=rule)
        for suite in ("harmful_unseen", "harmful_novel_wrapped", "benign")
        for regime in ("thinking", "thinking, hot")
        for rule in ("majority", "veto")
    ]
    return pd.concat(parts, ignore_index=True)


def budgets() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for suite in ("reasoning", "harmful_unseen", "harmful_novel_wrapped"):
        for kind, tokens in (("cut", 0), ("cut", 8), ("own", None), ("forced", 48), ("forced", 96)):
            for i in range(30):
                hit = rng.random() < {"own": 0.9}.get(kind, 0.4)
                rows.append(
                    {
                        "prompt_id": f"{suite}-{i}", "suite": suite, "budget": kind, "tokens": tokens,
                        "n_thought_tokens": 30 if tokens is None else tokens, "truncated": False,
                        "harmful": suite != "reasoning", "verdict": "compliance",
                        "correct": hit if suite == "reasoning" else None,
                        "attack_success": hit if suite != "reasoning" else None,
                    }
                )  # fmt: skip
    types = {"tokens": "Int64", "correct": "boolean", "attack_success": "boolean"}
    return pd.DataFrame(rows).astype(types)


def sized() -> pd.DataFrame:
    rows = [
        {"hidden_size": h, "parameters": h * h * 70, "mode": mode, "metric": metric, "n": 150, "rate": rate}
        for metric in ("correct", "attack_success")
        for mode, top in (("off", 0.3), ("on", 0.9))
        for h, rate in ((64, top / 2), (128, top), (192, top))
    ]
    return pd.DataFrame(rows).assign(low=lambda t: t["rate"] - 0.05, high=lambda t: t["rate"] + 0.05)


def flagged() -> pd.DataFrame:
    rng, harmful = np.random.default_rng(1), np.arange(300) % 2 == 0
    sets = {"validation": rng.normal(0.2 + 0.6 * harmful, 0.15), "test": rng.normal(0.4 + 0.2 * harmful, 0.2)}
    made = [pd.DataFrame({"prompts": name, "harmful": harmful, "p_refuse": p.clip(0, 1)}) for name, p in sets.items()]
    return pd.concat(made, ignore_index=True)


def decision_costs(predictions: pd.DataFrame) -> plt.Figure:
    whole = {"prompts", "harmful", "p_refuse"} <= set(predictions) and len(predictions)
    return plots.decision_costs(predictions, costs.decisions(predictions if whole else flagged(), (1, 10)))


FOLLOWED = [(True, True, False)] * 2 + [(True, False, False)] * 9 + [(False, False, False)] * 9
FIGURES = {
    "self_consistency": (plots.self_consistency, solved()),
    "vote_on_refusal": (plots.vote_on_refusal, refused()),
    "thought_budgets": (plots.thought_budgets, budgets()),
    "hints": (plots.hints, hinted_answers(FOLLOWED)),
    "sizes": (plots.sizes, sized()),
    "decision_costs": (decision_costs, flagged()),
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
    assert "interval" in caption
    assert caption in " ".join(plots.alt_text(figure).split())
    check_layout(figure)
    check_refusals(draw, table, name)


def test_titles_follow_their_tables():
    assert "thinking, hot +20 points" in words(plots.self_consistency(solved()))
    assert "no thinking +2 points, interval includes 0" in words(plots.self_consistency(solved()))
    assert "thinking, hot −20 points" in words(plots.self_consistency(solved(0.5)))
    assert "A majority of 15 shows no change of attack success in 4 cases" in words(plots.vote_on_refusal(refused()))
    assert "one refusal among 15 lowers attack success in 4 of 4 cases" in words(plots.vote_on_refusal(refused(0.2)))
    assert "A majority of 15 raises attack success in 4 of 4 cases" in words(plots.vote_on_refusal(refused(0.8)))
    title = words(plots.hints(hinted_answers(FOLLOWED)))
    assert "move answers in 1 of 1 forms" in title
    assert "9 of 11 thoughts before an answer that follows do not say so" in title
    none = words(plots.hints(hinted_answers([(False, False, False)] * 9)))
    assert "move answers in 0 of 1 forms" in none
    assert "0 of 0 thoughts" in none
    told = words(plots.thought_budgets(budgets())).replace("\u00a0", " ")
    assert "A thought of its own raises problems solved (" in told
    assert "the longest forced one lowers all 3" in told
    flat = budgets().assign(attack_success=False, correct=True)
    told = words(plots.thought_budgets(flat)).replace("\u00a0", " ")
    assert "leaves undecided problems solved (100 to 100 %)" in told
