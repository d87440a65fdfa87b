"""What notebook 08 says in whole sentences, each a function of a table of the mechanism.

All comparisons of that notebook are exploratory. A sentence names a difference only where its interval excludes 0;
otherwise it says that it *cannot be told* and gives the largest difference that the interval still allows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from saferlrm.causal import ALL_LAYERS
from saferlrm.conditions import FEW
from saferlrm.crossed import crossed_difference, outcomes, paired
from saferlrm.evaluate import rates
from saferlrm.plots.measures import display_name
from saferlrm.plots.style import suite_name
from saferlrm.shift_contrasts import over_both
from saferlrm.show import figures, read
from saferlrm.stats import Interval
from saferlrm.suites.synthetic import CONTRASTS, HARMFUL_SUITES

DONE = ("base", "suite", "intervention", "direction", "read", "where", "layer", "scale")
PLACE = ("intervention", "where", "layer", "scale")
PUSHED = ("refusal", "probe")  # the directions that are tried; the others are controls
READ_AS = {"on": "class means, thinking on", "off": "class means, thinking off", "probe": "what the probe reads"}


def harm_and_decision(decisions: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    """How often a prompt's harm and the model's decision without thinking agree, by held-out contrast.

    Args:
        decisions: of :meth:`saferlrm.study.deciding.Deciding.test_decisions`; groups: keys of
            :data:`saferlrm.suites.synthetic.CONTRASTS`.

    Returns:
        Rows of :func:`saferlrm.evaluate.rates` by ``group``; the rate is the share of prompts on which both agree.
    """
    tables = [decisions[decisions["suite"].isin(CONTRASTS[name])].assign(group=name) for name in groups]
    table = pd.concat(tables, ignore_index=True)
    agree = table["harmful"].astype(bool) == table["refused"].astype(bool)
    return rates(table.assign(agree=agree, seed=0), "agree", ["group"])


def told(found: Interval, low: str, high: str, digits: int = 2, unit: str = "") -> str:
    """``high`` or ``low`` with the interval where it excludes 0, else *cannot be told* and the most it allows.

    Args:
        low, high: what a difference below and above 0 means; unit: of the bound, with its space.
    """
    numbers = figures(found, digits, n=False)
    if np.isnan(found.estimate):
        return "not measured"
    if found.low > 0 or found.high < 0:
        return f"{high if found.low > 0 else low} ({numbers})"
    most = max(abs(found.low), abs(found.high))
    return f"cannot be told ({numbers}: at most {most:.{digits}f}{unit} either way)"


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


def over_seeds(table: pd.DataFrame, estimate: str, before: str, after: str) -> Interval:
    """``after`` minus ``before`` of an estimate by ``condition`` and ``seed``, with a 95 % t interval over seeds.

    Given the prompts; NaN with fewer than two shared seeds.
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


def readable_change(probes: pd.DataFrame, condition: str, group: str) -> Interval:
    """AUROC of a model's own probe minus the unaligned model's, last layer, before the thought.

    DeLong's paired interval over prompts, its half width averaged over seeds, is joined by squares with a t interval
    over seeds. With one seed it is an interval over prompts.
    """
    own = _last(probes, group)
    own = own[own["condition"] == condition]
    if own.empty:
        return Interval(np.nan, np.nan, np.nan, 0)
    over = over_both(own["change"].to_numpy(float)[None])
    half = np.hypot(over.high - over.estimate, ((own["change_high"] - own["change_low"]) / 2).mean())
    return Interval(over.estimate, over.estimate - half, over.estimate + half, int(own["n"].iloc[0]))


def common_shift(shift: pd.DataFrame, condition: str) -> str:
    """Whether the refusal direction's shift tells harmful from benign prompts, at the last layer, in words.

    Args:
        shift: of :func:`saferlrm.shift_contrasts.with_contrasts`.
    """
    rows = _refusal_rows(shift, condition)
    if not {True, False} <= set(rows["harmful"]):
        return f"{display_name(condition)}: not measured"
    one, two = (read(rows, "projection", harmful=harmful).estimate for harmful in (True, False))
    both = f"{display_name(condition)}: harmful {one:+.2f}, benign {two:+.2f}".replace("-", "−")
    apart = read(rows, "apart", harmful=True)
    if apart.low <= 0 <= apart.high:
        return f"{both}: whether the two kinds move apart {told(apart, '', '')}"
    way = "the same way, and apart" if one * two > 0 else "in opposite ways"
    return f"{both}: the two kinds move {way} ({figures(apart, n=False)})"


