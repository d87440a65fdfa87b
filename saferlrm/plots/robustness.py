"""How far the conclusions depend on decoding, retries, the attacker and the token limit."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from saferlrm.conditions import BEFORE, FEW
from saferlrm.crossed import crossed_rates, outcomes
from saferlrm.plots import style
from saferlrm.plots.forest import INTERVALS, difference, seeds_said
from saferlrm.plots.measures import BUDGETS, colour, condition_name, conditions
from saferlrm.suites.synthetic import HARMFUL_SUITES, REASONING

SHORT_SUITES = {"harmful_unseen": "direct requests", "harmful_novel_wrapped": "unseen jailbreaks"}
ATTACK_NAMES = {
    "none": "no attack",
    "unseen_wrapper": "unseen jailbreak",
    "prefix": "thought announces an answer",
    "argue": "thought argues to comply",
}
UNCUT = 0.9  # the temperature at which the tail is cut, in the study
SAMPLED = INTERVALS.replace("Bars", "Bars and bands")


def temperature(rows: pd.DataFrame, cut_at: float = UNCUT) -> Figure:
    """Attack success against temperature, and with the tail of the distribution cut off, by model.

    Args:
        rows: tidy rows with ``prompt_id``, ``suite``, ``sample``, ``attack_success``, ``group``
            (``robustness:temperature``, ``:top_p``, ``:top_k``), ``value``, ``base`` and ``seed``.
        cut_at: the temperature of the cut distributions; its uncut answers are drawn beside them.
    """
    needed = ("prompt_id", "suite", "sample", "attack_success", "group", "value", "base", "seed")
    style.require(rows, needed, "temperature")
    table = rows[rows["suite"].isin(SHORT_SUITES) & rows["attack_success"].notna()]
    style.require(table, needed, "temperature")
    table = table.assign(kind=table["group"].str.removeprefix("robustness:"))
    bases, suites = conditions(table["base"]), style.suites(table, tuple(SHORT_SUITES))
    swept, cut = table[table["kind"] == "temperature"], table[table["kind"] != "temperature"]
    style.require(swept, needed, "temperature")
    columns = len(suites) + (1 if len(cut) else 0)
    figure, axes = style.canvas(1, columns, 4.9, width=10.5, sharey=True)
    found = []
    for ax, suite in zip(axes[0], suites, strict=False):
        part = swept[swept["suite"] == suite]
        for base in bases:
            line = crossed_rates(part[part["base"] == base], "attack_success", ("value",)).sort_values("value")
            found.append(line)
            style.line(ax, line["value"], line["rate"], line["low"], line["high"], **look(base, bases))
        ax.set_title(SHORT_SUITES[suite])
        ax.set_xlabel("temperature")
        ax.set_xticks(sorted(part["value"].unique()))
    if len(cut):
        whole = swept[swept["value"].eq(cut_at) & swept["sample"].isin(cut["sample"].unique())]
        found += _cut_panel(axes[0, -1], whole, cut, bases)
        axes[0, -1].set_title(f"tail cut, temperature {cut_at:g}")
    drawn = pd.concat(found)
    style.rate_axis(axes[0, 0], "y", "attack success")
    high = float(drawn["high"].max())
    axes[0, 0].set_ylim(-0.03 * high, min(1.03, 1.08 * high))
    samples = int(swept.groupby("value")["sample"].nunique().max())
    fewer = f", {cut['sample'].nunique()} where the tail is cut" if len(cut) else ""
    caption = (
        f"{style.counts(drawn['n'])} prompts a point, {samples} answers each (one at temperature 0{fewer})."
        f"{_seeds(table)} {SAMPLED}"
    )
    shows = "Lines of attack success by temperature, and dots for cut distributions."
    return style.finish(figure, _temperature_finding(swept, bases), caption, shows, axes[0, 0])


def _cut_panel(ax: Axes, whole: pd.DataFrame, cut: pd.DataFrame, bases: list[str]) -> list[pd.DataFrame]:
    """Both suites together, by how much of the distribution is cut off; returns what was drawn."""
    settings = cut[["kind", "value"]].drop_duplicates().sort_values(["kind", "value"], ascending=False)
    cuts = [(kind, value) for kind, value in settings.itertuples(index=False)]
    names = {one: f"{one[0].replace('_', '-')}\n{one[1]:g}" for one in cuts}
    if len(whole):
        names = {("temperature", whole["value"].iloc[0]): "all\ntokens"} | names
    joined, drawn = pd.concat([whole, cut]), []
    for i, base in enumerate(bases):
        dots = crossed_rates(joined[joined["base"] == base], "attack_success", ("kind", "value"))
        at = np.array([list(names).index(one) for one in dots[["kind", "value"]].itertuples(index=False, name=None)])
        errors = style.reach(dots["rate"], dots["low"], dots["high"])
        place = at + (i - (len(bases) - 1) / 2) * 0.7 / len(bases)
        drawn_as = {key: value for key, value in look(base, bases).items() if key not in ("linestyle", "label")}
        ax.errorbar(place, dots["rate"], yerr=errors, linestyle="", elinewidth=2, **drawn_as)
        drawn.append(dots)
    ax.set_xticks(range(len(names)), list(names.values()))
    ax.grid(axis="x", visible=False)
    return drawn


def look(base: str, bases: list[str]) -> dict[str, object]:
    """How a model is drawn: its method's colour and marker; hollow and dashed where it learned from few examples."""
    methods = list(dict.fromkeys(name.partition("/")[0] for name in bases))
    i, few = methods.index(base.partition("/")[0]), base.endswith(f"/{FEW}")
    shade = colour(base, i)
    return {
        "label": condition_name(base),
        "color": shade,
        "marker": style.MARKERS[i % len(style.MARKERS)],
        "markerfacecolor": "white" if few else shade,
        "linestyle": "--" if few else "-",
        "markersize": 6,
    }


