"""A model's scorecard: every prompt of every suite, in every thinking mode, answered and judged.

The scorecard is tidy: one row per prompt × mode, so that every rate and interval can be recomputed from it. All modes
share their decoding settings and their judge; only the prefix differs.

What counts (definitions of XSTest, arXiv 2308.01263, where there are partial refusals): over-refusal counts full and
partial refusals, attack success counts compliance alone. So a partial refusal of a harmful request is neither safe for
certain nor a success; the column ``verdict`` keeps it apart. An answer on which the judge failed is missing in every
rate, and counted beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from saferlrm.chat import ThinkingMode
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Decoding, answer
from saferlrm.judges.types import UNSURE, Judge, Judgement
from saferlrm.judges.world import WorldJudge
from saferlrm.lm import LanguageModel
from saferlrm.stats import Interval, paired_difference, rate
from saferlrm.suites.types import Prompt

METRICS = ("attack_success", "refused", "correct", "truncated")


def scorecard(
    lm: LanguageModel,
    suites: Mapping[str, Sequence[Prompt]],
    modes: Iterable[ThinkingMode],
    decoding: Decoding,
    batch_size: int = 64,
    samples: int = 1,
    openings: Mapping[str, str] | None = None,
    judge: Judge | None = None,
) -> pd.DataFrame:
    """Answers and judges every prompt in every mode.

    Args:
        samples: answers drawn for each prompt; more than one needs a temperature above 0.
        openings: by prompt id, how its thought begins; see :func:`saferlrm.generate.answer`.
        judge: who judges the answers; by default the rules of the organism's world.

    Returns:
        One row per prompt and mode: the prompt's labels (``prompt_id``, ``suite``, ``family``, ``topic``, ``depth``,
        ``harmful``), ``mode``, ``verdict``, ``refused``, ``attack_success`` (harmful prompts, else missing),
        ``correct`` (problems, else missing), ``truncated``, ``sample``, ``n_thought_tokens``, ``n_tokens``,
        ``thought``, ``answer``. Where the judge failed, ``refused`` and ``attack_success`` are missing and ``unjudged``
        says why (also where it is not sure that an answer is ``correct``); where it grades, ``harm_score`` is the
        grade. These two columns are there only if they say something.
    """
    judge = judge or WorldJudge()
    if samples > 1 and decoding.temperature == 0:
        raise SaferlrmError(f"{samples} samples at temperature 0 are all the same; set decoding.temperature")
    prompts = [prompt for suite in suites.values() for prompt in suite]
    drawn = [(prompt, sample) for sample in range(samples) for prompt in prompts]
    texts = [prompt.text for prompt, _ in drawn]
    begun = None if openings is None else [openings.get(prompt.id, "") for prompt, _ in drawn]
    rows = []
    for mode in modes:
        replies = answer(lm, texts, mode, decoding, batch_size, progress=f"thinking {mode}", openings=begun)
        judgements = judge([prompt for prompt, _ in drawn], replies)
        for (prompt, sample), reply, judgement in zip(drawn, replies, judgements, strict=True):
            rows.append(
                {
                    "prompt_id": prompt.id,
                    "suite": prompt.suite,
                    "family": prompt.family,
                    "topic": prompt.topic,
                    "depth": prompt.depth,
                    "harmful": prompt.harmful,
                    "mode": mode,
                    "sample": sample,
                    "verdict": judgement.verdict,
                    "refused": judgement.refused,
                    "attack_success": judgement.attack_success(prompt) if prompt.harmful else None,
                    "correct": judgement.correct,
                    "truncated": reply.truncated,
                    "n_thought_tokens": reply.n_thought_tokens,
                    "n_tokens": reply.n_tokens,
                    "thought": reply.thought,
                    "answer": reply.answer,
                }
                | _seldom(judgement)
            )
    table = pd.DataFrame(rows)
    types = {"attack_success": "boolean", "correct": "boolean", "depth": "Int64"}
    return table.astype(types | ({"refused": "boolean"} if "unjudged" in table else {}))


def _seldom(judgement: Judgement) -> dict[str, object]:
    """What only some judges say."""
    found = {"unjudged": judgement.why, "harm_score": judgement.score}
    return {name: value for name, value in found.items() if value is not None}


def rates(table: pd.DataFrame, metric: str, by: Sequence[str] = ("suite", "mode")) -> pd.DataFrame:
    """Share of rows for which ``metric`` holds, in each group, with its 95 % interval.

    Rows without the metric (``attack_success`` of benign prompts, say) do not count, nor do answers on which the judge
    failed; if there are any in ``table``, the column ``unjudged`` says how many in each group. Over-refusal is the rate
    of ``refused`` on suites of harmless prompts. Where a group holds several seeds, the interval is clustered by
    prompt: answers of several seeds to one prompt are alike.

    Returns:
        The grouping columns and ``metric``, ``k`` of ``rows``, ``n`` prompts, ``rate``, ``low``, ``high``. A group in
        which the judge failed on every answer has no rate.
    """
    rows = []
    present = table[table[metric].notna()]
    failed = table[unjudged(table, metric)]
    lost = failed.groupby(list(by), observed=True, sort=False).size().to_dict() if len(failed) else {}
    lost = {key if isinstance(key, tuple) else (key,): int(n) for key, n in lost.items()}
    for group, part in present.groupby(list(by), observed=True, sort=False):
        interval = _rate(part, metric)
        rows.append(
            dict(zip(by, group, strict=True))
            | {"metric": metric, "k": int(part[metric].sum()), "rows": len(part), "n": interval.n}
            | {"rate": interval.estimate, "low": interval.low, "high": interval.high}
            | ({"unjudged": lost.pop(group, 0)} if len(failed) else {})
        )
    for group, n in lost.items():
        nothing = {"metric": metric, "k": 0, "rows": 0, "n": 0, "rate": np.nan, "low": np.nan, "high": np.nan}
        rows.append(dict(zip(by, group, strict=True)) | nothing | {"unjudged": n})
    return pd.DataFrame(rows)


def unjudged(table: pd.DataFrame, metric: str = "refused") -> pd.Series:
    """Which rows [n] lack ``metric`` because the judge failed on them, or was not sure."""
    if metric == "correct":
        return table["unjudged"] == UNSURE if "unjudged" in table else pd.Series(False, table.index)
    if "verdict" not in table:
        return pd.Series(False, table.index)
    failed = (table["verdict"] == "unjudged") & table[metric].isna()
    return failed & table["harmful"].astype(bool) if metric == "attack_success" else failed


def _matrix(part: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Outcomes [prompts, seeds], missing where a filter removed the row."""
    return part.astype({metric: float}).pivot_table(index="prompt_id", columns="seed", values=metric)


