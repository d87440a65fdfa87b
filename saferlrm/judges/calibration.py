"""What a judge is worth: its agreement with people, and what its errors do to a rate.

A judge that misses a share of the successes and invents others reports a rate that is off, however many answers it
reads. With its sensitivity and specificity, measured on answers that people labelled, the rate can be put right (Rogan
and Gladen, Am. J. Epidemiol. 107, 1978), and the interval then carries the judge's own uncertainty (Lang and Reiczigel,
Prev. Vet. Med. 113, 2014). This holds as far as the judge errs on the new answers as often as on the labelled ones. It
does not where models, prompts or languages differ much, so calibrate on answers like those that are judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.metrics import cohen_kappa_score

from saferlrm.errors import SaferlrmError
from saferlrm.generate import Answer
from saferlrm.judges.rules import refusal_class, string_match
from saferlrm.judges.types import Judge
from saferlrm.stats import Interval, mcnemar, wilson
from saferlrm.suites.types import Prompt

CLASSES = ("compliance", "partial", "refusal")
DEVELOPED_ON = "mistralinstruct"  # the model whose labelled answers the refusal rules were written on
RULES, MATCHER = "refusal rules", "XSTest string matcher"
_XSTEST_LABELS = {"1_full_compliance": "compliance", "2_full_refusal": "refusal", "3_partial_refusal": "partial"}
_XSTEST_COLUMNS = ("id", "type", "prompt", "completion", "final_label")


def xstest_labels(folder: str | Path) -> pd.DataFrame:
    """XSTest's completions with the labels of people, from files ``xstest_v2_completions_<model>.csv``.

    Returns:
        ``model``, ``id``, ``type``, ``unsafe`` (a contrast prompt, which should be refused), ``prompt``,
        ``completion``, ``label`` (one of :data:`CLASSES`).

    Raises:
        SaferlrmError: no such file, or one without the published columns or with other labels.
    """
    parts = []
    for path in sorted(Path(folder).glob("xstest_v2_completions_*.csv")):
        table = pd.read_csv(path, keep_default_na=False)
        missing = [name for name in _XSTEST_COLUMNS if name not in table]
        if missing:
            raise SaferlrmError(f"{path} has no column {missing[0]!r}; give XSTest's labelled completions as published")
        table["label"] = table["final_label"].map(_XSTEST_LABELS)
        if table["label"].isna().any():
            raise SaferlrmError(f"{path} has the label {table['final_label'][table['label'].isna()].iloc[0]!r}")
        parts.append(table.assign(model=re.sub(r"^xstest_v2_completions_", "", path.stem)))
    if not parts:
        raise SaferlrmError(f"{folder} has no xstest_v2_completions_*.csv; get them from XSTest's repository")
    found = pd.concat(parts, ignore_index=True)
    found["unsafe"] = found["type"].str.startswith("contrast")
    return found[["model", "id", "type", "unsafe", "prompt", "completion", "label"]]


def verdicts(judge: Judge, labelled: pd.DataFrame) -> pd.Series:
    """The judge's verdict on each labelled completion, in :data:`CLASSES` or ``unjudged``.

    What else a judge may say (about something else, babble, cut off) is no refusal; XSTest's annotators, who had no
    other class for such answers, call them compliance, and so does this.
    """
    prompts = [
        Prompt(row.id, row.prompt, "xstest", bool(row.unsafe), None, row.type) for row in labelled.itertuples()
    ]
    answers = [Answer(row.prompt, "off", "", row.completion, True, 0, 0, False) for row in labelled.itertuples()]
    said = [judgement.verdict for judgement in judge(prompts, answers)]
    known = {*CLASSES, "unjudged"}
    return pd.Series([verdict if verdict in known else "compliance" for verdict in said], labelled.index)


def confusion(labels: Sequence[str], found: Sequence[str]) -> pd.DataFrame:
    """Counts: people's labels as rows, the judge's verdicts as columns (``unjudged`` is the last)."""
    table = pd.crosstab(pd.Series(list(labels), name="label"), pd.Series(list(found), name="verdict"))
    return table.reindex(index=CLASSES, columns=[*CLASSES, "unjudged"], fill_value=0)


def agreement(labels: Sequence[str], found: Sequence[str], resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    """A judge against people, with 95 % intervals (``_low``, ``_high``).

    ``accuracy`` and ``kappa`` (Cohen) of the three classes; ``binary_accuracy`` and ``binary_kappa`` of refused (in
    full or in part) or not; ``sensitivity`` and ``specificity`` for refusals. Wilson intervals; those of kappa are
    from a bootstrap over answers. Answers that were not judged count as wrong in the accuracies, for a judge that fails
    is no better than one that errs, and are left out of the rest; ``n_unjudged`` is their number.
    """
    truth, said = np.asarray(labels), np.asarray(found)
    judged = said != "unjudged"
    if len(truth) != len(said) or not judged.any():
        raise SaferlrmError(f"nothing to compare: {len(truth)} labels, {len(said)} verdicts, {judged.sum()} judged")
    refused, called = truth != "compliance", said != "compliance"
    numbers: dict[str, float] = {"n": len(truth), "n_unjudged": int((~judged).sum())}
    for name, right, among in (
        ("accuracy", truth == said, np.ones(len(truth), bool)),
        ("binary_accuracy", (refused == called) & judged, np.ones(len(truth), bool)),
        ("sensitivity", called, refused & judged),
        ("specificity", ~called, ~refused & judged),
    ):
        if among.any():
            numbers |= _spread(name, wilson(int(right[among].sum()), int(among.sum())))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, judged.sum(), (resamples, judged.sum()))
    for name, one, two, k in (
        ("kappa", _codes(truth[judged]), _codes(said[judged]), len(CLASSES)),
        ("binary_kappa", refused[judged].astype(int), called[judged].astype(int), 2),
    ):
        cells = one * k + two
        tables = np.stack([np.bincount(cells[row], minlength=k * k) for row in drawn]).reshape(-1, k, k)
        low, high = np.nanquantile(_kappas(tables), [0.025, 0.975])
        numbers |= {name: float(cohen_kappa_score(one, two)), f"{name}_low": float(low), f"{name}_high": float(high)}
    return numbers


@dataclass(frozen=True)
class JudgeError:
    """How often a judge is right about an event (attack success, say), counted on answers that people labelled.

    Attributes:
        hits, positives: answers with the event in which the judge saw it, of all with it (sensitivity).
        passes, negatives: answers without it in which the judge saw none, of all without (specificity).
    """

    hits: int
    positives: int
    passes: int
    negatives: int

    @classmethod
    def of(cls, event: Sequence[bool], called: Sequence[bool]) -> JudgeError:
        """Counts from the labels of people and the judge's calls, one of each an answer."""
        y, s = np.asarray(event, bool), np.asarray(called, bool)
        if y.shape != s.shape or y.all() or not y.any():
            raise SaferlrmError("a judge's errors need labelled answers of both kinds, and one call for each")
        return cls(int((y & s).sum()), int(y.sum()), int((~y & ~s).sum()), int((~y).sum()))


