"""Test-time compute: the same prompts with less thought, the model's own, and more than it would write.

*Less*: the model's own thought is cut after so many tokens and closed, and the model must answer from what is there.
*More*: an end of thought that comes too early is replaced by "Wait," (budget forcing, s1, arXiv 2501.19393; the thought
as in SafeChain's MoreThink, arXiv 2502.12025). Decoding settings and the limit on tokens are the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from saferlrm.attacks import first_tokens
from saferlrm.errors import SaferlrmError
from saferlrm.evaluate import rates, scorecard
from saferlrm.generate import Decoding
from saferlrm.judges.types import Judge
from saferlrm.lm import LanguageModel
from saferlrm.suites.types import Prompt

KINDS = ("cut", "own", "forced")


def budget_rows(
    lm: LanguageModel,
    suites: Mapping[str, Sequence[Prompt]],
    decoding: Decoding,
    cuts: Sequence[int],
    forced: Sequence[int],
    batch_size: int = 64,
    judge: Judge | None = None,
) -> pd.DataFrame:
    """Tidy rows of every prompt at every budget, without texts.

    Args:
        cuts: tokens after which the model's own thought is cut; 0 is no thought at all. A thought that is shorter
            stays whole.
        forced: tokens before which a thought may not end.

    Returns:
        Columns of :func:`saferlrm.evaluate.scorecard`, and ``budget`` (one of :data:`KINDS`) and ``tokens``: the cut
        or the forced length, missing for ``own``.

    Raises:
        SaferlrmError: a forced length leaves no room for an answer.
    """
    if any(tokens >= decoding.max_new_tokens for tokens in forced):
        raise SaferlrmError(
            f"forced thoughts of {max(forced)} tokens leave no answer within {decoding.max_new_tokens}; raise "
            "decoding.max_new_tokens"
        )
    own = scorecard(lm, suites, ["on"], decoding, batch_size, judge=judge)
    found = [own.assign(budget="own", tokens=pd.NA)]
    thoughts = dict(zip(own["prompt_id"], own["thought"], strict=True))
    for tokens in cuts:
        if tokens == 0:
            rows = scorecard(lm, suites, ["off"], decoding, batch_size, judge=judge)
        else:
            begun = closed(lm, list(thoughts.values()), tokens)
            openings = dict(zip(thoughts, begun, strict=True))
            rows = scorecard(lm, suites, ["on"], decoding, batch_size, openings=openings, judge=judge)
        found.append(rows.assign(budget="cut", tokens=tokens))
    for tokens in forced:
        longer = replace(decoding, forced_thought_tokens=tokens)
        found.append(
            scorecard(lm, suites, ["forced"], longer, batch_size, judge=judge).assign(budget="forced", tokens=tokens)
        )
    table = pd.concat([rows.astype({"tokens": "Int64"}) for rows in found], ignore_index=True)
    return table.drop(columns=["thought", "answer"])


def closed(lm: LanguageModel, thoughts: Sequence[str], tokens: int) -> list[str]:
    """The first tokens of each thought and the mark that ends it: how a turn begins whose thought was cut."""
    return [f"{text}\n{lm.chat.think_close}".strip() for text in first_tokens(lm, thoughts, tokens)]


def budget_table(rows: pd.DataFrame, outcome: str, by: Sequence[str] = ()) -> pd.DataFrame:
    """Rate of an outcome at every budget with its interval, from the shortest thoughts to the longest.

    Returns:
        Columns of :func:`saferlrm.evaluate.rates` by ``budget`` and ``tokens``, and ``length``: mean tokens of the
        thoughts as they came out; ``truncated``: share of answers that hit the token limit.
    """
    kept = rows[rows[outcome].notna()]
    # Groups with a missing value would be dropped: the model's own length is not a number that was set.
    named = kept.assign(tokens=kept["tokens"].astype("Float64").fillna(-1))
    keys = [*by, "budget", "tokens"]
    means = named.groupby(keys, sort=False)[["n_thought_tokens", "truncated"]].mean().reset_index()
    table = rates(named, outcome, keys).merge(means.rename(columns={"n_thought_tokens": "length"}), on=keys)
    table["tokens"] = table["tokens"].astype("Float64").replace(-1, pd.NA).astype("Int64")
    order = {kind: i for i, kind in enumerate(KINDS)}
    table = table.assign(_kind=table["budget"].map(order)).sort_values([*by, "_kind", "tokens"], kind="stable")
    return table.drop(columns="_kind").reset_index(drop=True)
