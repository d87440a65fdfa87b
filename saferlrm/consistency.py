"""Self-consistency: several thoughts about one prompt are sampled, and their answers vote (arXiv 2203.11171).

The same vote can be held on a safety decision. Two rules are measured:

* ``majority``: the most frequent answer wins (plurality; ties are split evenly). It pushes each prompt to its own side:
  what is right, or refused, in more than half of the samples becomes certain, and what is right in fewer is lost
  (Condorcet's jury theorem). Whether the mean rises depends on how the prompts lie around one half.
* ``veto``: one refusal among k is enough to refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import comb

from saferlrm.chat import ThinkingMode
from saferlrm.errors import SaferlrmError
from saferlrm.evaluate import scorecard
from saferlrm.generate import Decoding
from saferlrm.judges.types import Judge
from saferlrm.lm import LanguageModel
from saferlrm.maths.extract import final_answer
from saferlrm.stats import Interval, bootstrap_mean, wilson
from saferlrm.suites.types import Prompt

Rule = Literal["majority", "veto"]
DRAWS = 400  # random subsets of the samples for one size of the vote


class Regime(NamedTuple):
    """How samples are drawn: a name for figures, the thinking mode and the temperature."""

    name: str
    mode: ThinkingMode
    temperature: float


def sampled(
    lm: LanguageModel,
    suites: Mapping[str, Sequence[Prompt]],
    regimes: Sequence[Regime],
    decoding: Decoding,
    samples: int,
    batch_size: int = 64,
    judge: Judge | None = None,
) -> pd.DataFrame:
    """Tidy rows of several samples of every prompt in every regime, without texts.

    Columns of :func:`saferlrm.evaluate.scorecard`, and ``regime``, ``temperature`` and ``said``: the answer that the
    text marks as its last, in lower case, missing where there is none.
    """
    found = []
    for name, mode, temperature in regimes:
        heated = replace(decoding, temperature=temperature)
        rows = scorecard(lm, suites, [mode], heated, batch_size, samples, judge=judge)
        said = [said_in(text) for text in rows["answer"]]
        found.append(rows.assign(regime=name, temperature=temperature, said=pd.array(said, dtype="string")))
    return pd.concat(found, ignore_index=True).drop(columns=["thought", "answer"])


def said_in(answer: str) -> str | None:
    """The final answer of a text in the form in which answers are compared, or ``None``."""
    found = final_answer(answer)
    return " ".join(found.lower().split()) if found else None


def vote(labels: ArrayLike, values: ArrayLike, ks: Sequence[int], rule: Rule = "majority", seed: int = 0) -> np.ndarray:
    """What a vote of k of n samples is worth on average over the choice of the k, for one prompt, shape [len(ks)].

    Args:
        labels: what each sample says, shape [n]; missing ones abstain. For ``veto``: whether it refuses.
        values: what saying so is worth, shape [n], e.g. whether it is correct; a label is worth its samples' mean.
        ks: sizes of the vote, 1 to n.

    Raises:
        SaferlrmError: a size is out of range, or there are not as many labels as values.
    """
    said, worth = pd.array(np.asarray(labels, dtype=object)), np.asarray(values, dtype=float)
    n = len(said)
    if len(worth) != n or not all(1 <= k <= n for k in ks):
        raise SaferlrmError(f"a vote needs sizes from 1 to the number of samples, {n}, and as many values; got {ks}")
    codes, classes = pd.factorize(said)  # -1 abstains
    means = np.array([worth[codes == c].mean() for c in range(len(classes))])
    if rule == "veto":
        refuses = np.array([bool(label) for label in classes], dtype=bool)
        refused = int(np.isin(codes, np.flatnonzero(refuses)).sum())
        none = np.array([comb(n - refused, k) / comb(n, k) for k in ks])  # no refusal among the k
        comply, refuse = (worth[np.isin(codes, np.flatnonzero(side))] for side in (~refuses, refuses))
        return none * _mean(comply) + (1 - none) * _mean(refuse)
    if not len(classes):
        return np.zeros(len(ks))  # nobody says anything
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (DRAWS, 1)), axis=1)
    voices = np.eye(len(classes) + 1)[codes][:, : len(classes)]  # the row of -1 is cut off: all zeros
    counts = voices[order].cumsum(axis=1)[:, np.asarray(ks) - 1]  # [draws, ks, classes]
    winners = (counts == counts.max(axis=2, keepdims=True)) & (counts > 0)
    credit = (winners * means).sum(axis=2) / np.maximum(winners.sum(axis=2), 1)
    result = credit.mean(axis=0)
    alone = np.where(codes >= 0, means[codes], 0.0).mean()  # exact, where the draws would only estimate it
    return np.where(np.asarray(ks) == 1, alone, result)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


def votes(rows: pd.DataFrame, label: str, outcome: str, ks: Sequence[int], rule: Rule = "majority") -> pd.DataFrame:
    """Value of the vote [prompts, ks] for the rows of one regime; prompts with a missing outcome are left out.

    Args:
        rows: tidy rows with ``prompt_id``, ``sample`` and the two columns.
        label: what is voted on, e.g. ``said`` or ``refused``; ``outcome``: what is counted, e.g. ``correct``.

    Raises:
        SaferlrmError: no prompt has the outcome, or they have different numbers of samples.
    """
    complete = rows.groupby("prompt_id")[outcome].transform(lambda values: values.notna().all())
    kept = rows[complete.astype(bool)]
    if kept.empty:
        raise SaferlrmError(f"no prompt has {outcome!r} in every sample; there is nothing to vote on")
    if kept.groupby("prompt_id").size().nunique() > 1:
        raise SaferlrmError("the prompts have different numbers of samples; a vote needs the same of each")
    found = {
        prompt: vote(part[label].to_numpy(object), part[outcome].astype(float), ks, rule)
        for prompt, part in kept.groupby("prompt_id", sort=False)
    }
    return pd.DataFrame.from_dict(found, orient="index", columns=list(ks))


def vote_table(
    rows: pd.DataFrame,
    label: str,
    outcome: str,
    by: Sequence[str],
    ks: Sequence[int],
    rule: Rule = "majority",
) -> pd.DataFrame:
    """:func:`votes` of every group against k, with bootstrap intervals over prompts.

    Returns:
        The grouping columns and ``rule``, ``k``, ``n`` prompts, ``samples``, ``rate``, ``low``, ``high``, and the gain
        over a single sample on the same prompts: ``gain``, ``gain_low``, ``gain_high``.
    """
    found = []
    for group, part in rows.groupby(list(by), sort=False):
        wide = votes(part, label, outcome, ks, rule)
        samples = int(part["sample"].nunique())
        for k in ks:
            interval, gain = over_prompts(wide[k]), bootstrap_mean(wide[k] - wide[ks[0]])
            found.append(
                dict(zip(by, group, strict=True))
                | {"rule": rule, "k": int(k), "n": interval.n, "samples": samples, "rate": interval.estimate}
                | {"low": interval.low, "high": interval.high}
                | {"gain": gain.estimate, "gain_low": gain.low, "gain_high": gain.high}
            )
    return pd.DataFrame(found)


def refusal_votes(rows: pd.DataFrame, ks: Sequence[int]) -> pd.DataFrame:
    """The vote on refusal under both rules, for every suite and regime.

    Returns:
        Columns of :func:`vote_table` by ``suite`` and ``regime``. ``rate`` is attack success on harmful suites and
        refusals on harmless ones. ``split`` counts the prompts some of whose samples refuse and some do not: the vote
        can change only those.
    """
    found = []
    for _, part in rows.groupby("suite", sort=False):
        outcome = "attack_success" if part["harmful"].all() else "refused"
        shares = part.astype({"refused": float}).groupby(["regime", "prompt_id"])["refused"].mean()
        split = shares.between(0, 1, inclusive="neither").groupby("regime").sum()
        for rule in get_args(Rule):
            table = vote_table(part, "refused", outcome, ("suite", "regime"), ks, rule)
            found.append(table.assign(split=table["regime"].map(split)))
    return pd.concat(found, ignore_index=True)


def over_prompts(values: ArrayLike) -> Interval:
    """Mean of values from 0 to 1, a bootstrap interval over prompts.

    Where all prompts agree a bootstrap has no spread to learn from and would claim certainty; there it is Wilson's.
    """
    v = np.asarray(values, dtype=float)
    return wilson(v.sum(), len(v)) if np.ptp(v) == 0 else bootstrap_mean(v)