def shift_lines(shift: pd.DataFrame) -> list[str]:
    """How far each model's harmful prompts moved along the refusal direction at the last layer, and what beside.

    Args:
        shift: of :func:`saferlrm.shift_contrasts.with_contrasts`.
    """
    top = shift[(shift["layer"] == shift["layer"].max()) & shift["harmful"]]
    scatter = top[top["direction"] == "within"].set_index("condition")["share"]
    said = []
    for row in top[top["direction"] == "refusal"].to_dict("records"):
        name, moved = row["condition"], figures(read(pd.DataFrame([row]), "moved"), n=False)
        beside = f"{row['share']:.0%} of the squared shift, a direction of the states' own scatter {scatter[name]:.0%}"
        said.append(f"{display_name(name)}, harmful prompts: moved {moved} along the refusal direction, {beside}")
        said.append(f"   {common_shift(shift, name)}")
    return said


def head_adds(shift: pd.DataFrame, condition: str) -> str:
    """What the head adds to the shift along the refusal direction, at the last layer, by kind of prompt."""
    rows = _refusal_rows(shift, condition)
    words = []
    for harmful, kind in ((True, "harmful"), (False, "benign")):
        found = read(rows, "added", harmful=harmful) if len(rows) else Interval(np.nan, np.nan, np.nan, 0)
        words.append(f"{kind} prompts, {told(found, 'further against it', 'further along it')}")
    return f"{display_name(condition)}, minus the same training without the head's gradient: {'; '.join(words)}"


def causal_effects(tried: pd.DataFrame) -> pd.DataFrame:
    """Refusals after every intervention, and paired differences to doing nothing and to a random direction.

    Args:
        tried: of :meth:`saferlrm.study.interventions.Interventions.mechanism_causal` and ``probe_steering``, one
            thinking mode.

    Returns:
        Rows of :func:`saferlrm.evaluate.rates` by :data:`DONE`, and ``difference`` (to doing nothing) and ``beyond``
        (to the random direction at the same place and strength; of :data:`PUSHED` alone), each also with
        ``_low`` and ``_high``: intervals over prompts and seeds, paired.
    """
    rows = tried.fillna({"scale": 0})
    table = rates(rows, "refused", list(DONE))
    wide = {key: outcomes(part, "refused") for key, part in rows.groupby(list(DONE), sort=False)}
    plain = {(base, suite, mode): one for (base, suite, what, _, mode, *_), one in wide.items() if what == "none"}
    found = []
    for key in table[list(DONE)].itertuples(index=False, name=None):
        base, suite, what, direction, mode, *place = key
        pairs = {"difference": plain.get((base, suite, mode)) if what != "none" else None}
        pairs["beyond"] = wide.get((base, suite, what, "random", mode, *place)) if direction in PUSHED else None
        row = {}
        for name, before in pairs.items():
            gap = Interval(np.nan, np.nan, np.nan, 0)
            if before is not None:
                gap = crossed_difference(*paired(before, wide[key]))
            row |= {name: gap.estimate, f"{name}_low": gap.low, f"{name}_high": gap.high}
        found.append(row)
    return pd.concat([table.reset_index(drop=True), pd.DataFrame(found)], axis=1)


def effect_lines(effects: pd.DataFrame) -> list[str]:
    """Of each intervention, at how many places and strengths it does something, the largest effect, or the bound.

    Adding should raise refusals, removing lower them; anything else is no effect of the kind that is looked for. The
    largest of many effects is large for having been chosen, so a line also says of how many.

    Args:
        effects: of :func:`causal_effects`.
    """
    plain = effects[effects["intervention"] == "none"]
    said = []
    done = effects[effects["direction"].isin(PUSHED)]
    for (base, suite, mode, what), part in done.groupby(["base", "suite", "read", "intervention"], sort=False):
        start = read(plain, base=base, suite=suite, read=mode)
        where = f"{display_name(base)}, {suite_name(suite)}, {READ_AS[mode]}, {what}"
        said.append(f"{where}: {_effect(part, what)}; nothing done: refused {figures(start, 2, n=False)}")
    return said


def _effect(part: pd.DataFrame, what: str) -> str:
    """The rows of one intervention with the refusal direction, in words."""
    sign, verb = (-1, "lowers") if what == "remove" else (1, "raises")
    near, far = ("difference_high", "difference_low") if sign < 0 else ("difference_low", "difference_high")
    clear = part[sign * part[near] > 0]
    many = f"{len(part)} places and strengths"
    if clear.empty:
        most = 100 * max(0.0, float((sign * part[far]).max()))
        return f"cannot be told from nothing done at any of {many}; none {verb} refusals by more than {most:.0f} points"
    row = clear.loc[(sign * clear["difference"]).idxmax()]
    place = "all layers at once" if row["layer"] == ALL_LAYERS else f"layer {row['layer']}"
    gap, beyond = (read(pd.DataFrame([row]), name) for name in ("difference", "beyond"))
    return (
        f"{verb} refusals at {len(clear)} of {many}, most at {place}, {row['where']} ({figures(gap, n=False)}; against "
        f"a random direction {figures(beyond, n=False)})"
    )


