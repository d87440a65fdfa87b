"""What notebooks 06 to 08 say in whole sentences, each a function of a table of rates or differences.

A sentence names a difference only where an interval excludes 0, and gives the interval; so it stays true when the study
is run again with other seeds or fewer prompts.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from saferlrm.causal import ALL_LAYERS
from saferlrm.conditions import FEW, SWEEPS
from saferlrm.evaluate import rates
from saferlrm.plots.measures import display_name
from saferlrm.plots.style import method_name, suite_name
from saferlrm.show import figures, read
from saferlrm.stats import Interval
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
    if most["harmful"] <= SELDOM and most["benign"] <= SELDOM and began >= NEARLY_ALWAYS:
        kept = "; problems keep their thought" if least["problems"] >= NEARLY_ALWAYS else ""
        return (
            f"After alignment {who} about requests, harmless ones included{kept}. Safety comes back because thinking "
            "is switched off for requests, not because a decision is made before a thought."
        )
    told = "; ".join(
        f"{kind}: {share.get(('before', key), np.nan):.0%} before, "
        + ", ".join(f"{share.get((name, key), np.nan):.0%} with {method_name(name)}" for name in aligned)
        for key, kind in KINDS.items()
        if key in set(shares["kind"])
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


def label_only_sentence(differences: pd.DataFrame, suite: str) -> str:
    """What prompts with a label and no answer do where answers are few, and what the same prompts do without the label.

    Args:
        differences: of :func:`saferlrm.ablations.control_differences`; empty words if it lacks them.
    """
    rows = differences[(differences["metric"] == "attack_success") & (differences["mode"] == "on")]
    rows = rows[rows["suite"] == suite].set_index(["before", "after"])
    plain, own = f"sft/{FEW}", ("detached_decisions", "shuffled_decisions")
    if (plain, f"{DECISIONS}/{FEW}") not in rows.index:
        return ""
    said = []
    for name in own:
        found = read(rows.loc[[(plain, f"{name}/{FEW}")]])
        if found.low > 0 or found.high < 0:
            word = "lowers it too" if found.high < 0 else "raises it"
        else:
            word = "tends the same way, undecided" if found.estimate < 0 else "shows nothing of the kind"
        said.append(f"*{method_name(name)}* {word} ({figures(found, 3, n=False)})")
    apart = [read(rows.loc[[(f"{name}/{FEW}", f"{DECISIONS}/{FEW}")]]) for name in own]
    decided = sum(gap.low > 0 or gap.high < 0 for gap in apart)
    return (
        f"On {suite_name(suite)}, with few answers, further prompts that carry a label and no answer: the head "
        f"{_effect(rows.loc[[(plain, f'{DECISIONS}/{FEW}')]])} against λ = 0, with more steps. Of its own controls "
        f"with as many steps, {' and '.join(said)}; against them {decided} of {len(apart)} intervals exclude 0."
    )


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
    return f"{figures(read(found), 2)}, of the answers with a thought; {none}"


def common_shift(shift: pd.DataFrame, condition: str) -> str:
    """Whether the refusal direction's shift tells harmful from benign prompts, at the last layer, in words."""
    rows = shift[(shift["layer"] == shift["layer"].max()) & (shift["direction"] == "refusal")]
    rows = rows[rows["condition"] == condition].set_index("harmful")
    if not {True, False} <= set(rows.index):
        return f"{display_name(condition)}: not measured"
    one, two = (float(rows.loc[harmful, "projection"]) for harmful in (True, False))
    both = f"{display_name(condition)}: harmful {one:+.2f}, benign {two:+.2f}".replace("-", "−")
    if one * two > 0:
        apart = abs(one - two) / max(abs(one), abs(two))
        return f"{both}: both kinds move the same way, a common shift; {apart:.0%} of the larger one tells them apart"
    return f"{both}: the two kinds move in opposite ways"


