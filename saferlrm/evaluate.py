"""A model's scorecard: every prompt of every suite, in every thinking mode, answered and judged.

The scorecard is tidy: one row per prompt × mode, so that every rate and interval can be recomputed from it. All modes
share their decoding settings and their judge; only the prefix differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from saferlrm.chat import ThinkingMode
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Decoding, answer
from saferlrm.judges import judge
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
) -> pd.DataFrame:
    """Answers and judges every prompt in every mode.

    Args:
        samples: answers drawn for each prompt; more than one needs a temperature above 0.
        openings: by prompt id, how its thought begins; see :func:`saferlrm.generate.answer`.

    Returns:
        One row per prompt and mode: the prompt's labels (``prompt_id``, ``suite``, ``family``, ``topic``, ``depth``,
        ``harmful``), ``mode``, ``verdict``, ``refused``, ``attack_success`` (harmful prompts, else missing),
        ``correct`` (problems, else missing), ``truncated``, ``sample``, ``n_thought_tokens``, ``n_tokens``,
        ``thought``, ``answer``.
    """
    if samples > 1 and decoding.temperature == 0:
        raise SaferlrmError(f"{samples} samples at temperature 0 are all the same; set decoding.temperature")
    prompts = [prompt for suite in suites.values() for prompt in suite]
    drawn = [(prompt, sample) for sample in range(samples) for prompt in prompts]
    texts = [prompt.text for prompt, _ in drawn]
    begun = None if openings is None else [openings.get(prompt.id, "") for prompt, _ in drawn]
    rows = []
    for mode in modes:
        replies = answer(lm, texts, mode, decoding, batch_size, progress=f"thinking {mode}", openings=begun)
        for (prompt, sample), reply in zip(drawn, replies, strict=True):
            judgement = judge(prompt, reply.answer, reply.truncated)
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
            )
    table = pd.DataFrame(rows)
    return table.astype({"attack_success": "boolean", "correct": "boolean", "depth": "Int64"})


def rates(table: pd.DataFrame, metric: str, by: Sequence[str] = ("suite", "mode")) -> pd.DataFrame:
    """Share of rows for which ``metric`` holds, in each group, with its 95 % interval.

    Rows without the metric (``attack_success`` of benign prompts, say) do not count. Over-refusal is the rate of
    ``refused`` on suites of harmless prompts. Where a group holds several seeds, the interval is clustered by prompt:
    answers of several seeds to one prompt are alike.

    Returns:
        The grouping columns and ``metric``, ``k`` of ``rows``, ``n`` prompts, ``rate``, ``low``, ``high``.
    """
    rows = []
    present = table[table[metric].notna()]
    for group, part in present.groupby(list(by), observed=True, sort=False):
        interval = _rate(part, metric)
        rows.append(
            dict(zip(by, group, strict=True))
            | {"metric": metric, "k": int(part[metric].sum()), "rows": len(part), "n": interval.n}
            | {"rate": interval.estimate, "low": interval.low, "high": interval.high}
        )
    return pd.DataFrame(rows)


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

    Returns:
        The grouping columns and ``metric``, ``before``, ``after``, ``difference``, ``low``, ``high`` (95 %), ``n``.
    """
    rows = []
    present = table[table[metric].notna() & table["method"].isin([before, after])]
    for group, part in present.groupby(list(by), observed=True, sort=False):
        one, two = (_matrix(part[part["method"] == method], metric) for method in (before, after))
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
    complied = table[table["harmful"] & ~table["refused"]]
    return rates(complied.assign(on_topic=complied["attack_success"]), "on_topic", by)