def three_answers(probes: pd.DataFrame, shift: pd.DataFrame, effects: pd.DataFrame, group: str) -> list[str]:
    """More readable, moved, or used? One sentence each for PreSafe, at the last layer, thinking on.

    A fourth is about labels without answers, where the table holds that model and its control. Every word follows from
    a paired interval; where it contains 0 the sentence says that nothing can be told, and how much it still allows.
    Exploratory, not corrected for the number of comparisons.

    Args:
        probes: of :meth:`saferlrm.study.mechanism.Mechanism.mechanism_probes`; group: its held-out contrast.
        shift: of :func:`saferlrm.shift_contrasts.with_contrasts`; effects: of :func:`causal_effects`.
    """
    own = _last(probes, group)
    change, head = readable_change(probes, "presafe", group), over_seeds(own, "auroc", "sft", "presafe")
    said = [
        f"Readable: AUROC {figures(read(own, condition='before'), n=False)} before. Whether PreSafe makes harm more or "
        f"less readable than that: {told(change, 'less readable', 'more readable')}; than λ = 0 does: "
        f"{told(head, 'less readable', 'more readable')}."
    ]
    rows = _refusal_rows(shift, "presafe")
    moved, beyond, added = (read(rows, name, harmful=True) for name in ("moved", "beyond", "added"))
    said.append(
        f"Moved: harmful prompts, {told(moved, 'against the refusal direction', 'along the refusal direction')}. "
        f"Whether more of the squared shift lies there than along a direction of the states' own scatter: "
        f"{told(beyond, 'less does', 'more does', 3)}; whether they move further than with λ = 0: "
        f"{told(added, 'further against it', 'further along it')}. "
        f"{common_shift(shift, 'presafe')}."
    )
    for base in ("before", "presafe"):
        said.append(f"Used, {display_name(base)}: the direction that the probe reads: {_used(effects, base)}.")
    labels, cut = (f"{method}/{FEW}" for method in ("presafe_decisions", "detached_decisions"))
    if {labels, cut} <= set(own["condition"]):
        head = over_seeds(own, "auroc", cut, labels)
        said.append(
            f"With few answers and further prompts that carry a label alone, {display_name(labels)} against "
            f"{display_name(cut)}: harm is {told(head, 'less readable', 'more readable')}. "
            f"{common_shift(shift, labels)}. {common_shift(shift, cut)}. Used: the direction that the probe reads: "
            f"{_used(effects, labels)}."
        )
    return said


def readable_lines(table: pd.DataFrame) -> list[str]:
    """How well both directions that were pushed along tell held-out harm, at the last layer, by model.

    Args:
        table: of :meth:`saferlrm.study.interventions.Interventions.probe_steering_readable`; with several seeds the
            mean of their AUROC and of the ends of their intervals.
    """
    top = table[table["layer"] == table["layer"].max()]
    said = []
    for (base, group), part in top.groupby(["base", "group"], sort=False):
        words = []
        for name, direction in (("weights", "probe"), ("difference of the class means", "refusal")):
            rows = part[part["direction"] == direction]
            middle, low, high = (rows[column].mean() for column in ("auroc", "low", "high"))
            words.append(f"the {name} {middle:.2f} [{low:.2f}, {high:.2f}]")
        said.append(f"{display_name(base)}, {display_name(group)}: {', '.join(words)}, n = {part['n'].iloc[0]}")
    return said


def _used(effects: pd.DataFrame, base: str) -> str:
    """What the probe's direction did to one model: added, on benign prompts, and removed, on harmful ones."""
    here = effects[(effects["base"] == base) & (effects["direction"] == "probe")]
    words = []
    tests = (("add", False, "added, on benign prompts"), ("remove", True, "removed, on harmful ones"))
    for what, harmful, name in tests:
        part = here[(here["suite"].isin(HARMFUL_SUITES) == harmful) & (here["intervention"] == what)]
        if len(part):
            words.append(f"{name}, it {_effect(part, what)}")
    return "; ".join(words) or "was not tried"


def _last(probes: pd.DataFrame, group: str) -> pd.DataFrame:
    """Each model's own probe before the thought, at the last layer, on one held-out contrast."""
    own = probes[(probes["probe"] == "own") & (probes["position"] == "pre_cot") & (probes["group"] == group)]
    return own[own["layer"] == own["layer"].max()]


def _refusal_rows(shift: pd.DataFrame, condition: str) -> pd.DataFrame:
    rows = shift[(shift["layer"] == shift["layer"].max()) & (shift["direction"] == "refusal")]
    return rows[rows["condition"] == condition]
