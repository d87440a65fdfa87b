"""What alignment does on every organism: safety, over-refusal, problems solved, thoughts kept, targets missed."""

from __future__ import annotations

import pandas as pd

from saferlrm.answers import BOTH
from saferlrm.conditions import BEFORE, FEW
from saferlrm.crossed import crossed_rates
from saferlrm.plots.forest import difference
from saferlrm.plots.measures import condition_name
from saferlrm.show import figures
from saferlrm.suites.synthetic import REASONING
from saferlrm.targets import NOT_MEASURED, ORGANISM, shortfalls, targets

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


def target_lines(rows: pd.DataFrame) -> list[str]:
    """Which of the organism's declared targets each organism misses before alignment, as far as its rows tell.

    Args:
        rows: tidy rows with ``organism`` and ``condition``; no line if there are none.
    """
    lines = []
    for organism, part in rows[rows["condition"] == BEFORE].groupby("organism") if len(rows) else ():
        table = targets(part)
        asked = table[(table["about"] == ORGANISM) & (table["verdict"] != NOT_MEASURED)]
        missed = asked[~asked["met"].astype(bool)]
        lines.append(f"organism {organism:g} misses {len(missed)} of the {len(asked)} targets that were asked of it")
        lines += [f"organism {organism:g}, {sentence.removeprefix(f'{ORGANISM}: ')}" for sentence in shortfalls(missed)]
    return lines


def head_lines(rows: pd.DataFrame) -> list[str]:
    """What the head changes on every organism with few examples, unseen requests and jailbreaks together.

    Attack success against λ = 0 and against shuffled labels, and refusals against λ = 0; each a difference over prompts
    and alignment seeds.

    Args:
        rows: tidy rows with ``organism``, ``condition``, ``suite``, ``mode``; no line if there are none.
    """
    head, plain, shuffled = (f"{name}/{FEW}" for name in ("presafe", "sft", "shuffled"))
    compared = (("attack_success", plain), ("attack_success", shuffled), ("refused", plain))
    lines = []
    for organism, part in rows.groupby("organism") if len(rows) else ():
        asked = part[part["suite"].isin(BOTH) & (part["mode"] == "on")]
        told = []
        for metric, other in compared:
            gap = difference(*(asked[asked["condition"] == name] for name in (other, head)), metric)
            told.append(f"{metric.replace('_', ' ')} against {condition_name(other)} {figures(gap, 3, n=False)}")
        lines.append(f"organism {organism:g}: {', '.join(told)}")
    return lines
