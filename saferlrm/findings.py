"""What notebooks 06 and 07 say in whole sentences, each a function of a table of rates or differences.

A sentence names a difference only where an interval excludes 0, and gives the interval; so it stays true when the study
is run again with other seeds or fewer prompts.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from saferlrm.conditions import FEW, SWEEPS
from saferlrm.crossed import contrasts
from saferlrm.evaluate import rates
from saferlrm.plots.measures import display_name as display_name  # notebooks find it beside their sentences
from saferlrm.plots.style import method_name, suite_name
from saferlrm.show import figures, read
from saferlrm.suites.synthetic import HARMFUL_SUITES, REASONING

KINDS = {"harmful": "harmful requests", "benign": "harmless requests", "problems": "problems"}
SELDOM, NEARLY_ALWAYS = 0.05, 0.95  # what counts as no thought, and as always a thought
DECISIONS = "presafe_decisions"
DIRECT = "harmful_unseen"  # direct requests


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
    if most["harmful"] <= SELDOM and most["benign"] <= SELDOM and began >= NEARLY_ALWAYS:
        kept = "; problems keep their thought" if least["problems"] >= NEARLY_ALWAYS else ""
        return (
            f"After alignment {who} about more than {SELDOM:.0%} of the harmful or of the harmless requests{kept}. "
            "Safety comes back as thoughts about requests go; whether the decision or the missing thought brings it, "
            "rates do not tell."
        )
    told = "; ".join(
        f"{kind}: {share.get(('before', key), np.nan):.0%} before, "
        + ", ".join(f"{share.get((name, key), np.nan):.0%} with {method_name(name)}" for name in aligned)
        for key, kind in KINDS.items()
        if key in set(shares["kind"])
    )
    if most["harmful"] <= SELDOM and least["benign"] >= NEARLY_ALWAYS:
        return (
            f"After alignment {who} about more than {SELDOM:.0%} of the harmful requests, and harmless ones keep their "
            f"thought ({told})."
        )
    return f"Answers with a thought, {told}."


def sweep_sentences(gaps: pd.DataFrame, suite: str, metric: str = "attack_success", mode: str = "on") -> list[str]:
    """For each sweep: at which values the head lowers the metric, raises it, or is not told apart from λ = 0.

    Args:
        gaps: of :func:`saferlrm.ablations.sweep_differences`.
    """
    part = gaps[(gaps["suite"] == suite) & (gaps["metric"] == metric) & (gaps["mode"] == mode)]
    said = []
    for sweep, found in part.groupby("sweep", sort=False):
        rows = found.sort_values("value", kind="stable")
        lower, higher = rows[rows["high"] < 0], rows[rows["low"] > 0]
        open_ = rows[(rows["low"] <= 0) & (rows["high"] >= 0)]
        words = [f"{word} at {_levels(rows)}" for word, rows in (("lower", lower), ("higher", higher)) if len(rows)]
        if len(open_):
            words.append(f"the interval contains 0 at {', '.join(open_['level'].astype(str))}")
        said.append(f"{SWEEPS.get(sweep, sweep)}: {'; '.join(words)}")
    return said


def head_answer(differences: pd.DataFrame, suite: str, gaps: pd.DataFrame | None = None) -> list[str]:
    """Does the head help beyond plain fine-tuning? One sentence a setting, attack success, thinking on.

    At large weights, where it does harm, on every suite: the worst is not left out.

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
        strong = gaps[(gaps["sweep"] == "lambda") & (gaps["value"] >= 1)]
        strong = strong[(strong["metric"] == "attack_success") & (strong["mode"] == "on")].sort_values("value")
        for row in strong.to_dict("records"):
            where = f"At λ = {row['level']}, with few examples, on {suite_name(row['suite'])}"
            said.append(f"{where}, the head {_effect(pd.DataFrame([row]))}.")
    return [f"On {suite_name(suite)} (thinking on):", *said] if said else []


def head_in_every_mode(table: pd.DataFrame, evaluation: pd.DataFrame) -> list[str]:
    """PreSafe minus λ = 0 in attack success, over all suites and thinking modes, by two standards.

    Named are the differences whose interval over prompts, given these alignment seeds, excludes 0; beside each the
    interval in which the seeds are a sample too, which is the one that a claim about the method needs.

    Args:
        table: paired differences over prompts, see :func:`saferlrm.evaluate.compare`; evaluation: the rows behind it.
    """
    rows = table[(table["before"] == "sft") & (table["after"] == "presafe") & (table["metric"] == "attack_success")]
    pair = evaluation.assign(condition=evaluation["method"])
    crossed = contrasts(pair[pair["attack_success"].notna()], "attack_success", [("sft", "presafe")])
    both = rows.merge(crossed, on=["suite", "mode"], suffixes=("", "_crossed"))
    apart = both[(both["low"] > 0) | (both["high"] < 0)]
    said = []
    for row in apart.to_dict("records"):
        own = read(pd.DataFrame([row]))
        wide = read(pd.DataFrame([{key: row[f"{key}_crossed"] for key in ("difference", "low", "high", "n")}]))
        said.append(
            f"{suite_name(row['suite'])}, {display_name(row['mode'])}: {figures(own, 3, n=False)} over prompts; "
            f"{figures(wide, 3, n=False)} over prompts and seeds"
        )
    seeds = int(((both["low_crossed"] > 0) | (both["high_crossed"] < 0)).sum())
    lower = int((apart["high"] < 0).sum())
    said.append(
        f"of {len(both)} comparisons, {lower} intervals over prompts show fewer attacks with the head and "
        f"{len(apart) - lower} more; {seeds} exclude 0 where seeds are a sample too, and "
        f"{int((both['p_holm'] < 0.05).sum())} after Holm's correction"
    )
    return said