def _rate(part: pd.DataFrame, metric: str) -> Interval:
    if "seed" in part and part["seed"].nunique() > 1:
        wide = _matrix(part, metric)
        # Where a filter left some prompts with fewer seeds, each prompt counts once, with its mean.
        return rate((wide.mean(axis=1) if wide.isna().any(axis=None) else wide).to_numpy())
    return rate(part[metric].astype(float).to_numpy())


def compare(
    table: pd.DataFrame, metric: str, before: str, after: str, by: Sequence[str] = ("suite", "mode")
) -> pd.DataFrame:
    """``after`` minus ``before`` (names of methods) in the rate of ``metric``, paired by prompt.

    Prompts with an answer on which the judge failed are left out; a group without any other has no row.

    Returns:
        The grouping columns and ``metric``, ``before``, ``after``, ``difference``, ``low``, ``high`` (95 %), ``n``.
    """
    rows = []
    present = table[table[metric].notna() & table["method"].isin([before, after])]
    for group, part in present.groupby(list(by), observed=True, sort=False):
        one, two = (_matrix(part[part["method"] == method], metric) for method in (before, after))
        if unjudged(table, metric).any():  # a prompt is compared only where every answer of both was judged
            one, two = one.dropna(), two.dropna()
            one = one.loc[one.index.intersection(two.index)]
            if one.empty:
                continue
        interval = paired_difference(one.to_numpy(), two.loc[one.index].to_numpy())
        rows.append(
            dict(zip(by, group, strict=True))
            | {"metric": metric, "before": before, "after": after, "difference": interval.estimate}
            | {"low": interval.low, "high": interval.high, "n": interval.n}
        )
    return pd.DataFrame(rows)


def on_topic(table: pd.DataFrame, by: Sequence[str] = ("suite", "mode")) -> pd.DataFrame:
    """Of the harmful prompts that were not refused: the share whose answer is about what was asked for.

    The rest is substitution (an answer about something else), babble or truncation.
    """
    complied = table[(table["harmful"] & ~table["refused"]).fillna(False).astype(bool)]
    return rates(complied.assign(on_topic=complied["attack_success"]), "on_topic", by)
