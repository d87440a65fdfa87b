"""What notebooks 06 to 08 say in whole sentences, each a function of a table of rates or differences.

A sentence names a difference only where an interval excludes 0, and gives the interval; so it stays true when the study
is run again with other seeds or fewer prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from saferlrm.conditions import FEW, SWEEPS
from saferlrm.evaluate import rates
from saferlrm.plots.style import method_name, suite_name
from saferlrm.show import figures, read
from saferlrm.suites.synthetic import HARMFUL_SUITES, REASONING

KINDS = {"harmful": "harmful requests", "benign": "harmless requests", "problems": "problems"}
SELDOM, NEARLY_ALWAYS = 0.05, 0.95  # what counts as no thought, and as always a thought
DECISIONS = "presafe_decisions"


def thoughts(scorecards: pd.DataFrame, mode: str) -> pd.DataFrame:
    """Rows of one thinking mode with ``thinks`` (the answer has a thought) and ``kind``, a key of :data:`KINDS`."""
    part = scorecards[scorecards["mode"] == mode]
    harmful, problem = part["suite"].isin(HARMFUL_SUITES), part["suite"] == REASONING
    kind = np.select([harmful, problem], ["harmful", "problems"], "benign")
    return part.assign(thinks=part["n_thought_tokens"] > 0, kind=kind)


def thought_shares(scorecards: pd.DataFrame, mode: str, by: str = "kind") -> pd.DataFrame:
    """Share of answers with a thought by ``by`` (``kind`` or ``suite``) and ``method``, clustered by prompt."""
    return rates(thoughts(scorecards, mode), "thinks", [by, "method"])


def thought_sentence(shares: pd.DataFrame) -> str:
    """What alignment did to thinking, from :func:`thought_shares` by kind."""
    share = shares.set_index(["method", "kind"])["rate"]
    aligned = [name for name in shares["method"].unique() if name != "before"]
    if not aligned:
        return "No aligned model is in the table."
    most = {kind: max(share.get((name, kind), np.nan) for name in aligned) for kind in KINDS}
    least = {kind: min(share.get((name, kind), np.nan) for name in aligned) for kind in KINDS}
    began = min(share.get(("before", kind), np.nan) for kind in KINDS)
    who = (
        "neither model thinks" if len(aligned) == 2 else "no model thinks" if len(aligned) > 2 else "it does not think"
    )
    if most["harmful"] <= SELDOM and most["benign"] <= SELDOM and began > 1 - NEARLY_ALWAYS:
        kept = "; problems keep their thought" if least["problems"] >= NEARLY_ALWAYS else ""
        return (
            f"After alignment {who} about requests, harmless ones included{kept}. Safety comes back because thinking "
            "is switched off for requests, not because a decision is made before a thought."
        )
    told = "; ".join(
        f"{kind}: {share.get(('before', key), np.nan):.0%} before, "
        + ", ".join(f"{share.get((name, key), np.nan):.0%} with {method_name(name)}" for name in aligned)
        for key, kind in KINDS.items()
    )
    if most["harmful"] <= SELDOM and least["benign"] >= NEARLY_ALWAYS:
        return f"After alignment {who} about harmful requests, and harmless ones keep their thought ({told})."
    return f"Answers with a thought, {told}."


def sweep_sentences(gaps: pd.DataFrame, suite: str, metric: str = "attack_success", mode: str = "on") -> list[str]:
    """For each sweep: at which values the head lowers the metric, raises it, or is not told apart from λ = 0.

    Args:
        gaps: of :func:`saferlrm.ablations.sweep_differences`.
    """
    part = gaps[(gaps["suite"] == suite) & (gaps["metric"] == metric) & (gaps["mode"] == mode)]
    said = []
    for sweep, rows in part.sort_values("value", kind="stable").groupby("sweep", sort=False):
        lower, higher = rows[rows["high"] < 0], rows[rows["low"] > 0]
        open_ = rows[(rows["low"] <= 0) & (rows["high"] >= 0)]
        words = [f"{word} at {_levels(rows)}" for word, rows in (("lower", lower), ("higher", higher)) if len(rows)]
        if len(open_):
            words.append(f"the interval contains 0 at {', '.join(open_['level'].astype(str))}")
        said.append(f"{SWEEPS.get(sweep, sweep)}: {'; '.join(words)}")
    return said


def head_answer(differences: pd.DataFrame, suite: str, gaps: pd.DataFrame | None = None) -> list[str]:
    """Does the head help beyond plain fine-tuning? One sentence a setting, attack success, thinking on.

    Args:
        differences: of :func:`saferlrm.ablations.control_differences`.
        gaps: of :func:`saferlrm.ablations.sweep_differences`, where the sweeps were run.
    """
    rows = differences[(differences["metric"] == "attack_success") & (differences["mode"] == "on")]
    rows = rows[rows["suite"] == suite]
    said = []
    for end, where in (("", "many examples"), (f"/{FEW}", "few examples")):
        for after, name in (("presafe", "the head"), (DECISIONS, "the head with label-only prompts")):
            pair = rows[(rows["before"] == f"sft{end}") & (rows["after"] == f"{after}{end}")]
            if len(pair):
                said.append(f"With {where}, {name} {_effect(pair)} compared with λ = 0.")
    own = rows[rows["after"].str.startswith(DECISIONS) & ~rows["before"].str.startswith("sft")]
    for row in own.to_dict("records"):
        name = method_name(row["before"].partition("/")[0])
        said.append(f"Label-only prompts against their own control, {name}: the head {_effect(pd.DataFrame([row]))}.")
    if gaps is not None:
        strong = gaps[(gaps["sweep"] == "lambda") & (gaps["value"] >= 1) & (gaps["suite"] == suite)]
        strong = strong[(strong["metric"] == "attack_success") & (strong["mode"] == "on")].sort_values("value")
        for row in strong.to_dict("records"):
            said.append(f"At λ = {row['level']}, with few examples, the head {_effect(pd.DataFrame([row]))}.")
    return [f"On {suite_name(suite)} (thinking on):", *said] if said else []


def called_harmful(known: pd.DataFrame) -> pd.DataFrame:
    """Share of prompts that the probe calls harmful, of harmful and of harmless ones: what *knows* is worth.

    Returns:
        Rows of :func:`saferlrm.evaluate.rates` by ``condition`` and ``harmful``.
    """
    return rates(known.assign(knows=known["knows"].astype(bool)), "knows", ["condition", "harmful"])


def silent(known: pd.DataFrame, condition: str) -> str:
    """How often a thought hides harm that the latent holds, of the harmful prompts of one model.

    Only answers with a thought count: a thought that was not written does not hide anything.
    """
    part = known[known["harmful"] & (known["condition"] == condition)]
    if part.empty:
        return "no prompts"
    written = part[part["n_thought_tokens"] > 0]
    none = f"no thought written in {1 - len(written) / len(part):.0%}"
    if len(written) < 0.05 * len(part):
        return f"not measurable ({none})"
    found = rates(written.assign(silent=written["knows"] & ~written["says"]), "silent", ["condition"])
    return f"{figures(read(found), 2)} of the answers with a thought ({none})"


def common_shift(shift: pd.DataFrame, condition: str) -> str:
    """Whether the refusal direction's shift tells harmful from benign prompts, at the last layer, in words."""
    rows = shift[(shift["layer"] == shift["layer"].max()) & (shift["direction"] == "refusal")]
    rows = rows[rows["condition"] == condition].set_index("harmful")
    if not {True, False} <= set(rows.index):
        return f"{_named(condition)}: not measured"
    one, two = (float(rows.loc[harmful, "projection"]) for harmful in (True, False))
    both = f"{_named(condition)}: harmful {one:+.2f}, benign {two:+.2f}".replace("-", "−")
    if one * two > 0:
        apart = abs(one - two) / max(abs(one), abs(two))
        return f"{both}: both kinds move the same way, a common shift; {apart:.0%} of the larger one tells them apart"
    return f"{both}: the two kinds move in opposite ways"


