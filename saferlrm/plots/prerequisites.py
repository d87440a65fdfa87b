"""What thinking is worth: votes over samples, length of thought, hints, size of the model."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saferlrm.budget import budget_table
from saferlrm.faithfulness import PLACEBO, influence, two_by_two
from saferlrm.plots import style
from saferlrm.plots.robustness import SHORT_SUITES
from saferlrm.suites.synthetic import REASONING

SHADES = (style.PALETTE["on"], style.PALETTE["off"], style.PALETTE["control"], style.PALETTE["short"])
RULES = {"majority": "the majority decides", "veto": "one refusal is enough"}
RULES_IN_TITLES = {"majority": "A majority of {k}", "veto": "one refusal among {k}"}
KINDS = {"cut": "cut short", "own": "its own length", "forced": "forced longer"}
BOOTSTRAP = "Bands: 95\u00a0% bootstrap intervals over prompts (Wilson where all prompts agree)."
_VOTE = ("k", "n", "samples", "rate", "low", "high", "gain", "gain_low", "gain_high")


def self_consistency(table: pd.DataFrame) -> Figure:
    """Accuracy of the vote against the number of samples, a line for each way of sampling.

    Args:
        table: of :func:`saferlrm.consistency.vote_table` by ``regime`` (and perhaps ``temperature``).
    """
    style.require(table, ("regime", *_VOTE), "self_consistency")
    figure, axes = style.canvas()
    ax = axes[0, 0]
    regimes = list(dict.fromkeys(table["regime"]))
    for i, regime in enumerate(regimes):
        part = table[table["regime"] == regime].sort_values("k")
        heat = f", temperature {part['temperature'].iloc[0]:g}" if "temperature" in part else ""
        drawn = {"color": style.colour("", i) if i >= len(SHADES) else SHADES[i], "marker": style.MARKERS[i]}
        style.line(ax, part["k"], part["rate"], part["low"], part["high"], f"{regime}{heat}", **drawn)
    _votes(ax, table)
    style.rate_axis(ax, "y", "solved by the vote")
    most = table[table["k"] == table["k"].max()]
    told = ", ".join(f"{row.regime} {_gain(row)}" for row in most.itertuples())
    finding = f"A vote of {int(table['k'].max())} against one sample: {told}"
    caption = f"{style.counts(table['n'])} problems, {int(table['samples'].max())} samples each. {BOOTSTRAP}"
    return style.finish(figure, finding, caption, "Lines of accuracy by number of samples that vote.", ax, 3)


def vote_on_refusal(table: pd.DataFrame) -> Figure:
    """The same vote on the decision to refuse: attack success, and refusals of harmless requests, a panel for each
    rule.

    Args:
        table: of :func:`saferlrm.consistency.vote_table` by ``suite`` and ``regime``, the rules one below the other;
            ``rate`` is attack success on harmful suites and refusals on harmless ones.
    """
    style.require(table, ("suite", "regime", "rule", *_VOTE), "vote_on_refusal")
    rules, suites = style.in_order(table["rule"], list(RULES)), list(dict.fromkeys(table["suite"]))
    regimes = list(dict.fromkeys(table["regime"]))
    figure, axes = style.canvas(1, len(rules), 4.9, width=10.5, sharey=True)
    for ax, rule in zip(axes[0], rules, strict=True):
        for i, suite in enumerate(suites):
            for regime in regimes:
                part = table[
                    (table["rule"] == rule) & (table["suite"] == suite) & (table["regime"] == regime)
                ].sort_values("k")
                benign = "benign" in suite
                counted = "refused" if benign else "attack success"
                named = f"{style.suite_name(suite)}, {counted}" + (f" ({regime})" if len(regimes) > 1 else "")
                shade = style.PALETTE["benign"] if benign else (style.PALETTE["on"], style.PALETTE["gold"])[i % 2]
                dashes = ("-", "--")[regimes.index(regime) % 2]
                drawn = {"color": shade, "marker": style.MARKERS[i], "linestyle": dashes}
                style.line(ax, part["k"], part["rate"], part["low"], part["high"], named, **drawn)
        ax.set_title(RULES.get(rule, rule))
        _votes(ax, table)
    style.rate_axis(axes[0, 0], "y", "rate")
    k = int(table["k"].max())
    most = table[(table["k"] == k) & ~table["suite"].str.contains("benign")]
    words = []
    for rule in rules:
        part = most[most["rule"] == rule]
        decided = [_sign(row) for row in part.itertuples()]
        who = RULES_IN_TITLES.get(rule, f"{rule} of {{k}}").format(k=k)
        most_by = 100 * part["gain"].abs().max()
        moved = _moves(decided.count("down"), decided.count("up"), len(part))
        words.append(f"{who} {moved}, by {most_by:.1f} points at most")
    finding = f"{'; '.join(words)}, against a single sample"
    caption = f"{style.counts(table['n'])} prompts a line, {int(table['samples'].max())} samples each. {BOOTSTRAP}"
    shows = "Lines of attack success and over-refusal by number of samples that vote."
    return style.finish(figure, finding, caption, shows, axes[0, 0], 2)


def thought_budgets(rows: pd.DataFrame) -> Figure:
    """Accuracy and attack success against the mean length of the thoughts: cut, own and forced.

    Args:
        rows: of :func:`saferlrm.budget.budget_rows`.
    """
    needed = ("suite", "budget", "tokens", "n_thought_tokens", "truncated", "correct", "attack_success")
    style.require(rows, needed, "thought_budgets")
    harmful = list(dict.fromkeys(rows.loc[rows["attack_success"].notna(), "suite"]))
    panels = [(REASONING, "correct", "problems solved")]
    panels += [(suite, "attack_success", f"attack success: {SHORT_SUITES.get(suite, suite)}") for suite in harmful]
    figure, axes = style.canvas(1, len(panels), 4.9, width=11.0, sharey=True)
    sizes, ends = [], {}
    for ax, (suite, outcome, title) in zip(axes[0], panels, strict=True):
        table = budget_table(rows[rows["suite"] == suite], outcome)
        ax.plot(table["length"], table["rate"], color="#BBBBBB", linewidth=1, zorder=1)
        for i, kind in enumerate(KINDS):
            part = table[table["budget"] == kind]
            error = style.reach(part["rate"], part["low"], part["high"])
            shade = style.PALETTE[{"cut": "off", "own": "on", "forced": "forced"}[kind]]
            ax.errorbar(
                part["length"], part["rate"], yerr=error, fmt=style.MARKERS[i], color=shade, label=KINDS[kind],
                markersize=9 if kind == "own" else 7,
            )  # fmt: skip
        ax.set_title(title)
        ax.set_xlabel("tokens of the thought (mean)")
        sizes.append(table["n"])
        own = next(table[table["budget"] == "own"].itertuples())
        none, *_, longest = table.itertuples()
        ends[title.replace(": ", " on ")] = (none, own, longest)
    style.rate_axis(axes[0, 0], "y", "rate")
    longer = _change(ends, 1, 2, "the longest forced one")
    finding = f"{_change(ends, 0, 1, 'A thought of its own', spans=True)}; {longer}"
    caption = (
        f"{style.counts(pd.concat(sizes))} prompts a point, the same at every length, greedy decoding unless the "
        "profile says otherwise. Bars: 95\u00a0% intervals (Wilson)."
    )
    shows = "Dots of accuracy and attack success by mean length of the thought."
    return style.finish(figure, finding, caption, shows, axes[0, 0], 3)


def hints(rows: pd.DataFrame) -> Figure:
    """How often a hinted answer is given more than without the hint, and whether the thought mentions the hint.

    Args:
        rows: of :func:`saferlrm.faithfulness.hint_rows`.
    """
    needed = ("prompt_id", "mode", "form", "hint", "right", "correct", "follows", "follows_unhinted", "changed")
    style.require(rows, (*needed, "mentions"), "hints")
    table, cells = influence(rows), two_by_two(rows)
    order = list(dict.fromkeys(table["form"]))
    figure, axes = style.canvas(1, 2, 3.6 + 0.4 * len(order), width=10.5, width_ratios=[1.5, 1])
    ax, square = axes[0]
    shown = style.modes(table)
    columns = ("follows", "follows_low", "follows_high")
    style.dots(ax, table, "form", order, "mode", shown, str, style.mode_name, columns)
    ax.axvline(0, color="#888888", linewidth=1)
    ax.set_xlabel("hinted answer given, minus without the hint")
    ax.set_title("Does the answer follow?")
    _square(square, cells)
    wrong = table[table["form"].str.endswith("wrong")]
    silent = int(cells.loc[cells["follows"].astype(bool) & ~cells["mentions"].astype(bool), "k"].sum())
    follow = int(cells.loc[cells["follows"].astype(bool), "k"].sum())
    told = []
    for mode in shown:
        part = wrong[wrong["mode"] == mode]
        moved = [row.form.partition(",")[0] for row in part.itertuples() if row.follows_low > 0]
        did = f"move answers in {len(moved)} of {len(part)} forms" + (f" ({', '.join(moved)})" if moved else "")
        told.append(f"{did} with {style.mode_name(mode)}")
    unsaid = f"{silent} of {follow} thoughts before an answer that follows do not say so"
    finding = f"Wrong hints {', '.join(told)}; {unsaid}"
    caption = (
        f"{style.counts(table['n'])} problems a row, paired with the same problems without a hint. The form "
        f"{PLACEBO!r} hints at nothing. Bars: 95\u00a0% intervals (Newcombe, paired; Wilson in the table)."
    )
    return style.finish(figure, finding, caption, "Dots of influence by form of hint, and a two-by-two table.", ax)


def _square(ax: Axes, cells: pd.DataFrame) -> None:
    """The 2 × 2 table of all hints together, as counts and shares."""
    ax.set_title("Wrong hints, with a thought")
    together = cells.groupby(["follows", "mentions"])["k"].sum()
    n = int(together.sum())
    ax.set_xlim(-0.5, 1.5)
    ax.set_ylim(1.5, -0.5)
    ax.grid(visible=False)
    for y, follows in enumerate((True, False)):
        for x, mentions in enumerate((True, False)):
            k = int(together.get((follows, mentions), 0))
            unfaithful = follows and not mentions
            ax.add_patch(
                _tile(x, y, style.PALETTE["gold"] if unfaithful else style.PALETTE["on"], 0.15 + 0.6 * k / max(1, n))
            )
            ax.text(x, y, f"{k}\n{style.percent(k / n) if n else '–'}", ha="center", va="center", fontsize=13)
    ax.set_xticks([0, 1], ["mentions\nthe hint", "does not\nmention it"])
    ax.set_yticks([0, 1], ["follows", "does not\nfollow"])


def _tile(x: int, y: int, shade: str, strength: float) -> object:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=shade, alpha=strength, edgecolor="white")


def sizes(table: pd.DataFrame) -> Figure:
    """Accuracy and attack success by the size of the organism, without and with a thought.

    Args:
        table: of :meth:`saferlrm.study.prerequisites.Prerequisites.sizes`.
    """
    style.require(table, ("parameters", "mode", "metric", "n", "rate", "low", "high"), "sizes")
    titles = {"correct": "problems solved", "attack_success": "attack success"}
    metrics = style.in_order(table["metric"], list(titles))
    figure, axes = style.canvas(1, len(metrics), 4.8, sharey=True)
    shown, told = style.modes(table), []
    for ax, metric in zip(axes[0], metrics, strict=True):
        for i, mode in enumerate(shown):
            part = table[(table["metric"] == metric) & (table["mode"] == mode)].sort_values("parameters")
            drawn = {"color": style.colour(mode), "marker": style.MARKERS[i]}
            x = part["parameters"] / 1e6
            style.line(ax, x, part["rate"], part["low"], part["high"], style.mode_name(mode), **drawn)
            if mode == "on":
                told.append(f"{titles.get(metric, metric)} {', '.join(map(style.percent, part['rate']))}")
        ax.set_xscale("log")
        millions = sorted(set(table["parameters"] / 1e6))
        ax.set_xticks(millions, [f"{value:.2g}" for value in millions])
        ax.minorticks_off()
        ax.set_xlabel("million parameters (logarithmic)")
        ax.set_title(titles.get(metric, metric))
    style.rate_axis(axes[0, 0], "y", "rate")
    finding = f"With thinking, from the smallest organism to the largest: {'; '.join(told)}"
    caption = (
        f"{style.counts(table['n'])} prompts a point, one organism of each size, grown on the same tokens. Bands: "
        "95\u00a0% intervals (Wilson)."
    )
    return style.finish(figure, finding, caption, "Lines of accuracy and attack success by model size.", axes[0, 0])


def _votes(ax: Axes, table: pd.DataFrame) -> None:
    ax.set_xlabel("samples that vote, k")
    ax.set_xticks(sorted(table["k"].unique()))


def _gain(row: object) -> str:
    text = f"{100 * row.gain:+.0f} points".replace("-", "−")
    return text if _sign(row) else f"{text}, interval includes 0"


def _moves(down: int, up: int, n: int) -> str:
    """What a rule does to attack success in ``n`` cases, of which so many have an interval without 0."""
    if down == up == 0:
        return f"shows no change of attack success in {n} {'case' if n == 1 else 'cases'}"
    if n in (down, up):
        return f"{'lowers' if down else 'raises'} attack success in {n} of {n} cases"
    parts = [f"{verb} attack success in {found}" for verb, found in (("lowers", down), ("raises", up)) if found]
    return f"{' and '.join(parts)} of {n} cases"


def _change(ends: dict[str, tuple], before: int, after: int, who: str, spans: bool = False) -> str:
    """What a length of thought does to each panel's rate; a change is named where the two intervals stand apart."""
    found: dict[str, list[str]] = {}
    for title, three in ends.items():
        old, new = three[before], three[after]
        verb = "raises" if new.low > old.high else "lowers" if new.high < old.low else "leaves undecided"
        span = f" ({style.percent(old.rate)} to {style.percent(new.rate)})".replace("\u00a0% to", " to")
        found.setdefault(verb, []).append(title + span * spans)
    if len(found) == 1 and not spans and len(ends) > 1:
        return f"{who} {next(iter(found))} all {len(ends)}"
    return f"{who} " + ", ".join(f"{verb} {' and '.join(names)}" for verb, names in found.items())


def _sign(row: object) -> str:
    return "up" if row.gain_low > 0 else "down" if row.gain_high < 0 else ""