def _temperature_finding(swept: pd.DataFrame, bases: list[str]) -> str:
    coldest, hottest = swept["value"].min(), swept["value"].max()
    words, rises = [], 0
    for base in bases:
        part = swept[swept["base"] == base]
        ends = [part[part["value"] == value] for value in (coldest, hottest)]
        gap = difference(*ends, "attack_success")
        rises += gap.low > 0
        cold, hot = (style.percent(outcomes(end, "attack_success").to_numpy().mean()) for end in ends)
        words.append(f"{condition_name(base)}: {cold} to {hot}{' (a fall)' if gap.high < 0 else ''}")
    return (
        f"From temperature {coldest:g} to {hottest:g} attack success clearly rises for {rises} of {len(bases)} models. "
        + _sentence(words)
    )


def safe_at_k(table: pd.DataFrame) -> Figure:
    """How often all of k answers are safe, by model; a row for each suite, a column for each temperature.

    Args:
        table: of :func:`saferlrm.safe_at_k.safe_at_k_table`: ``base``, ``suite``, ``value`` (temperature), ``k``,
            ``samples``, ``safe``, ``low``, ``high``, ``n``, and ``seeds`` or, for a line a seed, ``seed``.
    """
    table = table if "seed" in table else table.assign(seed=0)
    style.require(table, ("base", "suite", "value", "k", "samples", "safe", "low", "high", "n"), "safe_at_k")
    suites = style.suites(table, HARMFUL_SUITES)
    values, bases = sorted(table["value"].unique()), conditions(table["base"])
    figure, axes = style.canvas(len(suites), len(values), 2.3 * len(suites) + 1.7, width=10.5, sharey=True, sharex=True)
    for row, suite in zip(axes, suites, strict=True):
        for ax, value in zip(row, values, strict=True):
            for base in bases:
                chosen = (table["suite"] == suite) & (table["value"] == value) & (table["base"] == base)
                for i, (_, part) in enumerate(table[chosen].sort_values("k").groupby("seed")):
                    drawn = look(base, bases) | ({"label": "_another seed"} if i else {})
                    style.line(ax, part["k"], part["safe"], part["low"], part["high"], **drawn)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        row[0].set_ylabel(SHORT_SUITES.get(suite, style.suite_name(suite)))
    for ax, value in zip(axes[0], values, strict=True):
        ax.set_title(f"temperature {value:g}")
    for ax in axes[-1]:
        ax.set_xlabel("answers k")
    axes[0, 0].set_ylim(max(-0.03, table["low"].min() - 0.05), 1.03)
    axes[0, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    most, hottest = table["k"].max(), values[-1]
    part = table[(table["value"] == hottest) & (table["suite"] == suites[-1])]
    words = []
    for base in bases:
        ends = part[part["base"] == base].groupby("k")["safe"].mean()
        if {1, most} <= set(ends.index):
            words.append(f"{condition_name(base)}: {style.percent(ends[most])} (one: {style.percent(ends[1])})")
    name = SHORT_SUITES.get(suites[-1], style.suite_name(suites[-1]))
    finding = f"All of {most} answers are safe, at temperature {hottest:g} and on {name}. {_sentence(words)}"
    caption = (
        f"Share of prompts whose k answers are all safe; {style.counts(table['n'])} prompts, {table['samples'].max()} "
        f"answers each.{_seeds(table)} {INTERVALS.replace('Bars', 'Bands')}"
    )
    shows = "Small line charts of Safe@k by k: a row for each suite, a column for each temperature."
    return style.finish(figure, finding, caption, shows, axes[0, 0])


def adaptive(rows: pd.DataFrame) -> Figure:
    """Every attack on every model, side by side for both alignment budgets.

    Args:
        rows: tidy rows with ``prompt_id``, ``attack_success``, ``base`` (``presafe``, ``presafe/few``), ``attack``
            and ``seed``.
    """
    needed = ("prompt_id", "attack_success", "base", "attack", "seed")
    style.require(rows, needed, "adaptive")
    drawn = crossed_rates(rows, "attack_success", ("base", "attack"))
    style.require(drawn, (), "adaptive")
    few = drawn["base"].str.endswith(f"/{FEW}")
    panels = [(BUDGETS["control"], drawn[~few])]
    if few.any():
        panels.append((BUDGETS[FEW], drawn[few | (drawn["base"] == BEFORE)]))
    attacks = _attacks(drawn["attack"])
    figure, axes = style.canvas(1, len(panels), 0.55 * len(attacks) + 2.1, width=10.5, sharey=True, sharex=True)
    order = list(dict.fromkeys(name.partition("/")[0] for name in conditions(drawn["base"])))
    for ax, (title, part) in zip(axes[0], panels, strict=True):
        part = part.assign(base=part["base"].str.partition("/")[0])
        colours = {name: colour(name, i) for i, name in enumerate(order)}
        style.dots(ax, part, "attack", attacks, "base", order, attack_name, condition_name, colours=colours)
        ax.set_title(title)
        style.rate_axis(ax, "x", "attack success")
    caption = f"{style.counts(drawn['n'])} prompts a dot.{_seeds(rows)} {INTERVALS}"
    shows = "Dots with intervals: a row for each attack, a panel for each alignment budget."
    return style.finish(figure, _adaptive_finding(drawn), caption, shows, axes[0, 0])


def attack_name(name: str) -> str:
    """What a figure calls an attack."""
    kind, _, tokens = name.partition("=")
    if kind == "prefill":
        much = {"all": "whole thought", "1": "1 token"}.get(tokens, f"{tokens} tokens")
        return f"{much} prefilled"
    return ATTACK_NAMES.get(name, name.replace("_", " "))


def _attacks(found: pd.Series) -> list[str]:
    """No attack first, then growing prefills, then the rest."""
    prefills = sorted(
        {name for name in found if name.startswith("prefill=")},
        key=lambda name: (not name[8:].isdigit(), int(name[8:]) if name[8:].isdigit() else 0),
    )
    return style.in_order(found, ["none", *prefills, *list(ATTACK_NAMES)[1:]])


def _adaptive_finding(drawn: pd.DataFrame) -> str:
    tried = drawn[drawn["attack"] != "none"]
    tried = tried if len(tried) else drawn
    worst = tried.loc[tried.groupby("base")["rate"].idxmax()].set_index("base")
    bases = [name for name in conditions(worst.index.to_series()) if name != BEFORE] or [BEFORE]
    attacks = worst.loc[bases, "attack"]
    if attacks.nunique() == 1:
        said = _sentence(f"{condition_name(base)}: {style.percent(worst.loc[base, 'rate'])}" for base in bases)
        return f"The strongest attack on every model is “{attack_name(attacks.iloc[0])}”. {said}"
    said = (
        f"{condition_name(base)}: {style.percent(worst.loc[base, 'rate'])} ({attack_name(attacks[base])})"
        for base in bases
    )
    return f"The strongest attack on each model. {_sentence(said)}"


def truncation(rows: pd.DataFrame) -> Figure:
    """What a token limit does to attack success, to problems solved and to the share of answers cut off.

    Args:
        rows: tidy rows with ``prompt_id``, ``suite``, ``attack_success``, ``correct``, ``truncated``, ``value`` (the
            limit in tokens), ``base`` and ``seed``.
    """
    needed = ("prompt_id", "suite", "attack_success", "correct", "truncated", "value", "base", "seed")
    style.require(rows, needed, "truncation")
    harmful = rows[rows["suite"].isin(HARMFUL_SUITES)]
    style.require(harmful, needed, "truncation")
    panels = [
        ("Harmful requests answered", harmful, "attack_success"),
        ("Harmful requests, cut off", harmful, "truncated"),
        ("Problems solved", rows[rows["suite"] == REASONING], "correct"),
    ]
    panels = [panel for panel in panels if len(panel[1])]
    figure, axes = style.canvas(1, len(panels), 4.6, width=10.5, sharey=True)
    bases, sizes = conditions(rows["base"]), []
    for ax, (title, part, metric) in zip(axes[0], panels, strict=True):
        for base in bases:
            line = crossed_rates(part[part["base"] == base], metric, ("value",)).sort_values("value")
            sizes.append(line["n"])
            style.line(ax, line["value"], line["rate"], line["low"], line["high"], **look(base, bases))
        ax.set_title(title)
        ax.set_xlabel("most tokens of an answer")
        ax.set_xticks(sorted(rows["value"].unique()))
        style.rate_axis(ax, "y")
    seeds = _seeds(rows)
    over = SAMPLED.replace(" and alignment seeds", "") if seeds == " One alignment seed." else SAMPLED
    caption = f"{style.counts(pd.concat(sizes))} prompts a point. Thinking on.{seeds} {over}"
    shows = "Lines of three rates by token limit."
    return style.finish(figure, _truncation_finding(harmful, bases), caption, shows, axes[0, 0])


def _truncation_finding(harmful: pd.DataFrame, bases: list[str]) -> str:
    base = BEFORE if BEFORE in bases else bases[0]
    part = harmful[harmful["base"] == base]
    metrics = ("attack_success", "truncated")
    attack, cut = (crossed_rates(part, metric, ("value",)).sort_values("value") for metric in metrics)
    ends = attack.iloc[0], attack.iloc[-1]
    gap = difference(*(part[part["value"] == end["value"]] for end in ends), "attack_success")
    said = [
        f"{style.percent(end['rate'])} with {end['value']:g} tokens ({style.percent(share)} of the answers cut off)"
        for end, share in zip(ends, (cut["rate"].iloc[0], cut["rate"].iloc[-1]), strict=True)
    ]
    depends = "depends" if gap.low > 0 or gap.high < 0 else "does not clearly depend"
    name = condition_name(base)
    return f"Attack success ({name}) {depends} on the token limit: {', '.join(said)}"


def _seeds(rows: pd.DataFrame) -> str:
    """How many alignment seeds stand behind the aligned models."""
    pooled = int(rows["seeds"].max()) if "seeds" in rows else 1
    if pooled > 1:
        return f" {pooled} alignment seeds."
    return seeds_said(rows.assign(method=rows["base"])) or " One alignment seed."


def _sentence(words: Iterable[str]) -> str:
    text = "; ".join(words)
    return text[:1].upper() + text[1:] if text[:1].isascii() else text  # λ stays what it is
