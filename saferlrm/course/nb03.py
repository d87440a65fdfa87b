"""Exercises of notebook 03, probing latent safety signals."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from saferlrm.course.exercise import Case, Exercise, Mistake


def _states() -> list[Case]:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 4)), np.arange(30) < 8
    X[y] += [3.0, 0.0, 1.0, 0.0]
    return [
        Case((np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 0.0], [0.0, 0.0]]), np.array([True, True, False, False]))),
        Case((X, y), "8 harmful prompts, 22 harmless ones"),
        Case((X + 100, y), "the same, far from the origin"),
        Case((np.array([[0.0, 5.0], [0.0, -5.0]]), np.array([False, True])), "one prompt of each kind"),
    ]


def _data(rng: np.random.Generator, n: int, d: int, apart: float) -> tuple[np.ndarray, np.ndarray]:
    y = rng.permutation(np.arange(n) % 2 == 0)
    X = rng.normal(size=(n, d))
    X[:, 0] += apart * y
    return X, y


def _probe_property(attempt: Callable[..., Any]) -> str | None:
    """Known data: separable, and noise with more dimensions than prompts."""
    rng = np.random.default_rng(1)
    X, y = _data(rng, 240, 10, 6.0)
    given = X[:120].copy(), y[:120].copy(), X[120:].copy(), y[120:].copy()
    runs = [attempt(*given, seed) for seed in range(6)]
    if any(run is None for run in runs):
        return "it returns None; it should return two AUROCs, of the probe and of its control."
    if not all(isinstance(run, tuple | list) and len(run) == 2 for run in runs):
        return "it should return two numbers, the probe's AUROC and the control's."
    if not (np.array_equal(given[1], y[:120]) and np.array_equal(given[3], y[120:])):
        return (
            "the labels that were given have been changed: shuffle a copy (`rng.permutation`), or the caller's "
            "are lost."
        )
    real, control = np.array(runs, float).T
    if np.isnan([real, control]).any():
        return "one of the AUROCs is NaN."
    if real.min() < 0.95:
        return (
            f"two groups that lie far apart should give a probe with AUROC near 1, got {real.min():.2f}; are "
            "labels and rows in the same order?"
        )
    if np.ptp(control) == 0:
        return "the control is the same for six seeds: use `seed` for the shuffle."
    if control.mean() > 0.75 or control.mean() < 0.25:
        return (
            f"the control learnt from shuffled labels should be near 0.5 on average, got {control.mean():.2f}; "
            "were the *training* labels shuffled, and the control fitted anew?"
        )
    X, y = _data(rng, 80, 120, 0.0)
    noise = np.array([attempt(X[:40], y[:40], X[40:], y[40:], seed)[0] for seed in range(2)], float)
    if noise.mean() > 0.85:
        return (
            f"on pure noise with more dimensions than prompts the probe scores {noise.mean():.2f}: it was scored "
            "on the prompts that it was fitted on."
        )
    return _test_labels_shuffled(attempt) or _ranked_only(attempt)


def _test_labels_shuffled(attempt: Callable[..., Any]) -> str | None:
    """From one training prompt of each kind: shuffled, their labels are right or swapped, so the AUROC is 1 or 0."""
    rng = np.random.default_rng(3)
    y = np.arange(200) % 2 == 0
    X = np.where(y, 3.0, -3.0)[:, None] + rng.normal(0, 0.1, (200, 2))
    found = [float(attempt(X[:2].copy(), y[:2].copy(), X[2:].copy(), y[2:].copy(), seed)[1]) for seed in range(4)]
    if any(0.2 < area < 0.8 for area in found):
        return (
            "with one training prompt of each kind a control can only be right (AUROC 1) or reversed (0), got "
            f"{found[0]:.2f}: the *test* labels were shuffled. Shuffle the training labels, fit a new probe on them, "
            "and score it against the true test labels."
        )
    return None


def _ranked_only(attempt: Callable[..., Any]) -> str | None:
    """A probe whose threshold is off still ranks: AUROC of scores, not of yes-or-no decisions."""
    rng = np.random.default_rng(2)
    X, y = _data(rng, 300, 3, 2.0)
    test = X[150:] + np.array([8.0, 0.0, 0.0])
    found = float(attempt(X[:150], y[:150], test, y[150:], 0)[0])
    if found < 0.75:
        return (
            f"for test prompts that are all shifted alike the AUROC should stay above 0.75, got {found:.2f}: give "
            "it the scores (`decision_function`), not the decisions (`predict`)."
        )
    return None


def _groups() -> list[list[str]]:
    return [["a", "a", "b", "b", "c", "c", "d", "d"], list("abcdefgh") * 5, ["x"] * 6 + ["y"] * 2 + ["z"] * 2]


def _split_property(attempt: Callable[..., Any]) -> str | None:
    """No topic on both sides, everything used once, and the seed decides."""
    splits = set()
    for topics in _groups():
        for seed in range(4):
            found = attempt(list(topics), seed)
            if not (isinstance(found, tuple | list) and len(found) == 2):
                return "it should return two lists of row numbers, training and test."
            train, test = (sorted(int(i) for i in part) for part in found)
            if sorted(train + test) != list(range(len(topics))):
                return (
                    f"every row must be used once; of {len(topics)} rows, training and test have {len(train)} and "
                    f"{len(test)}."
                )
            if not train or not test:
                return f"for the topics {topics[:8]} and seed {seed} one side is empty."
            both = {topics[i] for i in train} & {topics[i] for i in test}
            if both:
                return (
                    f"for the topics {topics[:8]} and seed {seed}, {sorted(both)[0]!r} is in training *and* in "
                    "test: the probe can learn the topic by heart. Shuffle topics, not rows."
                )
            splits.add((len(topics), tuple(test)))
    if len(splits) <= len(_groups()):
        return "four seeds give one and the same split; use `seed`."
    if tuple(map(tuple, attempt(list(topics), 0))) != tuple(map(tuple, attempt(list(topics), 0))):
        return "the same seed gives another split each time; use random.Random(seed)."
    return _order_of_a_set(attempt, _groups()[1])


class _Salted(str):
    """A topic whose place in a set is another for each salt, as that of a string is in each run of Python."""

    salt = 0

    def __hash__(self) -> int:
        return zlib.crc32(f"{self.salt} {self!s}".encode())


def _order_of_a_set(attempt: Callable[..., Any], topics: list[str]) -> str | None:
    """The split must not depend on the order in which a set of strings is walked through."""
    splits = set()
    for salt in range(8):
        kind = type("Topic", (_Salted,), {"salt": salt})
        splits.add(tuple(sorted(int(i) for i in attempt([kind(topic) for topic in topics], 0)[1])))
    if len(splits) > 1:
        return (
            "the same seed splits otherwise the next time Python is started, because a set of strings has no order of "
            "its own; sort the topics before you shuffle them."
        )
    return None


def layers(direct: list[float], novel: list[float]) -> pd.DataFrame:
    """A probe table of two groups, one AUROC a layer."""
    rows = [("direct", i, a) for i, a in enumerate(direct)] + [("novel_wrapped", i, a) for i, a in enumerate(novel)]
    return pd.DataFrame(rows, columns=["group", "layer", "auroc"])


def _tables() -> list[Case]:
    return [
        Case((layers([0.5, 0.8, 0.9], [0.5, 0.7, 0.6]),)),
        Case((layers([0.5, 0.9], [0.6, 0.8]),), "both groups have the same best layer"),
        Case((layers([0.95, 0.6, 0.7], [0.4, 0.5, 0.9]).iloc[::-1].reset_index(drop=True),), "layers in another order"),
    ]


EXERCISES = (
    Exercise(
        id="03.1",
        kind="implement",
        title="The difference in means",
        stars=1,
        minutes=10,
        function="direction",
        statement="""
        Write $\\hat r = r / \\lVert r \\rVert$ with $r$ as in the theory above: from the mean state of the
        harmless prompts
        to that of the harmful ones, at unit length (arXiv 2406.11717).
        """,
        hint="`X[y]` are the rows of the harmful prompts; `np.linalg.norm` gives a length.",
        imports=("import numpy as np",),
        starter='''
        def direction(X: np.ndarray, y: np.ndarray) -> np.ndarray:
            """Unit vector [d] from harmless to harmful; states X [n, d], y [n] true for harmful."""
            return None  # your code
        ''',
        solution='''
        def direction(X: np.ndarray, y: np.ndarray) -> np.ndarray:
            """Unit vector [d] from harmless to harmful; states X [n, d], y [n] true for harmful."""
            r = X[y].mean(axis=0) - X[~y].mean(axis=0)
            return r / np.linalg.norm(r)
        ''',
        learned="No fit, no penalty, no seed: two means. In large models it is said to do nearly as well as a fitted "
        "probe; here it does not (see *Beside the controls*). It is the direction that the interventions of notebook "
        "08 add and remove.",
        cases=_states,
        mistakes=(
            Mistake(
                "def direction(X, y):\n    return X[y].mean(0) - X[~y].mean(0)",
                "The direction is right, its length is not 1.",
            ),
            Mistake(
                """
                def direction(X, y):
                    r = X[~y].mean(0) - X[y].mean(0)
                    return r / np.linalg.norm(r)
                """,
                "It points from harmful to harmless; a positive score would mean harmless.",
            ),
            Mistake(
                """
                def direction(X, y):
                    r = X[y].sum(0) - X[~y].sum(0)
                    return r / np.linalg.norm(r)
                """,
                "Sums instead of means: the larger group pulls the direction.",
            ),
            Mistake(
                """
                def direction(X, y):
                    r = X[y].mean() - X[~y].mean()
                    return r / np.linalg.norm(r)
                """,
                "The mean was taken over prompts *and* dimensions; `axis=0` keeps the dimensions.",
            ),
        ),
    ),
    Exercise(
        id="03.2",
        kind="implement",
        title="A probe and its control",
        stars=3,
        minutes=25,
        function="probe_and_control",
        statement="""
        Fit a logistic regression on the training states and score it on the test states by AUROC. Then its control: the
        same with the *training* labels shuffled, scored against the *true* test labels. Return both numbers. The labels
        that are handed in must stay as they are.
        """,
        hint="`np.random.default_rng(seed).permutation(y)` returns a shuffled copy. AUROC wants scores: "
        "`decision_function`, not `predict`.",
        imports=("import numpy as np", "from sklearn.linear_model import LogisticRegression",
                 "from sklearn.metrics import roc_auc_score"),
        starter='''
        def probe_and_control(X: np.ndarray, y: np.ndarray, X_test: np.ndarray, y_test: np.ndarray, seed: int):
            """AUROC on the test prompts of a probe, and of one that learnt from shuffled labels."""
            return None  # your code
        ''',
        solution='''
        def probe_and_control(X: np.ndarray, y: np.ndarray, X_test: np.ndarray, y_test: np.ndarray, seed: int):
            """AUROC on the test prompts of a probe, and of one that learnt from shuffled labels."""
            found = []
            for labels in (y, np.random.default_rng(seed).permutation(y)):
                probe = LogisticRegression(max_iter=1000).fit(X, labels)
                found.append(roc_auc_score(y_test, probe.decision_function(X_test)))
            return tuple(found)
        ''',
        learned="With more dimensions than prompts *any* labels can be fitted, so only held-out prompts say anything, "
        "and the control says what the probe's flexibility alone would reach. One shuffle is itself a draw of luck: "
        "the package takes twenty.",
        property=_probe_property,
        mistakes=(
            Mistake(
                """
                def probe_and_control(X, y, X_test, y_test, seed):
                    found = []
                    for labels in (y, np.random.default_rng(seed).permutation(y)):
                        probe = LogisticRegression(max_iter=1000).fit(X, labels)
                        found.append(roc_auc_score(y, probe.decision_function(X)))
                    return tuple(found)
                """,
                "was scored on the prompts that it was fitted on",
            ),
            Mistake(
                """
                def probe_and_control(X, y, X_test, y_test, seed):
                    probe = LogisticRegression(max_iter=1000).fit(X, y)
                    real = roc_auc_score(y_test, probe.decision_function(X_test))
                    np.random.default_rng(seed).shuffle(y)
                    probe.fit(X, y)
                    return real, roc_auc_score(y_test, probe.decision_function(X_test))
                """,
                "shuffle a copy",
            ),
            Mistake(
                """
                def probe_and_control(X, y, X_test, y_test, seed):
                    found = []
                    for labels in (y, np.random.default_rng(seed).permutation(y)):
                        probe = LogisticRegression(max_iter=1000).fit(X, labels)
                        found.append(roc_auc_score(y_test, probe.predict(X_test)))
                    return tuple(found)
                """,
                "not the decisions",
            ),
            Mistake(
                """
                def probe_and_control(X, y, X_test, y_test, seed):
                    scores = LogisticRegression(max_iter=1000).fit(X, y).decision_function(X_test)
                    shuffled = np.random.default_rng(seed).permutation(y_test)
                    return roc_auc_score(y_test, scores), roc_auc_score(shuffled, scores)
                """,
                "the *test* labels were shuffled",
            ),
            Mistake(
                """
                def probe_and_control(X, y, X_test, y_test, seed):
                    found = []
                    for labels in (y, np.random.default_rng(0).permutation(y)):
                        probe = LogisticRegression(max_iter=1000).fit(X, labels)
                        found.append(roc_auc_score(y_test, probe.decision_function(X_test)))
                    return tuple(found)
                """,
                "use `seed` for the shuffle",
            ),
        ),
    ),
    Exercise(
        id="03.3",
        kind="find the bug",
        title="A shuffle that leaks",
        stars=2,
        minutes=15,
        function="split",
        statement="""
        Prompts come in several phrasings of one topic. This split shuffles rows and cuts, so that phrasings of one
        topic
        land on both sides, and a probe that has learnt topics by heart looks as if it generalised. Let the split keep
        every topic on one side.
        """,
        hint="Shuffle and cut the sorted list of *different* topics; then sort the rows by the side of their topic.",
        imports=("import random",),
        starter='''
        def split(topics: list[str], seed: int) -> tuple[list[int], list[int]]:
            """Row numbers for training and for test, about half each; topics[i] is the topic of row i."""
            rows = list(range(len(topics)))
            random.Random(seed).shuffle(rows)
            half = len(rows) // 2
            return rows[half:], rows[:half]
        ''',
        solution='''
        def split(topics: list[str], seed: int) -> tuple[list[int], list[int]]:
            """Row numbers for training and for test, about half each; topics[i] is the topic of row i."""
            names = sorted(set(topics))
            random.Random(seed).shuffle(names)
            held_out = set(names[: len(names) // 2])
            train = [i for i, topic in enumerate(topics) if topic not in held_out]
            return train, [i for i, topic in enumerate(topics) if topic in held_out]
        ''',
        learned="What is drawn at random must be the unit that you want to generalise to: unseen *topics*, not unseen "
        "rows. The suites of this course hold out topics and phrasings by construction.",
        property=_split_property,
        mistakes=(
            Mistake(
                """
                def split(topics, seed):
                    names = sorted(set(topics))
                    held_out = set(names[: len(names) // 2])
                    train = [i for i, topic in enumerate(topics) if topic not in held_out]
                    return train, [i for i, topic in enumerate(topics) if topic in held_out]
                """,
                "four seeds give one and the same split",
            ),
            Mistake(
                """
                def split(topics, seed):
                    names = list(set(topics))
                    random.Random(seed).shuffle(names)
                    held_out = set(names[: len(names) // 2])
                    train = [i for i, topic in enumerate(topics) if topic not in held_out]
                    return train, [i for i, topic in enumerate(topics) if topic in held_out]
                """,
                "sort the topics before you shuffle them",
            ),
            Mistake(
                """
                def split(topics, seed):
                    names = sorted(set(topics))
                    random.Random(seed).shuffle(names)
                    first = [topics.index(name) for name in names]
                    return first[len(first) // 2 :], first[: len(first) // 2]
                """,
                "every row must be used once",
            ),
        ),
    ),
    Exercise(
        id="03.4",
        kind="measure",
        title="The price of choosing on the test set",
        stars=2,
        minutes=10,
        function="optimism",
        statement="""
        Read at the last token of the *prompt*, `at_prompt_last`. Choose the layer on `novel_wrapped` itself instead of
        on `direct`: by how much does the AUROC on `novel_wrapped` rise, if it rises at all? Guess, then measure. The
        rise is what choosing on the test prompts would have added to the report.
        """,
        hint="Make a column for each group with the layers as index; `idxmax` gives the best layer.",
        imports=("import pandas as pd",),
        guess="your guess: a difference of AUROCs, 0 to 0.5",
        on=("at_prompt_last",),
        starter='''
        def optimism(at_prompt_last: pd.DataFrame) -> float:
            """AUROC on novel_wrapped at its own best layer, minus that at the layer best on direct."""
            return None  # your code
        ''',
        solution='''
        def optimism(at_prompt_last: pd.DataFrame) -> float:
            """AUROC on novel_wrapped at its own best layer, minus that at the layer best on direct."""
            area = at_prompt_last.pivot(index="layer", columns="group", values="auroc")
            novel = area["novel_wrapped"]
            return float(novel.max() - novel[area["direct"].idxmax()])
        ''',
        learned="The difference is never negative: choosing can only flatter. It is 0 where both groups have the same "
        "best layer, which is luck and not a rule; with dozens of layers, tokens and penalties it can be the whole "
        "finding.",
        cases=_tables,
        mistakes=(
            Mistake(
                """
                def optimism(at_prompt_last):
                    best = at_prompt_last.groupby("group")["auroc"].max()
                    return float(best["direct"] - best["novel_wrapped"])
                """,
                "That compares the groups; asked for is one group, `novel_wrapped`, at two layers.",
            ),
            Mistake(
                """
                def optimism(at_prompt_last):
                    area = at_prompt_last.pivot(index="layer", columns="group", values="auroc")
                    return float(area["novel_wrapped"].max() - area["direct"].max())
                """,
                "That compares two groups; asked for is `novel_wrapped` at two layers.",
            ),
            Mistake(
                """
                def optimism(at_prompt_last):
                    area = at_prompt_last.pivot(index="layer", columns="group", values="auroc")
                    novel = area["novel_wrapped"]
                    return float(novel[area["direct"].idxmax()] - novel.max())
                """,
                "It is the other way round: what choosing adds is not negative.",
            ),
        ),
    ),
)

FURTHER = """
1. *(10 minutes)* Set `position` to `prompt_last`. Does the chosen layer change, and does the gap between direct
   and unseen-jailbreak prompts become wider or narrower? Compare each position at its own chosen layer. Say what that
   means for where a head should read.
"""