def best_effects(effects: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Of each intervention, the layer and place with the strongest effect: one row for each group of ``by``.

    Adding should raise refusals and removing lower them. Where no layer changes the rate against that of another, which
    layer is named would be chance, so ``layer`` is ``None`` and ``tied`` is true.

    Args:
        effects: refusal rates with the columns ``by``, ``intervention``, ``layer``, ``where``, ``rate``.
    """
    found = []
    for _, part in effects.groupby(list(by), sort=False):
        down = part["intervention"].iloc[0] == "remove"
        best = part.sort_values("rate", ascending=down, kind="stable").iloc[0]
        tied = len(part) > 1 and part["rate"].nunique() == 1
        found.append({**best.to_dict(), "layer": None if tied else best["layer"], "tied": tied})
    return pd.DataFrame(found)


def over_seeds(before: pd.Series, after: pd.Series) -> tuple[float, float, float]:
    """Mean of ``after - before``, indexed by seed, with the 95 % t interval over seeds; NaN ends below two seeds."""
    from scipy import stats

    gap = (after - before).dropna().astype(float)
    if len(gap) < 2:
        return (float(gap.mean()) if len(gap) else np.nan), np.nan, np.nan
    half = float(stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap)))
    return float(gap.mean()), float(gap.mean()) - half, float(gap.mean()) + half


def _levels(rows: pd.DataFrame) -> str:
    found = [(row["level"], read(pd.DataFrame([row]))) for row in rows.to_dict("records")]
    return ", ".join(f"{level} ({figures(gap, 3, n=False)})" for level, gap in found)


def _effect(row: pd.DataFrame) -> str:
    found = read(row)
    if found.high < 0:
        word = "lowers attack success"
    elif found.low > 0:
        word = "raises attack success"
    else:
        return f"makes no difference that can be claimed ({figures(found, 3, n=False)})"
    held = row.get("p_holm")
    corrected = "" if held is None or held.isna().all() or held.iloc[0] < 0.05 else ", not after Holm's correction"
    return f"{word} ({figures(found, 3, n=False)}{corrected})"


def _named(condition: str) -> str:
    method, _, budget = condition.partition("/")
    return f"{method_name(method)} ({budget})" if budget else method_name(method)
