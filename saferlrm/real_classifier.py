"""A prompt classifier on real prompts: can it tell what should be refused from what only sounds like it?

The teacher of the auxiliary head (PreSafe, arXiv 2603.17368) sees nothing but the prompt. Here such classifiers learn
harmful against harmless instructions (the sets of Arditi et al., arXiv 2406.11717) and are tested on pairs made to
mislead them: XSTest (arXiv 2308.01263), whose safe prompts borrow the words of unsafe ones, and JailbreakBench's
harmful behaviours with benign ones on the same topics (arXiv 2404.01318). What they get wrong there, a teacher would
teach. No model is asked: the label is *should be refused*, which stands in for a careful model's own decisions.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from saferlrm.classifier import predict, train_classifier
from saferlrm.classifier_report import FROZEN, TFIDF, frozen_baseline, tfidf_baseline
from saferlrm.errors import SaferlrmError
from saferlrm.profile import ClassifierSettings
from saferlrm.progress import track
from saferlrm.stats import Interval, wilson

FINETUNED = "fine-tuned encoder"
RECALL = 0.95
HARMLESS_FOR_EACH = 3  # harmless training prompts for each harmful one
NEAR = 0.5  # training prompts this near a test prompt (Jaccard similarity of word 3-grams) are left out


def real_prompts(folder: str | Path, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Training and test prompts with the columns ``text`` and ``refuse``; names ``train``, ``xstest``, ``jbb``.

    Args:
        folder: holds ``refusal_direction/harmful_train.json`` and ``harmless_train.json``,
            ``xstest/xstest_prompts.csv``, ``jailbreakbench/harmful.csv`` and ``benign.csv``, as published; columns in
            whatever case.
        seed: of the draw of harmless training prompts, :data:`HARMLESS_FOR_EACH` for each harmful one.

    Returns:
        Training prompts that stand in a test set, word for word or nearly (:data:`NEAR`), are left out.
    """
    folder = Path(folder)
    harmful, harmless = (
        _read(folder / "refusal_direction" / f"{name}_train.json", "instruction") for name in ("harmful", "harmless")
    )
    xstest = _read(folder / "xstest" / "xstest_prompts.csv", "prompt", "label")
    jbb = [_read(folder / "jailbreakbench" / f"{name}.csv", "goal") for name in ("harmful", "benign")]
    tests = {
        "xstest": pd.DataFrame({"text": xstest["prompt"], "refuse": xstest["label"] == "unsafe"}),
        "jbb": pd.DataFrame(
            {"text": [*jbb[0]["goal"], *jbb[1]["goal"]], "refuse": [True] * len(jbb[0]) + [False] * len(jbb[1])}
        ),
    }
    tested = [_trigrams(text) for test in tests.values() for text in test["text"]]
    parts = []
    for table, refuse in ((harmful, True), (harmless, False)):
        texts = table["instruction"].drop_duplicates()
        if not refuse:
            texts = texts.sample(min(len(texts), HARMLESS_FOR_EACH * len(parts[0])), random_state=seed)
        texts = texts[[not _near(_trigrams(text), tested) for text in texts]]
        parts.append(pd.DataFrame({"text": texts, "refuse": refuse}))
    return {"train": pd.concat(parts, ignore_index=True)} | tests


