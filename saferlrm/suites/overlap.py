"""Overlap between training prompts and evaluation suites: what a model must not have been trained on.

Three kinds, each pair counted under the strictest that holds: ``exact``, ``normalised`` (case, punctuation and white
space aside) and ``near`` (Jaccard similarity of the sets of word 3-grams, Broder 1997). The similarity is computed
exactly, by products of sparse matrices: a hundred thousand training prompts against a few thousand evaluation prompts
take seconds, so an approximation such as MinHash would add a dependency and errors and save nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer

from saferlrm.suites.types import Prompt

KINDS = ("exact", "normalised", "near")
# One word changed in a request of ten leaves 5 of 11 shingles, 0.4545. Between the harmful training and validation
# requests of refusal_direction, 0.45 finds the two pairs that a reader would call the same, 0.7 neither, and 0.4 also
# requests that share a form of words only.
NEAR_DUPLICATE = 0.45
_ROWS = 2048  # training prompts compared at once: bounds memory


def normalise(text: str) -> str:
    """Lower-case words and numbers, one space apart."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def shingles(text: str) -> list[str]:
    """Word 3-grams of the normalised text; a shorter text is one shingle."""
    words = normalise(text).split()
    return [" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))]


def find_overlap(
    training: Sequence[Prompt], suites: Mapping[str, Sequence[Prompt]], threshold: float = NEAR_DUPLICATE
) -> pd.DataFrame:
    """Every pair of a training and an evaluation prompt that are the same, or nearly.

    Args:
        threshold: least similarity of a near-duplicate, in (0, 1].

    Returns:
        One row for each pair: ``training_id``, ``suite``, ``suite_id``, ``kind``, ``similarity``.
    """
    tests = [(suite, prompt) for suite, prompts in suites.items() for prompt in prompts]
    columns = ["training_id", "suite", "suite_id", "kind", "similarity"]
    if not training or not tests:
        return pd.DataFrame(columns=columns)
    vectorizer = CountVectorizer(analyzer=shingles, binary=True, dtype=np.int32)
    asked = vectorizer.fit_transform([prompt.text for _, prompt in tests])
    asked_size = np.asarray(asked.sum(axis=1)).ravel()
    plain = [normalise(prompt.text) for _, prompt in tests]
    rows = []
    for start in range(0, len(training), _ROWS):
        part = training[start : start + _ROWS]
        # Shingles that no suite has count in the union alone.
        size = np.array([len(set(shingles(prompt.text))) for prompt in part])
        shared = sparse.coo_array(vectorizer.transform([prompt.text for prompt in part]) @ asked.T)
        i, j = shared.coords
        similarity = shared.data / (size[i] + asked_size[j] - shared.data)
        for a, b, s in zip(*(x[similarity >= threshold] for x in (i, j, similarity)), strict=True):
            suite, test = tests[b]
            if part[a].text == test.text:
                kind = "exact"
            else:
                kind = "normalised" if normalise(part[a].text) == plain[b] else "near"
            rows.append((part[a].id, suite, test.id, kind, float(s)))
    return pd.DataFrame(rows, columns=columns)


def report(pairs: pd.DataFrame, n_training: int, suites: Mapping[str, Sequence[Prompt]]) -> pd.DataFrame:
    """Counts of :func:`find_overlap` by suite and kind, zeros included.

    Returns:
        ``suite``, ``kind``, ``pairs``, ``training_prompts`` (how many of ``n_training`` have such a twin),
        ``suite_prompts`` (how many of ``n_suite``), ``n_training``, ``n_suite``.
    """
    rows = []
    for suite, prompts in suites.items():
        for kind in KINDS:
            some = pairs[(pairs["suite"] == suite) & (pairs["kind"] == kind)]
            rows.append(
                {
                    "suite": suite,
                    "kind": kind,
                    "pairs": len(some),
                    "training_prompts": some["training_id"].nunique(),
                    "suite_prompts": some["suite_id"].nunique(),
                    "n_training": n_training,
                    "n_suite": len(prompts),
                }
            )
    return pd.DataFrame(rows)
