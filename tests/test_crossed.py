"""Intervals over prompts and seeds cover what they promise, p-values agree with them, and families are corrected."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from saferlrm.answers import attack
from saferlrm.crossed import (
    contrasts,
    crossed_difference,
    crossed_odds_ratio,
    crossed_rate,
    crossed_ratio,
    holm,
    outcomes,
    p_value,
    verdict_sentence,
)
from saferlrm.errors import SaferlrmError
from saferlrm.measures import rise_lost
from saferlrm.stats import Interval, paired_difference, rate, wilson
from saferlrm.verdicts import Results

PROMPTS = 150


def draw(rng, before, after, seeds, alike, seed_effect, columns, prompts=PROMPTS):
    """Outcomes of two models: probit draws with effects of the prompt (shared), of the seed, and noise.

    ``alike``: share of the variance that is the prompt's; ``seed_effect``: standard deviation on the probit scale.
    A model of one column was not trained and has no seed effect.
    """
    hard = rng.normal(0, np.sqrt(alike), (prompts, 1))
    made = []
    for p, n in ((before, columns), (after, seeds)):
        effect = seed_effect if n > 1 else 0.0
        noise = rng.normal(0, np.sqrt(1 - alike), (prompts, n))
        score = norm.ppf(p) * np.sqrt(1 + effect**2) + hard + effect * rng.normal(size=(1, n)) + noise
        made.append((score > 0).astype(float))
    return made


def coverage(make, truth: float, times: int = 500) -> float:
    rng = np.random.default_rng(0)
    found = [make(rng) for _ in range(times)]
    return float(np.mean([i.low <= truth <= i.high for i in found]))


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(("before", "after"), [(0.4, 0.4), (0.5, 0.05), (0.06, 0.03)])
@pytest.mark.parametrize("seed_effect", [0.0, 0.15, 0.4])
@pytest.mark.parametrize("untrained", [True, False])
def test_a_difference_covers_whether_seeds_differ_or_not(seeds, before, after, seed_effect, untrained):
    def one(rng):
        return crossed_difference(
            *draw(rng, before, after, seeds, alike=0.6, seed_effect=seed_effect, columns=1 if untrained else seeds)
        )

    most = 0.995 if before > 0.1 else 0.999  # few prompts differ where both are rare: the least width is for these
    assert 0.92 <= coverage(one, after - before) <= most


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("seed_effect", [0.0, 0.4])
def test_a_difference_near_zero_covers_and_is_rather_too_wide(seeds, seed_effect):
    def one(rng):
        return crossed_difference(*draw(rng, 0.01, 0.005, seeds, 0.6, seed_effect, seeds))

    assert coverage(one, -0.005) >= 0.95


@pytest.mark.parametrize(
    ("prompts", "seeds", "p", "gap"), [(100, 5, 0.34, 0.02), (200, 3, 0.57, 0.01), (100, 5, 0.5, 0.0)]
)
def test_models_that_answer_nearly_alike_are_covered(prompts, seeds, p, gap):
    """The same few prompts change with every seed, all in one direction: next to nothing tells the models apart."""

    def one(rng):
        before = np.repeat(rng.random((prompts, 1)) < p, seeds, axis=1).astype(float)
        changed = rng.random((prompts, 1)) < gap / p
        return crossed_difference(before, np.where(changed, 0.0, before))

    assert coverage(one, -gap, 600) >= 0.93


def test_numbers_of_seeds_that_differ_are_allowed_and_covered():
    assert 0.92 <= coverage(lambda rng: crossed_difference(*draw(rng, 0.3, 0.2, 5, 0.6, 0.15, 3)), -0.1) <= 0.995


@pytest.mark.parametrize("p", [0.02, 0.3])
def test_a_rate_covers_where_seeds_differ(p):
    assert 0.92 <= coverage(lambda rng: crossed_rate(draw(rng, p, p, 3, 0.6, 0.2, 1)[1]), p) <= 0.995


@pytest.mark.parametrize("prompts", [40, 100, 300, 1800])
@pytest.mark.parametrize(("before", "after"), [(0.4, 0.3), (0.9, 0.06)])
def test_intervals_cover_at_every_number_of_prompts_of_the_study(prompts, before, after):
    def made(rng):
        return draw(rng, before, after, 3, 0.6, 0.2, 1, prompts)

    assert 0.92 <= coverage(lambda rng: crossed_difference(*made(rng)), after - before, 400) <= 0.995
    assert 0.92 <= coverage(lambda rng: crossed_rate(made(rng)[1]), after, 400) <= 0.998


@pytest.mark.parametrize(("before", "after"), [(0.6, 0.03), (0.4, 0.3)])
def test_a_ratio_and_an_odds_ratio_cover(before, after):
    odds = after / (1 - after) / (before / (1 - before))

    def made(rng):
        return draw(rng, before, after, 3, 0.6, 0.15, 1)

    assert 0.92 <= coverage(lambda rng: crossed_ratio(*made(rng)), after / before, 250) <= 0.995
    assert coverage(lambda rng: crossed_odds_ratio(*made(rng)), odds, 250) >= 0.93


def test_a_difference_of_means_covers_with_effects_of_prompts_and_seeds():
    def one(rng):
        prompts, seeds = rng.gamma(2, 10, (80, 1)), rng.normal(0, 3, (2, 1, 3))
        before, after = (prompts + seeds[i] + rng.gamma(2, 5, (80, 3)) for i in range(2))
        return crossed_difference(before, after - 4)

    assert 0.92 <= coverage(one, -4) <= 0.995


@pytest.mark.parametrize("prompts", [60, 300])
def test_a_difference_of_two_rises_covers(prompts, tmp_path):
    """What thinking adds before alignment, minus what it adds after: four rates over the same prompts."""
    who = {name: attack(name) for name in ("before", "presafe")}
    rates = {("before", "off"): 0.03, ("before", "on"): 0.8, ("presafe", "off"): 0.02, ("presafe", "on"): 0.1}

    def one(rng):
        results = Results(tmp_path)
        off = draw(rng, rates["before", "off"], rates["presafe", "off"], 3, 0.6, 0.2, 1, prompts)
        on = draw(rng, rates["before", "on"], rates["presafe", "on"], 3, 0.6, 0.2, 1, prompts)
        for name, without, with_ in zip(who, off, on, strict=True):
            results.once(who[name].but(mode="off"), lambda found=without: pd.DataFrame(found))
            results.once(who[name], lambda found=with_: pd.DataFrame(found))
        return rise_lost(who["before"], who["presafe"])(results)

    truth = 0.8 - 0.03 - (0.1 - 0.02)
    assert 0.93 <= coverage(one, truth, 400) <= 1.0  # joined by squares and not paired: rather too wide


def test_intervals_over_prompts_alone_miss_the_seeds():
    def made(rng):
        return draw(rng, 0.4, 0.4, 3, 0.6, 0.4, 3)

    assert coverage(lambda rng: paired_difference(*made(rng)), 0.0) < 0.6
    assert coverage(lambda rng: crossed_difference(*made(rng)), 0.0) >= 0.92


def test_nothing_happened_is_not_certainty():
    silent = np.zeros((PROMPTS, 3))
    assert crossed_rate(silent).high == pytest.approx(wilson(0, PROMPTS).high)
    found = crossed_difference(silent, silent)
    expected = paired_difference(silent, silent)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    half = np.arange(PROMPTS) % 2
    found = crossed_difference(half, half)  # two models that answer alike may still differ on other prompts
    least = wilson(0, PROMPTS).high  # as much as no prompt of so many leaves open
    assert (found.low, found.high) == pytest.approx((-least, least))


def test_one_seed_is_the_interval_over_prompts():
    y = np.arange(PROMPTS) < 9
    assert crossed_rate(y).low == pytest.approx(rate(y).low)
    assert crossed_rate(y).high == pytest.approx(rate(y).high)


def test_pairing_by_seed_cancels_what_a_seed_does_to_both():
    rng = np.random.default_rng(1)
    shift = np.array([[-0.2, 0.0, 0.2]])
    before = (rng.random((PROMPTS, 3)) < 0.5 + shift).astype(float)
    after = (rng.random((PROMPTS, 3)) < 0.45 + shift).astype(float)
    paired, crossed = crossed_difference(before, after), crossed_difference(before, after[:, ::-1])
    assert paired.estimate == pytest.approx(crossed.estimate)
    assert paired.high - paired.low < 0.5 * (crossed.high - crossed.low)


def test_a_p_value_is_where_the_interval_just_reaches():
    a, b = draw(np.random.default_rng(2), 0.12, 0.05, 3, 0.6, 0.15, 1)
    p = p_value(a, b)
    assert crossed_difference(a, b, 1 - p).high == pytest.approx(0, abs=1e-6)
    assert (p < 0.05) == (crossed_difference(a, b).high < 0)
    assert p_value(b, a) == pytest.approx(p, rel=1e-3)
    assert p_value(a, a) == 1.0
    edge = crossed_difference(a, b).low
    assert p_value(a, b, edge) == pytest.approx(0.05, abs=1e-4)
    assert p_value(np.zeros(500), np.ones(500)) < 1e-10


def test_p_values_are_not_too_often_small():
    rng = np.random.default_rng(3)
    found = [p_value(*draw(rng, 0.3, 0.3, 3, 0.6, 0.15, 3)) for _ in range(150)]
    assert np.mean(np.array(found) < 0.05) <= 0.08


def test_a_ratio_inverts_the_difference_and_has_no_end_where_before_may_be_nothing():
    rng = np.random.default_rng(4)
    before, after = (rng.random((PROMPTS, 3)) < 0.2).astype(float), (rng.random((PROMPTS, 3)) < 0.6).astype(float)
    found = crossed_ratio(before, after)
    assert found.estimate == pytest.approx(after.mean() / before.mean())
    assert 1 < found.low < found.estimate < found.high < np.inf
    back = crossed_ratio(after, before)
    assert (back.low, back.high) == pytest.approx((1 / found.high, 1 / found.low), rel=1e-3)
    never = crossed_ratio(np.zeros((PROMPTS, 1)), after)
    assert never.estimate == never.high == np.inf
    assert never.low > 3
    nothing = crossed_ratio(np.zeros((PROMPTS, 1)), np.zeros((PROMPTS, 3)))
    assert np.isnan(nothing.estimate)
    assert (nothing.low, nothing.high) == (0, np.inf)


def test_an_odds_ratio_of_certainty_has_a_finite_bound_on_one_side():
    after = np.zeros((PROMPTS, 3))
    after[:4] = 1
    found = crossed_odds_ratio(np.ones((PROMPTS, 1)), after)
    assert found.estimate == found.low == 0
    assert 0 < found.high < 0.01


def test_holm_is_statsmodels_in_the_given_order():
    p = [0.04, 0.001, 0.03, 0.2]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm(p)[1] == pytest.approx(0.004)
    assert len(holm([])) == 0


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((-0.03, -0.06, 0.0), "−0.030 [−0.060, 0.000]; the interval contains 0, so no difference can be claimed."),
        ((-0.03, -0.06, -0.0004), "−0.030 [−0.060, 0.000]; the whole interval is below 0."),
        ((0.2, 0.1, 0.3), "0.200 [0.100, 0.300]; the whole interval is above 0."),
    ],
)
def test_a_difference_in_a_sentence(interval, words):
    said = verdict_sentence(Interval(*interval, 150), "λ = 0", "PreSafe")
    assert said == f"PreSafe minus λ = 0: {words}"


def _rows(condition: str, rates: dict[str, float], seeds: int, rng: np.random.Generator) -> pd.DataFrame:
    made = [
        {"condition": condition, "suite": suite, "mode": "on", "prompt_id": f"{suite}-{i}", "seed": seed,
         "attack_success": rng.random() < p}
        for suite, p in rates.items() for seed in range(seeds) for i in range(60)
    ]  # fmt: skip
    return pd.DataFrame(made).astype({"attack_success": "boolean"})


def test_contrasts_are_paired_corrected_within_their_table_and_said_in_words():
    rng = np.random.default_rng(5)
    table = pd.concat(
        [
            _rows("before", {"unseen": 0.6, "wrapped": 0.6}, 1, rng),
            _rows("sft", {"unseen": 0.3, "wrapped": 0.3}, 5, rng),
            _rows("presafe", {"unseen": 0.1}, 5, rng),
        ]
    )
    found = contrasts(table, "attack_success", [("before", "sft"), ("sft", "presafe")], names={"sft": "λ = 0"})
    assert found[["suite", "before", "after"]].to_numpy().tolist() == [
        ["unseen", "before", "sft"],
        ["unseen", "sft", "presafe"],
        ["wrapped", "before", "sft"],
    ]
    assert found["p_holm"].to_numpy() == pytest.approx(holm(found["p"]))
    assert (found["n"] == 60).all()
    assert (found["seeds"] == 5).all()
    assert found["sentence"][1].startswith("presafe minus λ = 0: −0.")
    part = table[table["suite"] == "unseen"]
    one, two = (outcomes(part[part["condition"] == name], "attack_success") for name in ("sft", "presafe"))
    expected = crossed_difference(one.to_numpy(), two.to_numpy())
    assert found.loc[1, ["difference", "low", "high"]].tolist() == [expected.estimate, expected.low, expected.high]


def test_samples_are_averaged_and_prompts_that_a_seed_lacks_are_left_out():
    rows = pd.DataFrame(
        {"prompt_id": list("aabbc"), "seed": [0, 0, 0, 1, 1], "refused": [True, False, True, True, False]}
    )
    rows.loc[5] = ["a", 1, True]
    found = outcomes(rows, "refused")
    assert found.index.tolist() == ["a", "b"]
    assert found.to_numpy().tolist() == [[0.5, 1.0], [1.0, 1.0]]


def test_what_cannot_be_compared_is_said():
    with pytest.raises(SaferlrmError, match="same prompts: 2 before, 3 after"):
        crossed_difference(np.zeros(2), np.zeros(3))
    with pytest.raises(SaferlrmError, match="not negative"):
        crossed_ratio([-1.0, 2.0], [1.0, 2.0])
    with pytest.raises(SaferlrmError, match="need a column 'condition'"):
        contrasts(pd.DataFrame({"prompt_id": [], "suite": [], "mode": []}), "refused", [("a", "b")])