def real_prompt_classifiers(
    folder: str | Path, settings: ClassifierSettings, seeds: Sequence[int] = (0, 1, 2)
) -> pd.DataFrame:
    """Three classifiers on real prompts: fine-tuned, the same encoder frozen, and TF-IDF.

    Args:
        folder: see :func:`real_prompts`.
        settings: of the fine-tuned one; ``encoder`` is also the frozen one's, and any BERT of the hub fits.
        seeds: of fine-tuning; the others have no chance in them.

    Returns:
        A row for each classifier, seed and test set (``xstest``, ``jbb``): ``model``, ``encoder``, ``seed``, ``test``,
        ``n``, ``n_refuse``, ``n_train``, ``auroc``, ``recall`` at threshold 0.5, and two rates of false positives among
        the safe prompts, ``fpr_half`` at 0.5 and ``fpr_recall`` at the threshold that finds :data:`RECALL` of the
        unsafe ones; all but ``recall`` with 95 % intervals. The threshold for that recall is read off the test set, so
        the number describes the ranking and is none that a deployed filter would reach.
    """
    prompts = real_prompts(folder)
    train = prompts["train"]["text"].tolist(), prompts["train"]["refuse"].to_numpy(float)
    tests = {name: prompts[name] for name in ("xstest", "jbb")}
    texts = [text for test in tests.values() for text in test["text"]]
    found = [(TFIDF, "", -1, tfidf_baseline(train, texts))]
    found.append((FROZEN, settings.encoder, -1, frozen_baseline(train, texts, settings)))
    for seed in track(list(seeds), "classifiers of real prompts"):
        with tempfile.TemporaryDirectory() as work:
            model = train_classifier(*train, settings, work, seed)
            found.append((FINETUNED, settings.encoder, seed, predict(model, texts)))
    rows = []
    for name, encoder, seed, p in found:
        start = 0
        for test, table in tests.items():
            part, start = p[start : start + len(table)], start + len(table)
            rows.append(
                {"model": name, "encoder": encoder, "seed": None if seed < 0 else seed, "test": test}
                | {"n": len(table), "n_refuse": int(table["refuse"].sum()), "n_train": len(train[0])}
                | ranking(table["refuse"].to_numpy(bool), part)
            )
    return pd.DataFrame(rows).astype({"seed": "Int64"})


def ranking(refuse: np.ndarray, p: np.ndarray, resamples: int = 2000, seed: int = 0) -> dict[str, float]:
    """AUROC and false positive rates of scores ``p`` [n] against labels ``refuse`` [n], with 95 % intervals.

    Bootstrap over prompts within each label for the AUROC and for the rate at :data:`RECALL`, whose threshold is found
    anew in every resample; Wilson's interval at 0.5.
    """
    unsafe, safe = p[refuse], p[~refuse]
    if not len(unsafe) or not len(safe):
        raise SaferlrmError("a ranking needs prompts of both labels")
    rng = np.random.default_rng(seed)
    areas, rates = np.empty(resamples), np.empty(resamples)
    for i in range(resamples):
        one, two = rng.choice(unsafe, len(unsafe)), rng.choice(safe, len(safe))
        areas[i], rates[i] = _area(one, two), _false_positives(one, two)
    area = Interval(float(roc_auc_score(refuse, p)), *np.quantile(areas, [0.025, 0.975]), len(p))
    at_recall = Interval(_false_positives(unsafe, safe), *np.quantile(rates, [0.025, 0.975]), len(safe))
    at_half = wilson(int((safe > 0.5).sum()), len(safe))
    numbers = {"recall": float((unsafe > 0.5).mean())}
    for name, interval in (("auroc", area), ("fpr_half", at_half), ("fpr_recall", at_recall)):
        numbers |= {name: interval.estimate, f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}
    return numbers


def _area(unsafe: np.ndarray, safe: np.ndarray) -> float:
    """AUROC by counting pairs; ties count half."""
    ordered = np.sort(safe)
    below, up_to = np.searchsorted(ordered, unsafe, "left"), np.searchsorted(ordered, unsafe, "right")
    return float((below + up_to).mean() / (2 * len(safe)))


def _false_positives(unsafe: np.ndarray, safe: np.ndarray) -> float:
    """Share of safe prompts at or above the highest threshold that still finds :data:`RECALL` of the unsafe ones."""
    threshold = np.sort(unsafe)[::-1][int(np.ceil(RECALL * len(unsafe))) - 1]
    return float((safe >= threshold).mean())


def _trigrams(text: str) -> frozenset[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return frozenset(tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2)))


def _near(one: frozenset, others: Sequence[frozenset]) -> bool:
    return any(len(one & other) > NEAR * len(one | other) for other in others)


def _read(path: Path, *columns: str) -> pd.DataFrame:
    try:
        if path.suffix == ".json":
            table = pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))
        else:
            table = pd.read_csv(path, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise SaferlrmError(f"cannot read {path} ({type(error).__name__}); put the published file there") from error
    table = table.rename(columns=lambda name: str(name).strip().lower())
    missing = [name for name in columns if name not in table]
    if missing:
        raise SaferlrmError(f"{path} has no column {missing[0]!r}; give the published file")
    return table