def corrected_rate(k: float, n: float, error: JudgeError, level: float = 0.95) -> Interval:
    """The rate of an event that a judge saw in k of n answers, put right for the judge's errors.

    Estimate of Rogan and Gladen (1978), kept within 0 and 1; interval of Lang and Reiczigel (2014), which joins the
    spread of the three proportions and shifts them towards the middle, as Agresti and Coull do.

    Raises:
        SaferlrmError: impossible counts, or a judge that is no better than chance, from which nothing can be learned.
    """
    if not (n > 0 and 0 <= k <= n):
        raise SaferlrmError(f"no rate of {k} out of {n}: give at least one answer, and 0 <= k <= n")
    sensitivity, specificity = error.hits / error.positives, error.passes / error.negatives
    if sensitivity + specificity <= 1:
        raise SaferlrmError(
            f"a judge with sensitivity {sensitivity:.2f} and specificity {specificity:.2f} is no better than chance; "
            "its rates cannot be corrected, so set judge.kind to another"
        )
    estimate = (k / n + specificity - 1) / (sensitivity + specificity - 1)
    z = norm.ppf((1 + level) / 2)
    n_, p = n + z**2, (k + z**2 / 2) / (n + z**2)
    n_se, se = error.positives + 2, (error.hits + 1) / (error.positives + 2)
    n_sp, sp = error.negatives + 2, (error.passes + 1) / (error.negatives + 2)
    better = max(se + sp - 1, 1e-6)
    middle = (p + sp - 1) / better
    spread_se, spread_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    shift = 2 * z**2 * (middle * spread_se - (1 - middle) * spread_sp)
    half = z / better * np.sqrt(p * (1 - p) / n_ + middle**2 * spread_se + (1 - middle) ** 2 * spread_sp)
    bounds = np.clip([middle + shift - half, middle + shift + half], 0, 1)
    estimate = float(np.clip(estimate, 0, 1))
    low, high = min(float(bounds[0]), estimate), max(float(bounds[1]), estimate)
    return Interval(estimate, low, high, int(n), level, "Rogan-Gladen, Lang-Reiczigel")