def effect_lines(effects: pd.DataFrame) -> list[str]:
    """Of each intervention, the layer at which it does most, and where no layer does anything, that.

    Adding should raise refusals, removing lower them; anything else is no effect of the kind that is looked for.

    Args:
        effects: refusal rates with ``base``, ``suite``, ``intervention``, ``direction``, ``read``, ``where``, ``layer``
            (:data:`saferlrm.causal.ALL_LAYERS` for all at once), ``rate``, ``low``, ``high``.
    """
    plain = effects[effects["intervention"] == "none"].set_index(["base", "suite", "read"])["rate"]
    said = []
    for key, part in effects.groupby(["base", "suite", "read", "intervention", "direction"], sort=False):
        base, suite, read_in, what, direction = key
        down = what == "remove"
        best = part.sort_values("rate", ascending=down, kind="stable").iloc[0]
        gain = float(best["rate"] - plain.get((base, suite, read_in), np.nan)) * (-1 if down else 1)
        place = "all layers at once" if best["layer"] == ALL_LAYERS else f"layer {best['layer']}"
        told = "nothing done" if what == "none" else f"{what} {direction}, {place}, {best['where']}"
        if what != "none" and not gain > 0:
            told = f"{what} {direction}: no effect at any layer"
        where = f"{display_name(base)}, {suite_name(suite)}, read with thinking {read_in}"
        said.append(f"{where}, {told}: refused {figures(read(pd.DataFrame([best])), 2, n=False)}")
    return said


def over_seeds(table: pd.DataFrame, estimate: str, before: str, after: str) -> Interval:
    """``after`` minus ``before`` of an estimate by ``condition`` and ``seed``, with a 95 % t interval over seeds.

    NaN with fewer than two shared seeds.
    """
    wide = table.pivot_table(index="seed", columns="condition", values=estimate)
    if not {before, after} <= set(wide):
        return Interval(np.nan, np.nan, np.nan, 0)
    gap = (wide[after] - wide[before]).dropna().astype(float)
    if len(gap) < 2:
        return Interval(np.nan, np.nan, np.nan, len(gap))
    mean = float(gap.mean())
    half = float(stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap)))
    return Interval(mean, mean - half, mean + half, len(gap))


def three_answers(probes: pd.DataFrame, shift: pd.DataFrame, effects: pd.DataFrame, group: str) -> list[str]:
    """More readable, moved, or used? One sentence each for PreSafe, at the last layer, thinking on.

    Args:
        probes: of :meth:`saferlrm.study.mechanism.Mechanism.mechanism_probes`; group: its held-out contrast.
        shift: of :func:`saferlrm.mechanism.shift_table`; effects: as for :func:`effect_lines`.
    """
    own = probes[(probes["probe"] == "own") & (probes["position"] == "pre_cot") & (probes["group"] == group)]
    own = own[own["layer"] == own["layer"].max()]
    before, mean = own[own["condition"] == "before"].iloc[0], own.groupby("condition")["auroc"].mean()
    word = "as readable as before, within its interval"
    if mean["presafe"] > before["high"]:
        word = "more readable"
    elif mean["presafe"] < before["low"]:
        word = "less readable"
    said = [
        f"Readable: AUROC {figures(read(own, condition='before'), n=False)} before, {mean['sft']:.2f} with λ = 0 and "
        f"{mean['presafe']:.2f} with PreSafe (means of seeds): the harm is {word}."
    ]
    top = shift[(shift["layer"] == shift["layer"].max()) & shift["harmful"] & (shift["condition"] == "presafe")]
    moved = read(top, "projection", direction="refusal")
    share, scatter = (read(top, "share", direction=name).estimate for name in ("refusal", "within"))
    word = "did not move clearly" if moved.low <= 0 <= moved.high else "moved"
    more = "more" if share > scatter else "no more"
    said.append(
        f"Moved: the latent {word} along the refusal direction ({figures(moved, n=False)}), {share:.0%} of the "
        f"squared shift, {more} than a direction of the states' own scatter ({scatter:.0%}). "
        f"{common_shift(shift, 'presafe')}."
    )
    here = effects[(effects["base"] == "presafe") & (effects["read"] == "on")]
    words = []
    for what, harmful, does in (
        ("add", False, "added, benign refusals rise"),
        ("remove", True, "removed, refusals fall"),
    ):
        part = here[here["suite"].isin(HARMFUL_SUITES) == harmful]
        plain = part.loc[part["intervention"] == "none", "rate"]
        if plain.empty:
            continue
        sign = 1 if what == "add" else -1
        most = {
            name: max(0.0, float((sign * (rows["rate"] - plain.iloc[0])).max()))
            for name, rows in part[part["intervention"] == what].groupby("direction")
        }
        if "refusal" in most:
            beside = f" (random {100 * most['random']:.0f})" if "random" in most else ""
            words.append(f"{does} by at most {100 * most['refusal']:.0f} points{beside}")
    said.append(f"Used: the direction that is read there, {'; '.join(words) or 'was not tried'}.")
    return said


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
