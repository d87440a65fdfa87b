"""How good the classifier is: discrimination, calibration, baselines, and how many prompts it needs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import DataCollatorWithPadding

from saferlrm.classifier import encoder_source, load_encoder, predict, token_ids, train_classifier
from saferlrm.errors import SaferlrmError
from saferlrm.profile import ClassifierSettings
from saferlrm.stats import auroc, expected_calibration_error, wilson

BERT, UNCALIBRATED = "BERT", "BERT, uncalibrated"
TFIDF, FROZEN = "TF-IDF + logistic regression", "frozen encoder + logistic regression"


def scores(labels: Sequence[float] | np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Accuracy and AUROC with 95 % intervals, expected calibration error, Brier score; arguments [n].

    AUROC and its interval are NaN where all labels agree.
    """
    truth = np.asarray(labels, dtype=float) > 0.5
    correct = wilson(int(((probabilities > 0.5) == truth).sum()), len(truth))
    area = auroc(truth, probabilities) if truth.any() and not truth.all() else None
    return {
        "n": len(truth),
        "n_refused": int(truth.sum()),
        "accuracy": correct.estimate,
        "accuracy_low": correct.low,
        "accuracy_high": correct.high,
        "auroc": area.estimate if area else np.nan,
        "auroc_low": area.low if area else np.nan,
        "auroc_high": area.high if area else np.nan,
        "ece": expected_calibration_error(truth, probabilities),
        "brier": float(np.mean((probabilities - truth) ** 2)),
    }


def report_classifier(
    folder: str | Path,
    train: tuple[Sequence[str], np.ndarray],
    test: tuple[Sequence[str], np.ndarray],
    settings: ClassifierSettings,
    groups: Sequence[str] | None = None,
) -> pd.DataFrame:
    """The classifier in ``folder`` and its baselines on test prompts, with and without calibration.

    Args:
        train: (texts, decisions) the classifier was trained on; the baselines learn from the same.
        test: (texts, decisions) none of them saw.
        groups: suite or wrapper family of each test text, for a row each beside ``all``.

    Returns:
        A tidy table: ``model``, ``group`` and the columns of :func:`scores`.
    """
    texts, truth = test
    predictions = {
        BERT: predict(folder, texts),
        UNCALIBRATED: predict(folder, texts, calibrated=False),
        TFIDF: tfidf_baseline(train, texts),
        FROZEN: frozen_baseline(train, texts, settings),
    }
    return score_table(predictions, truth, groups)


def score_table(
    predictions: Mapping[str, np.ndarray], truth: np.ndarray, groups: Sequence[str] | None = None
) -> pd.DataFrame:
    """:func:`scores` of each model on all prompts and on each group."""
    truth = np.asarray(truth, dtype=float)
    if not len(truth):
        raise SaferlrmError("there are no test decisions to report on; raise suite_size")
    masks = {"all": np.ones(len(truth), dtype=bool)}
    if groups is not None:
        names = np.asarray(groups)
        masks |= {name: names == name for name in sorted(set(groups))}
    rows = [
        {"model": model, "group": group} | scores(truth[mask], p[mask])
        for model, p in predictions.items()
        for group, mask in masks.items()
    ]
    return pd.DataFrame(rows)


def tfidf_baseline(train: tuple[Sequence[str], np.ndarray], texts: Sequence[str]) -> np.ndarray:
    """p(refuse) [n] of a logistic regression on TF-IDF weights of words and word pairs."""
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10.0, max_iter=1000)
    )
    return model.fit(train[0], np.asarray(train[1]) > 0.5).predict_proba(texts)[:, 1]


def frozen_baseline(
    train: tuple[Sequence[str], np.ndarray], texts: Sequence[str], settings: ClassifierSettings
) -> np.ndarray:
    """p(refuse) [n] of a logistic regression on the mean token states of the encoder without fine-tuning."""
    states = mean_states([*train[0], *texts], settings)
    n = len(train[0])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    return model.fit(states[:n], np.asarray(train[1]) > 0.5).predict_proba(states[n:])[:, 1]


def mean_states(texts: Sequence[str], settings: ClassifierSettings, batch_size: int = 64) -> np.ndarray:
    """Mean of the encoder's last states over each text's tokens, float32 [n, d]."""
    model, tokenizer = load_encoder(encoder_source(settings.encoder), fresh=True)
    encoder = model.base_model.eval()
    ids = token_ids(tokenizer, texts, settings.max_length)
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    states = np.empty((len(ids), model.config.hidden_size), dtype=np.float32)
    collate = DataCollatorWithPadding(tokenizer)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = collate([{"input_ids": ids[index]} for index in chosen])
            hidden, mask = encoder(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
            states[chosen] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    return states


def learning_curve(
    train: tuple[Sequence[str], np.ndarray],
    test: tuple[Sequence[str], np.ndarray],
    settings: ClassifierSettings,
    sizes: Sequence[int],
    out_dir: str | Path,
    seed: int,
) -> pd.DataFrame:
    """Scores on the test prompts after training on the first n prompts of a random order, n in ``sizes``.

    A small set is repeated: the epochs grow with sqrt(all / n), or the curve would show too few steps
    instead of too few prompts. Finished sizes are kept in ``out_dir`` and not trained again.

    Returns:
        A tidy table: ``model`` (BERT and the TF-IDF baseline), ``n_train`` and the columns of :func:`scores`.
    """
    out_dir = Path(out_dir)
    texts, labels = list(train[0]), np.asarray(train[1], dtype=float)
    order = np.random.default_rng(seed).permutation(len(texts))
    rows: list[dict[str, float | str]] = []
    for n in sizes:
        if not 0 < n <= len(texts):
            raise SaferlrmError(f"the learning curve asks for {n} of {len(texts)} prompts; lower it")
        record = out_dir / f"n{n}.json"
        if not record.is_file():
            part = [texts[index] for index in order[:n]], labels[order[:n]]
            epochs = round(settings.epochs * np.sqrt(len(texts) / n))
            folder = train_classifier(*part, settings.model_copy(update={"epochs": epochs}), out_dir / f"n{n}", seed)
            predictions = {BERT: predict(folder, test[0]), TFIDF: tfidf_baseline(part, test[0])}
            found = [{"model": name, "n_train": n} | scores(test[1], p) for name, p in predictions.items()]
            record.with_suffix(".part").write_text(json.dumps(found))
            os.replace(record.with_suffix(".part"), record)
            shutil.rmtree(folder)
        rows += json.loads(record.read_text())
    return pd.DataFrame(rows)