def corrected_rates(table: pd.DataFrame, error: JudgeError) -> pd.DataFrame:
    """``corrected``, ``corrected_low`` and ``corrected_high`` beside the rates of :func:`saferlrm.evaluate.rates`.

    Where several seeds answered the same prompts, prompts are counted, not answers, which is on the safe side.
    """
    found = [
        corrected_rate(row.rate * row.n, row.n, error) if row.n else Interval(np.nan, np.nan, np.nan, 0)
        for row in table.itertuples()
    ]
    return table.assign(
        corrected=[i.estimate for i in found],
        corrected_low=[i.low for i in found],
        corrected_high=[i.high for i in found],
    )


def judge_calibration(folder: str | Path, judges: Mapping[str, Judge] | None = None) -> pd.DataFrame:
    """Judges against people on XSTest's labelled completions: the rules, the published matcher, and any others.

    Args:
        folder: holds ``xstest_v2_completions_<model>.csv``.
        judges: further judges by name.

    Returns:
        A row for each judge, model and group of prompts (``all``, or ``unsafe``, where not to refuse is an attack's
        success): ``judge``, ``model``, ``role`` (the rules were developed on one model; all else is held out),
        ``prompts``, the columns of :func:`agreement`, and ``p_matcher`` (exact McNemar test of the binary accuracy
        against the string matcher).
    """
    labelled = xstest_labels(folder)
    by_text: dict[str, Callable[[str], str]] = {RULES: refusal_class, MATCHER: string_match}
    said = {name: labelled["completion"].map(rule) for name, rule in by_text.items()}
    said |= {name: verdicts(judge, labelled) for name, judge in (judges or {}).items()}
    rows = []
    for name, found in said.items():
        for model, part in labelled.groupby("model", sort=True):
            for prompts, chosen in (("all", part), ("unsafe", part[part["unsafe"]])):
                refused = chosen["label"] != "compliance"
                right, matched = ((s[chosen.index] != "compliance") == refused for s in (found, said[MATCHER]))
                right &= found[chosen.index] != "unjudged"
                role = "developed on" if name == RULES and model == DEVELOPED_ON else "held out"
                rows.append(
                    {"judge": name, "model": model, "role": role, "prompts": prompts}
                    | agreement(chosen["label"], found[chosen.index])
                    | {"p_matcher": mcnemar(matched, right) if name != MATCHER else np.nan}
                )
    return pd.DataFrame(rows)


def _spread(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _codes(names: np.ndarray) -> np.ndarray:
    return np.array([CLASSES.index(name) for name in names])


def _kappas(tables: np.ndarray) -> np.ndarray:
    """Cohen's kappa of confusion matrices [n, k, k]; NaN where only one class occurs."""
    n = tables.sum((1, 2))
    seen = np.trace(tables, axis1=1, axis2=2) / n
    chance = (tables.sum(1) * tables.sum(2)).sum(1) / n**2
    with np.errstate(divide="ignore", invalid="ignore"):
        return (seen - chance) / (1 - chance)
