"""Intervals cover what they promise, also at the edges; paired tests use the pairing."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from saferlrm.errors import SaferlrmError
from saferlrm.stats import (
    Interval,
    auroc,
    auroc_difference,
    bootstrap_mean,
    expected_calibration_error,
    mcnemar,
    paired_difference,
    rate,
    wilson,
)


def coverage(draw, truth: float, times: int = 400) -> float:
    rng = np.random.default_rng(0)
    found = [draw(rng) for _ in range(times)]
    return float(np.mean([i.low <= truth <= i.high for i in found]))


def test_an_interval_prints_itself_with_its_sample_size():
    assert str(Interval(0.0133, 0.0041, 0.0312, 300)) == "0.013 [0.004, 0.031] (n = 300)"
    assert f"{Interval(0.5, 0.25, 0.75, 8):.0%}" == "50% [25%, 75%] (n = 8)"


def test_wilson_is_statsmodels_and_says_that_0_of_100_is_compatible_with_3_7_per_cent():
    found = wilson(0, 100)
    assert (found.low, found.high) == pytest.approx(proportion_confint(0, 100, method="wilson"))
    assert found.low == 0
    assert found.high == pytest.approx(0.037, abs=0.0005)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_impossible_counts_are_refused(k, n):
    with pytest.raises(SaferlrmError, match="no rate"):
        wilson(k, n)


@pytest.mark.parametrize("p", [0.03, 0.2, 0.5])
def test_rate_covers_with_few_prompts(p):
    assert 0.92 <= coverage(lambda rng: rate(rng.random(60) < p), p) <= 0.99


@pytest.mark.parametrize("alike", [0.0, 0.8])
def test_rate_covers_with_seeds_that_agree_and_seeds_that_do_not(alike):
    def draw(rng):
        own = rng.random((50, 3)) < 0.3
        shared = (rng.random(50) < 0.3)[:, None]
        return rate(np.where(rng.random((50, 3)) < alike, shared, own))

    assert 0.92 <= coverage(draw, 0.3) <= 0.985


def test_seeds_that_agree_on_every_prompt_count_once():
    y = np.arange(40) < 9
    once, thrice = rate(y), rate(np.repeat(y[:, None], 3, 1))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=0.005)
    assert rate(np.zeros((100, 3))).high == pytest.approx(wilson(0, 100).high)


@pytest.mark.parametrize(("p", "q"), [(0.5, 0.5), (0.4, 0.05), (0.1, 0.02)])
def test_paired_difference_covers_for_correlated_outcomes(p, q):
    def draw(rng):
        u = rng.random(80)
        again = np.where(rng.random(80) < 0.5, u, rng.random(80))
        return paired_difference(u < p, again < q)

    assert 0.92 <= coverage(draw, q - p) <= 0.995


def test_paired_difference_covers_over_several_seeds():
    def draw(rng):
        easy = rng.random(60)[:, None]
        noise = rng.normal(0, 0.2, (2, 60, 3))
        return paired_difference(easy + noise[0] < 0.5, easy + noise[1] < 0.3)

    rng = np.random.default_rng(1)
    u = rng.random(10**6)
    truth = np.mean(u + rng.normal(0, 0.2, 10**6) < 0.3) - np.mean(u + rng.normal(0, 0.2, 10**6) < 0.5)
    assert 0.92 <= coverage(draw, truth) <= 0.99


def test_pairing_shortens_the_interval_and_no_difference_has_a_width():
    rng = np.random.default_rng(2)
    y = rng.random(200) < 0.4
    paired = paired_difference(y, y)
    unpaired = paired_difference(y, rng.permutation(y))
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)
    silent = paired_difference(np.zeros(100), np.zeros(100))
    assert silent.low < 0 < silent.high


def test_mcnemar_is_the_sign_test_on_discordant_pairs():
    before, after = np.array([1] * 8 + [0] * 12), np.array([0] * 8 + [0] * 12)
    assert mcnemar(before, after) == pytest.approx(2 * 0.5**8)
    assert mcnemar(before, before) == 1.0


def test_bootstrap_mean_covers_a_skewed_mean():
    assert (
        0.9 <= coverage(lambda rng: bootstrap_mean(rng.exponential(1.0, 40), resamples=500), 1.0, 300) <= 0.98
    )
    assert bootstrap_mean([2.0, 2.0]).low == 2.0


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_auroc_covers_with_few_prompts(shift):
    from scipy.stats import norm

    def draw(rng):
        y = np.arange(60) < 25
        return auroc(y, rng.normal(size=60) + shift * y)

    assert 0.92 <= coverage(draw, norm.cdf(shift / np.sqrt(2))) <= 0.995


def test_auroc_is_sklearns_and_perfect_separation_still_has_an_interval():
    rng = np.random.default_rng(0)
    y, s = rng.random(80) < 0.5, rng.integers(0, 5, 80)
    assert auroc(y, s).estimate == pytest.approx(roc_auc_score(y, s))
    found = auroc(np.arange(40) < 20, -np.arange(40))
    assert (found.estimate, found.high) == (1.0, 1.0)
    assert 0.8 < found.low < 0.95


def test_auroc_difference_covers_and_knows_equal_scores():
    def draw(rng):
        y = np.arange(80) < 40
        shared = rng.normal(size=80)
        return auroc_difference(y, shared + rng.normal(size=80), shared + rng.normal(size=80) + y)

    from scipy.stats import norm

    assert 0.91 <= coverage(draw, norm.cdf(0.5) - 0.5) <= 0.985
    y, s = np.arange(20) < 9, np.arange(20.0)
    same = auroc_difference(y, s, 2 * s)
    assert same.estimate == same.low == same.high == 0


def test_one_label_alone_has_no_auroc():
    with pytest.raises(SaferlrmError, match="both labels"):
        auroc([1, 1], [0.1, 0.2])


def test_calibration_error_is_zero_for_true_rates_and_the_gap_otherwise():
    y = np.tile([0, 0, 0, 1], 25)
    assert expected_calibration_error(y, np.full(100, 0.25)) == pytest.approx(0)
    assert expected_calibration_error(y, np.full(100, 0.95)) == pytest.approx(0.7)
