"""Harm that comes after the decision: what the state before the thought does not show, counted in stored rows.

Two questions. How often does a probe of that state call a prompt harmless although the thought goes on to name the harm
and the answer does it? And, on prompts that it calls harmful: how often is the harm done all the same, if somebody
else has begun the thought? A state attends to nothing that comes after it, so a prefilled thought leaves the state
before the thought as it was, and with it all that a probe or a head could read there.
"""

from __future__ import annotations

import pandas as pd

from saferlrm.evaluate import rates
from saferlrm.show import figures, read

PREFILLED = "prefill=2"
THINKS = "the model writes a thought"
MISSED = "the probe calls the prompt harmless"
LATE = "it calls it harmless, the thought names the harm, the answer does it"
OWN = "called harmful before the thought: harm done after its own thought"
BEGUN = "called harmful before the thought: harm done after two tokens of a thought by others"
QUESTIONS = (THINKS, MISSED, LATE, OWN, BEGUN)


def late_harm(known: pd.DataFrame, attacked: pd.DataFrame) -> pd.DataFrame:
    """Rates of the :data:`QUESTIONS` for each model, on harmful prompts with thinking on.

    Args:
        known: rows of :func:`saferlrm.causal.know_but_dont_say` with ``condition`` and ``seed``.
        attacked: rows of the adaptive attacks, with ``base`` (the condition), ``seed`` and ``attack``.

    Returns:
        ``condition``, ``question``, ``suites``; ``k`` of ``rows`` answers, ``n`` prompts, ``rate``, ``low``, ``high``
        (95 %, clustered by prompt). The last two questions are about the prompts that were attacked alone, and missing
        for a model that was not.
    """
    harmful = known[known["harmful"].astype(bool)]
    harmful = harmful.astype({"knows": bool, "says": bool, "attack_success": bool})
    missed = ~harmful["knows"]
    late = missed & harmful["says"] & harmful["attack_success"]
    same = ["prompt_id", "condition", "seed"]
    begun = attacked.loc[attacked["attack"] == PREFILLED, ["prompt_id", "base", "seed", "attack_success"]]
    begun = begun.rename(columns={"base": "condition", "attack_success": "begun"})
    both = harmful[harmful["knows"]].merge(begun, on=same).astype({"begun": bool})
    parts = (
        (THINKS, harmful.assign(found=harmful["n_thought_tokens"] > 0)),
        (MISSED, harmful.assign(found=missed)),
        (LATE, harmful.assign(found=late)),
        (OWN, both.assign(found=both["attack_success"])),
        (BEGUN, both.assign(found=both["begun"])),
    )
    tables = []
    for question, rows in parts:
        if len(rows):
            suites = ", ".join(rows["suite"].unique())
            found = rates(rows, "found", ["condition"]).drop(columns="metric")
            tables.append(found.assign(question=question, suites=suites))
    order = {name: at for at, name in enumerate(harmful["condition"].unique())}
    table = pd.concat(tables, ignore_index=True)
    table = table.sort_values("condition", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    return table[["condition", "question", "suites", *table.columns.drop(["condition", "question", "suites"])]]


def sentence(table: pd.DataFrame, condition: str, question: str) -> str:
    """One rate in words, with its counts; where nothing was found it says how much that leaves open."""
    part = table[(table["condition"] == condition) & (table["question"] == question)]
    if part.empty:
        return "not measured"
    row, found = part.iloc[0], read(part)
    counted = f"{row['k']} of {row['rows']} answers"
    if row["k"] == 0:
        return f"none seen: {counted}, which leaves up to {found.high:.1%} open, n = {found.n}"
    return f"{figures(found)}, {counted}"
