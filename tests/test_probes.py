"""Probes find what is there, and their controls find what is not."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from saferlrm.errors import SaferlrmError
from saferlrm.probes import aurocs, fit_probe, probe_table


def signal(n: int = 240, size: int = 24, strength: float = 1.5, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = rng.random(n) < 0.5
    X = rng.normal(size=(n, size)) * rng.uniform(0.1, 3, size) + 5
    X[:, 3] += strength * y * X[:, 3].std()
    return X, y


@pytest.mark.parametrize("kind", ["logistic", "difference_in_means"])
def test_a_probe_finds_a_planted_direction_on_new_prompts(kind):
    X, y = signal(strength=6.0)
    probe = fit_probe(X[:160], y[:160], kind)
    assert roc_auc_score(y[160:], probe.score(X[160:])) > 0.97
    assert np.mean((probe.score(X[160:]) > 0) == y[160:]) > 0.85


def test_a_logistic_probe_is_sklearns_on_raw_features():
    X, y = signal()
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500)).fit(X, y)
    np.testing.assert_allclose(fit_probe(X, y, C=0.1).score(X), reference.decision_function(X), atol=1e-8)


def test_the_difference_in_means_has_its_threshold_half_way():
    probe = fit_probe([[0.0, 0], [0, 2], [4, 0], [4, 2]], [0, 0, 1, 1], "difference_in_means")
    np.testing.assert_allclose(probe.direction, [4, 0])
    assert probe.score([[2.0, 9]]) == pytest.approx(0)


def test_aurocs_of_many_columns_are_sklearns():
    rng = np.random.default_rng(0)
    y, scores = rng.random(50) < 0.4, rng.integers(0, 6, (50, 4)).astype(float)
    np.testing.assert_allclose(aurocs(y, scores), [roc_auc_score(y, column) for column in scores.T])


@pytest.fixture(scope="module")
def table():
    X, y = signal(strength=4.0)
    noise = np.random.default_rng(1).normal(size=X.shape)
    states = np.stack([np.stack([noise, X], 1), np.stack([noise, noise], 1)], 1).astype(np.float32)
    texts = [f"{'alarming' if label else 'pleasant'} request number {i}" for i, label in enumerate(y)]
    tests = {"near": range(160, 200), "far": range(200, 240)}
    return probe_table(states, y, range(160), tests, ["pre_cot", "prompt_last"], [0, 2], texts, n_shuffles=5)


def test_the_table_has_a_row_for_every_suite_place_and_probe(table):
    assert len(table) == 2 * (1 + 4 * 4)
    assert list(table.columns) == [
        "suite", "position", "layer", "probe", "auroc", "low", "high", "n", "runs", "interval",
    ]  # fmt: skip
    assert set(table["probe"]) == {
        "logistic",
        "difference_in_means",
        "shuffled_labels",
        "random_direction",
        "bag_of_words",
    }
    assert (table["n"] == 40).all()
    assert ((table["low"] <= table["auroc"]) & (table["auroc"] <= table["high"])).all()


def test_probes_beat_their_controls_where_there_is_a_signal_and_nowhere_else(table):
    def score(position, layer, probe):
        rows = table[(table.position == position) & (table.layer == layer) & (table.probe == probe)]
        return rows["auroc"].mean()

    assert score("pre_cot", 2, "logistic") > 0.95
    assert score("pre_cot", 2, "shuffled_labels") < 0.75
    assert score("pre_cot", 2, "random_direction") < 0.8
    for place in (("pre_cot", 0), ("prompt_last", 0), ("prompt_last", 2)):
        assert abs(score(*place, "logistic") - 0.5) < 0.2


def test_a_bag_of_words_sees_what_the_wording_gives_away(table):
    assert (table[table.probe == "bag_of_words"]["auroc"] > 0.95).all()


def test_equal_seeds_give_equal_tables():
    X, y = signal(60, 6)
    make = lambda seed: probe_table(  # noqa: E731
        X[:, None, None], y, range(40), {"test": range(40, 60)}, ["pre_cot"], [1], n_shuffles=2, seed=seed
    )
    assert make(3).equals(make(3))
    assert not make(3).equals(make(4))


def test_bad_data_are_refused():
    X, y = signal(40, 4)
    with pytest.raises(SaferlrmError, match="both labels"):
        fit_probe(X, np.ones(40))
    with pytest.raises(SaferlrmError, match="finite"):
        fit_probe(np.full((40, 4), np.nan), y)
    with pytest.raises(SaferlrmError, match="shares prompts"):
        probe_table(X[:, None, None], y, range(30), {"test": range(20, 40)}, ["pre_cot"], [0])
    with pytest.raises(SaferlrmError, match="do not fit"):
        probe_table(X[:, None, None], y, range(30), {"test": range(30, 40)}, ["pre_cot"], [0, 1])
