"""Votes over samples: exact where they can be counted, and honest at the edges."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from saferlrm.consistency import Regime, over_prompts, refusal_votes, said_in, sampled, vote, vote_table, votes
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Decoding
from saferlrm.lm import load_lm
from saferlrm.suites.synthetic import build_suite


def counted(labels: list, values: list, k: int) -> float:
    """Worth of a plurality vote of k, averaged over every subset."""
    found = []
    for chosen in combinations(range(len(labels)), k):
        voices = [labels[i] for i in chosen if labels[i] is not None]
        most = max((voices.count(v) for v in voices), default=0)
        winners = {v for v in voices if voices.count(v) == most}
        worth = {v: np.mean([values[i] for i in range(len(labels)) if labels[i] == v]) for v in winners}
        found.append(np.mean(list(worth.values())) if worth else 0.0)
    return float(np.mean(found))


@pytest.mark.parametrize(
    "labels",
    [["7", "7", "9", "8", "7"], ["7", "9", "9", None, "7"], ["7", None, None, None, None], ["1", "2", "3", "4", "7"]],
)
def test_a_vote_is_the_mean_over_all_subsets(labels):
    values = [label == "7" for label in labels]
    ks = [1, 2, 3, 4, 5]
    expected = [counted(labels, values, k) for k in ks]
    assert vote(labels, values, ks) == pytest.approx(expected, abs=0.06)
    assert vote(labels, values, ks)[[0, 4]] == pytest.approx([expected[0], expected[4]])  # no draw is left to chance


def test_one_sample_that_votes_is_the_plain_rate():
    labels = ["7"] * 6 + ["3"] * 4 + [None] * 5
    assert vote(labels, [label == "7" for label in labels], [1]) == pytest.approx([6 / 15])


def test_a_vote_sharpens_what_most_samples_say_and_loses_what_few_do():
    right, wrong = ["7"] * 10 + ["3"] * 5, ["7"] * 5 + ["3"] * 10
    worth = [vote(labels, [label == "7" for label in labels], [1, 15]) for labels in (right, wrong)]
    assert worth[0] == pytest.approx([2 / 3, 1])
    assert worth[1] == pytest.approx([1 / 3, 0])


def test_a_problem_on_which_nobody_answers_is_not_solved():
    assert vote([None, None], [False, False], [1, 2]).tolist() == [0, 0]


def test_one_refusal_vetoes():
    refused, attack = [True, False, False, False], [False, True, True, False]
    found = vote(refused, attack, [1, 2, 4], "veto")
    assert found == pytest.approx([3 / 4 * 2 / 3, 1 / 2 * 2 / 3, 0])
    assert vote(refused, refused, [1, 4], "veto") == pytest.approx([1 / 4, 1])


@pytest.mark.parametrize("ks", [[0], [4]])
def test_a_vote_of_more_than_the_samples_is_refused(ks):
    with pytest.raises(SaferlrmError, match="sizes from 1"):
        vote(["a", "b", "c"], [1, 0, 0], ks)


def rows(n: int = 40, samples: int = 9) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    found = []
    for i in range(n):
        p = rng.beta(4, 2)
        for sample in range(samples):
            right = bool(rng.random() < p)
            said = "7" if right else str(rng.integers(0, 5))
            found.append({"prompt_id": f"p{i}", "sample": sample, "said": said, "correct": right, "regime": "hot"})
    return pd.DataFrame(found).astype({"correct": "boolean", "said": "string"})


def test_the_table_pairs_the_gain_over_prompts():
    table = vote_table(rows(), "said", "correct", ("regime",), (1, 3, 9))
    assert table["rate"].is_monotonic_increasing
    assert ((table["low"] <= table["rate"]) & (table["rate"] <= table["high"])).all()
    assert table["gain"].iloc[0] == 0
    assert table["gain_low"].iloc[-1] > 0
    # The gain is of the same prompts: its interval is shorter than that of the rate.
    assert table["gain_high"].iloc[-1] - table["gain_low"].iloc[-1] < table["high"].iloc[-1] - table["low"].iloc[-1]


def test_prompts_that_were_not_judged_do_not_vote():
    missing = rows().assign(correct=lambda t: t["correct"].mask(t["prompt_id"].eq("p0") & t["sample"].eq(3)))
    assert len(votes(missing, "said", "correct", (1, 3))) == 39
    with pytest.raises(SaferlrmError, match="nothing to vote on"):
        votes(missing.assign(correct=pd.array([None] * len(missing), dtype="boolean")), "said", "correct", (1,))
    with pytest.raises(SaferlrmError, match="different numbers"):
        votes(rows().iloc[1:], "said", "correct", (1,))


def test_votes_on_refusal_count_attacks_on_harmful_and_refusals_of_harmless_prompts():
    rng, found = np.random.default_rng(1), []
    for suite, p in (("harmful_unseen", 0.5), ("benign", 0.1)):
        for i in range(20):
            for sample in range(5):
                refused = bool(i < 10 and rng.random() < p)
                attack = not refused if suite != "benign" else None
                found.append((suite, f"{suite}{i}", sample, suite != "benign", "hot", refused, attack))
    columns = ["suite", "prompt_id", "sample", "harmful", "regime", "refused", "attack_success"]
    samples = pd.DataFrame(found, columns=columns).astype({"attack_success": "boolean"})
    table = refusal_votes(samples, (1, 5)).set_index(["suite", "rule", "k"])
    plain = samples.groupby("suite")[["refused", "attack_success"]].mean()
    for rule in ("majority", "veto"):
        attacked = table.loc[("harmful_unseen", rule, 1), "rate"]
        assert attacked == pytest.approx(plain["attack_success"]["harmful_unseen"])
        assert table.loc[("benign", rule, 1), "rate"] == pytest.approx(plain["refused"]["benign"])
    assert table.loc[("harmful_unseen", "veto", 5), "rate"] < table.loc[("harmful_unseen", "majority", 5), "rate"]
    assert table.loc[("benign", "veto", 5), "rate"] > table.loc[("benign", "majority", 5), "rate"]
    refused = samples[samples["harmful"]].groupby("prompt_id")["refused"].mean()
    assert table.loc[("harmful_unseen", "veto", 5), "split"] == refused.between(0, 1, inclusive="neither").sum()
    babble = samples.assign(refused=False, attack_success=samples["attack_success"].where(samples["sample"] > 1, False))
    assert refusal_votes(babble.fillna({"attack_success": False}), (1,))["split"].tolist() == [0] * 4


def test_prompts_that_all_agree_leave_an_interval():
    assert over_prompts(np.ones(20)).low < 0.9
    assert over_prompts(np.zeros(20)).high > 0.1


def test_answers_are_compared_in_one_form():
    assert said_in("So: The answer is 7.") == said_in("The answer is 7") == "7"
    assert said_in("I cannot say.") is None


def test_samples_of_every_regime_and_prompt(tiny_lm_folder):
    suites = {"reasoning": build_suite("reasoning", 4)}
    regimes = (Regime("cool", "on", 0.7), Regime("none", "off", 1.2))
    table = sampled(load_lm(tiny_lm_folder), suites, regimes, Decoding(max_new_tokens=8), samples=3)
    assert table.groupby(["regime", "mode", "temperature", "prompt_id"])["sample"].nunique().tolist() == [3] * 8
    assert not {"thought", "answer"} & set(table)