def label_only_sentence(differences: pd.DataFrame, suite: str) -> str:
    """What prompts with a label and no answer do where answers are few, and what the same prompts do without the label.

    Direct requests (:data:`DIRECT`) stand beside ``suite``: what holds for jailbreaks need not hold for them.

    Args:
        differences: of :func:`saferlrm.ablations.control_differences`; empty words if it lacks them.
    """
    said = [_label_only(differences, name) for name in dict.fromkeys((suite, DIRECT))]
    return " ".join(text for text in said if text)


def _label_only(differences: pd.DataFrame, suite: str) -> str:
    rows = differences[(differences["metric"] == "attack_success") & (differences["mode"] == "on")]
    rows = rows[rows["suite"] == suite].set_index(["before", "after"])
    plain, own = f"sft/{FEW}", ("detached_decisions", "shuffled_decisions")
    if (plain, f"{DECISIONS}/{FEW}") not in rows.index:
        return ""
    said = []
    for name in own:
        found = read(rows.loc[[(plain, f"{name}/{FEW}")]])
        word = "lowers it too" if found.high < 0 else "raises it" if found.low > 0 else "cannot be told from λ = 0"
        said.append(f"*{method_name(name)}* {word} ({figures(found, 3, n=False)})")
    apart = [read(rows.loc[[(f"{name}/{FEW}", f"{DECISIONS}/{FEW}")]]) for name in own]
    decided = sum(gap.low > 0 or gap.high < 0 for gap in apart)
    gaps = " and ".join(figures(gap, 3, n=False) for gap in apart)
    held = [rows.loc[[(f"{name}/{FEW}", f"{DECISIONS}/{FEW}")]]["p_holm"].iloc[0] < 0.05 for name in own]
    return (
        f"On {suite_name(suite)}, with few answers, further prompts that carry a label and no answer, with more steps: "
        f"this {_effect(rows.loc[[(plain, f'{DECISIONS}/{FEW}')]])} against λ = 0. Of the controls with as many "
        f"steps, {' and '.join(said)}. What the head itself adds to them: {decided} of {len(apart)} intervals exclude "
        f"0 ({gaps}), {sum(held)} after Holm's correction."
    )


def bounds(rows: pd.DataFrame) -> str:
    """Of several differences, how many intervals exclude 0, and the largest fall and rise that they leave possible.

    Args:
        rows: differences with ``difference``, ``low``, ``high`` and ``suite``.
    """
    if rows.empty:
        return "not measured"
    low, high = rows.loc[rows["low"].idxmin()], rows.loc[rows["high"].idxmax()]
    fall, rise = (100 * max(0.0, value) for value in (-float(low["low"]), float(high["high"])))
    clear = int(((rows["low"] > 0) | (rows["high"] < 0)).sum())
    return (
        f"{clear} of {len(rows)} intervals exclude 0; at most, they leave room for a fall by {fall:.1f} points "
        f"({suite_name(low['suite'])}) and a rise by {rise:.1f} ({suite_name(high['suite'])})"
    )


def equal_labels(decisions: pd.DataFrame, gold: pd.Series) -> str:
    """How often what the model decided without thinking equals the gold label, on the alignment set.

    Args:
        decisions: of :meth:`saferlrm.study.aligning.Aligning.more_answers`; gold: in the same order, true for harmful.
    """
    same = decisions["refused"].astype(bool).to_numpy() == gold.astype(bool).to_numpy()
    words = "one control under two names" if same.all() else "nearly one control" if same.mean() >= 0.99 else "two"
    return f"hard decisions and gold labels: equal for {int(same.sum())} of {len(same)} examples, {words}"


def treatment_lines(table: pd.DataFrame) -> list[str]:
    """What the head learned and what it did to the weights, a sentence for each condition, means over seeds.

    Args:
        table: of :meth:`saferlrm.study.controls.Controls.treatment`.
    """
    said = []
    for condition, part in table.groupby("condition", sort=False):
        m = part.mean(numeric_only=True)
        way = (m["constant"] - m["last"]) / (m["constant"] - m["copy"])
        said.append(
            f"{display_name(condition)}: the head's loss ends at {m['last']:.2f}, {way:.0%} of the way from the best "
            f"constant ({m['constant']:.2f}) to a copy of its labels ({m['copy']:.2f}); it decides as its label in "
            f"{m['accuracy']:.0%} (majority {m['majority']:.0%}). The update of the weights differs from that of "
            f"{display_name(part['plain'].iloc[0])} by {m['distance']:.0%} of its length (cosine {m['cosine']:.2f}); "
            f"two seeds of the latter differ by {m['between_seeds']:.0%}"
        )
    return said


def differing_lines(table: pd.DataFrame) -> list[str]:
    """:func:`saferlrm.manipulation.answers_that_differ` in words."""
    return [
        f"{', '.join(display_name(str(value)) for value in row[:-3])}: {row[-2] + row[-1]} of {row[-3]} answers come "
        f"to another outcome ({row[-2]} fewer, {row[-1]} more)"
        for row in table.itertuples(index=False)
    ]


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
        most = 100 * max(abs(found.low), abs(found.high))
        return f"makes no difference that can be claimed ({figures(found, 3, n=False)}: at most {most:.0f} points)"
    held = row.get("p_holm")
    corrected = "" if held is None or held.isna().all() or held.iloc[0] < 0.05 else ", not after Holm's correction"
    return f"{word} ({figures(found, 3, n=False)}{corrected})"
