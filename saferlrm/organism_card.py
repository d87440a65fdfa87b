"""What alignment does on every organism, in rates: safety, over-refusal, problems solved, and what is still thought."""

from __future__ import annotations

import pandas as pd

from saferlrm.crossed import crossed_rates
from saferlrm.plots.measures import condition_name
from saferlrm.suites.synthetic import REASONING

# What a setting is called: the suite, and the column that is counted.
SETTINGS = {
    "attack success, unseen": ("harmful_unseen", "attack_success"),
    "attack success, unseen jailbreaks": ("harmful_novel_wrapped", "attack_success"),
    "refused, safe but scary": ("safe_but_scary", "refused"),
    "refused, benign in unseen jailbreaks": ("benign_novel_wrapped", "refused"),
    "problems solved": (REASONING, "correct"),
    "requests thought about, harmful": ("harmful_unseen", "thinks"),
    "requests thought about, unseen jailbreaks": ("harmful_novel_wrapped", "thinks"),
    "requests thought about, safe but scary": ("safe_but_scary", "thinks"),
    "problems thought about": (REASONING, "thinks"),
}


def organism_card(rows: pd.DataFrame) -> pd.DataFrame:
    """Rates by organism and model, thinking on, with intervals over prompts and alignment seeds.

    Args:
        rows: tidy rows of :meth:`saferlrm.study.Study.organisms`, with ``organism`` and ``base`` (the condition).

    Returns:
        ``organism``, ``base``, ``label`` (both in words), ``setting``, ``rate``, ``low``, ``high``, ``n`` (prompts),
        ``seeds``.
    """
    part = rows[rows["mode"] == "on"]
    part = part.assign(thinks=part["n_thought_tokens"] > 0)
    tables = []
    for setting, (suite, metric) in SETTINGS.items():
        found = crossed_rates(part[part["suite"] == suite], metric, ("organism", "base"))
        tables.append(found.assign(setting=setting))
    table = pd.concat(tables, ignore_index=True)
    order = {pair: at for at, pair in enumerate(part.groupby(["organism", "base"], sort=False).groups)}
    pairs = pd.Series([order[pair] for pair in zip(table["organism"], table["base"], strict=True)])
    table = table.loc[pairs.sort_values(kind="stable").index].reset_index(drop=True)
    named = table["base"].map(condition_name)
    table["label"] = "organism " + table["organism"].astype(str) + ", " + named
    return table[["organism", "base", "label", "setting", "rate", "low", "high", "n", "seeds"]]
