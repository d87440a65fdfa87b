"""Linear probes of hidden states, and the controls that say what their scores mean.

A high AUROC says that a label can be read off a layer by a straight line, not that the model uses it.
Shuffled labels show what the probe's flexibility alone can reach, random directions what the geometry alone
gives, and a bag of words what the prompt's wording gives away without any model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from saferlrm.errors import SaferlrmError
from saferlrm.progress import track
from saferlrm.stats import auroc

ProbeKind = Literal["logistic", "difference_in_means"]
PENALTIES = (
    1e-3,
    1e-2,
    1e-1,
    1.0,
)  # inverse strengths C; hidden states of a few hundred prompts need no weaker
_FOLDS = 5
_STEPS = 500


@dataclass(frozen=True)
class Probe:
    """A direction in a layer's space and a threshold on it.

    Attributes:
        direction: shape [hidden size], in the units of the hidden states.
        bias: added to the projection; a score above 0 predicts the positive label.
        kind: how the direction was found.
        C: inverse penalty of a logistic probe, else ``None``.
    """

    direction: np.ndarray
    bias: float
    kind: str
    C: float | None = None

    def score(self, X: ArrayLike) -> np.ndarray:
        """Signed scores of hidden states [n, hidden size], shape [n]; log odds for a logistic probe."""
        return np.asarray(X, float) @ self.direction + self.bias


def fit_probe(
    X: ArrayLike, y: ArrayLike, kind: ProbeKind = "logistic", seed: int = 0, C: float | None = None
) -> Probe:
    """Fit a probe on hidden states X [n, hidden size] with labels y [n].

    ``logistic`` is L2-penalised logistic regression on standardised features; the penalty is chosen by
    five-fold cross-validation on these data unless ``C`` is given. ``difference_in_means`` points from the
    mean of the negatives to that of the positives (Arditi et al., arXiv 2406.11717), with the threshold half
    way.

    Raises:
        SaferlrmError: shapes do not fit, values are not finite, or a label is missing (or has fewer than two
            examples, where the penalty is to be chosen).
    """
    X, y = _checked(X, y)
    if kind == "difference_in_means":
        positive, negative = X[y].mean(0), X[~y].mean(0)
        direction = positive - negative
        return Probe(direction, float(-direction @ (positive + negative) / 2), kind)
    if kind != "logistic":
        raise SaferlrmError(f"unknown probe {kind!r}; choose logistic or difference_in_means")
    if C is None:
        folds = min(_FOLDS, int(y.sum()), int((~y).sum()))
        if folds < 2:
            raise SaferlrmError(
                "choosing the penalty needs two examples of each label; give more prompts or C"
            )
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=_STEPS)),
            {"logisticregression__C": PENALTIES},
            scoring="neg_log_loss",
            cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
        ).fit(X, y)
        model, C = search.best_estimator_, search.best_params_["logisticregression__C"]
    else:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=_STEPS)).fit(X, y)
    scaler, fitted = model[0], model[1]
    # The scaler is folded into the direction, which then lives in the model's own space.
    direction = fitted.coef_[0] / scaler.scale_
    return Probe(direction, float(fitted.intercept_[0] - direction @ scaler.mean_), kind, C)


def probe_table(
    states: np.ndarray,
    labels: ArrayLike,
    train: Sequence[int],
    tests: Mapping[str, Sequence[int]],
    positions: Sequence[str],
    layers: Sequence[int],
    texts: Sequence[str] | None = None,
    seed: int = 0,
    n_shuffles: int = 20,
    n_directions: int = 200,
    level: float = 0.95,
    progress: str | None = None,
) -> pd.DataFrame:
    """Probe every position and layer, and score the probes and their controls on held-out prompts.

    Args:
        states: [prompts, positions, layers, hidden size], as ``activations.extract`` gives them.
        labels: [prompts], true for the positive label.
        train: indices of the prompts that probes are fitted on.
        tests: name of a held-out suite to the indices of its prompts; must not share prompts with ``train``.
        texts: the prompts, for the bag-of-words control (words and pairs of words); ``None`` leaves it out.

    Returns:
        One row for each suite, position, layer and probe, with the columns suite, position, layer, probe,
        auroc, low, high, n, runs, interval. Probes (and bag_of_words, which has no position or layer) have
        Newcombe's interval over prompts. shuffled_labels and random_direction are means over ``runs`` draws,
        and [low, high] holds the middle ``level`` of the draws; a random direction takes its sign from the
        training prompts, as a probe does.
    """
    y = np.asarray(labels).astype(bool)
    train = np.asarray(train, int)
    suites = {name: np.asarray(index, int) for name, index in tests.items()}
    for name, index in suites.items():
        if np.intersect1d(train, index).size:
            raise SaferlrmError(f"the suite {name} shares prompts with the training prompts of the probes")
    if states.shape[:3] != (len(y), len(positions), len(layers)):
        raise SaferlrmError(
            f"hidden states of shape {states.shape} do not fit {len(y)} labels, "
            f"{len(positions)} positions and {len(layers)} layers"
        )
    rows = [] if texts is None else _bag_of_words(texts, y, train, suites, level)
    cells = [(p, k) for p in range(len(positions)) for k in range(len(layers))]
    for p, k in track(cells, progress) if progress else cells:
        X = np.asarray(states[:, p, k], np.float64)
        place = {"position": positions[p], "layer": layers[k]}
        rng = np.random.default_rng([seed, p, k])
        logistic = fit_probe(X[train], y[train], "logistic", seed)
        means = fit_probe(X[train], y[train], "difference_in_means")
        shuffled = np.stack(
            [
                fit_probe(X[train], rng.permutation(y[train]), C=logistic.C).direction
                for _ in range(n_shuffles)
            ]
        )
        directions = rng.normal(size=(n_directions, X.shape[1]))
        signs = np.sign(aurocs(y[train], X[train] @ directions.T) - 0.5)
        for name, index in suites.items():
            for probe in (logistic, means):
                rows.append(_scored(name, place, probe.kind, auroc(y[index], probe.score(X[index]), level)))
            draws = {"shuffled_labels": shuffled, "random_direction": directions * signs[:, None]}
            for control, many in draws.items():
                rows.append(
                    _drawn(name, place, control, aurocs(y[index], X[index] @ many.T), len(index), level)
                )
    return pd.DataFrame(rows)


def aurocs(labels: ArrayLike, scores: np.ndarray) -> np.ndarray:
    """AUROC of every column of ``scores`` [n, columns] at once, from ranks (Mann and Whitney)."""
    y = np.asarray(labels).astype(bool)
    m, n = int(y.sum()), int((~y).sum())
    if min(m, n) == 0:
        raise SaferlrmError("an AUROC needs prompts of both labels")
    return (rankdata(scores, axis=0)[y].sum(0) - m * (m + 1) / 2) / (m * n)


def _bag_of_words(
    texts: Sequence[str], y: np.ndarray, train: np.ndarray, suites: Mapping[str, np.ndarray], level: float
) -> list[dict]:
    if len(texts) != len(y):
        raise SaferlrmError(f"{len(texts)} texts for {len(y)} labels; give one for each")
    model = make_pipeline(
        CountVectorizer(ngram_range=(1, 2), binary=True), LogisticRegression(max_iter=2 * _STEPS)
    ).fit([texts[i] for i in train], y[train])
    place = {"position": None, "layer": None}
    return [
        _scored(
            name,
            place,
            "bag_of_words",
            auroc(y[index], model.decision_function([texts[i] for i in index]), level),
        )
        for name, index in suites.items()
    ]


def _scored(suite, place, probe, found) -> dict:
    row = {
        "suite": suite,
        **place,
        "probe": probe,
        "auroc": found.estimate,
        "low": found.low,
        "high": found.high,
    }
    return {**row, "n": found.n, "runs": 1, "interval": found.method}


def _drawn(suite, place, control, values, n, level) -> dict:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    row = {"suite": suite, **place, "probe": control, "auroc": float(values.mean()), "low": low, "high": high}
    return {**row, "n": n, "runs": len(values), "interval": "middle of the draws"}


def _checked(X: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    X, y = np.asarray(X, float), np.asarray(y).astype(bool)
    if X.ndim != 2 or y.shape != (len(X),) or not np.isfinite(X).all():
        raise SaferlrmError(
            f"a probe needs finite hidden states [n, size] and labels [n], not {X.shape}, {y.shape}"
        )
    if y.all() or not y.any():
        raise SaferlrmError("a probe needs examples of both labels")
    return X, y
