"""The claims ledger in one picture: a row for each claim, whatever became of it."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.figure import Figure

from saferlrm.plots import style
from saferlrm.plots.forest import BETTER, OPEN, WORSE, label_rows
from saferlrm.verdicts import FAILS, HOLDS, UNDECIDED, VERDICTS, number

COLUMNS = (
    "claim", "rule", "value", "low", "high", "n", "verdict", "still_open", "note", "control_value", "control_verdict",
)  # fmt: skip
MARKS = {
    "H": "the bound is not excluded after Holm's correction for the number of comparisons",
    "B": "the bound is not excluded after Bonferroni's correction for the number of parts",
    "G": "judged only where there is a gain of the head to explain, and there is none",
    "*": "cannot hold with so many prompts and seeds, whatever the result",
}
# Shape, colour, and how a title says it of none or several claims.
SIGNS = {HOLDS: ("o", BETTER, "hold"), FAILS: ("X", WORSE, "do not hold"), UNDECIDED: ("D", OPEN, UNDECIDED)}
AT = {HOLDS: 0.35, FAILS: 1.0, UNDECIDED: 1.65}
VALUE, CONTROL, RULE, EDGE = 2.2, 4.9, 6.3, 8.5  # where the texts begin, in units of the columns of verdicts
WRAP, LINE, WIDTH = 66, 0.16, 14.0  # characters; inches


def claims_ledger(table: pd.DataFrame, question: str = "") -> Figure:
    """Every claim with its verdict, what was measured and what would have been needed.

    Args:
        table: as :func:`saferlrm.claims.ledger` returns it, or one of its parts; rows keep their order.
        question: what these claims have in common, for the title.
    """
    style.require(table, COLUMNS, "claims_ledger")
    names = [textwrap.fill(claim, WRAP) for claim in table["claim"]]
    lines = max(name.count("\n") + 1 for name in names)
    figure, axes = style.canvas(1, 1, 1.9 + (LINE * lines + 0.06) * len(names), width=WIDTH)
    ax = axes[0, 0]
    label_rows([ax], names)
    for verdict in VERDICTS:
        shape, shade, _ = SIGNS[verdict]
        rows = [i for i, found in enumerate(table["verdict"]) if found == verdict]
        face = "white" if verdict == UNDECIDED else shade
        beside = [i for i, found in enumerate(table["control_verdict"]) if found == verdict]
        for at, where, size, label in ((AT[verdict], rows, 9, verdict), (CONTROL, beside, 6, f"_λ = 0 {verdict}")):
            ax.plot(
                [at] * len(where), where, shape, color=shade, markerfacecolor=face, markersize=size,
                markeredgewidth=1.6, label=label,
            )  # fmt: skip
    for i, row in enumerate(table.itertuples()):
        ax.text(VALUE, i, _measured(row), va="center", fontsize=10.5)
        if row.control_verdict:
            ax.text(CONTROL + 0.15, i, number(row.control_value), va="center", fontsize=10.5)
        ax.text(RULE, i, row.rule.replace("; ", "\n"), va="center", fontsize=10, color=style.GREY, linespacing=1.0)
    controlled = bool(table["control_verdict"].astype(bool).any())
    columns = [(VALUE, "measured"), (CONTROL, "λ = 0"), (RULE, "the claim holds if")]
    for at, text in columns if controlled else columns[::2]:
        ax.text(at, -0.7, text, fontweight="bold", va="bottom", fontsize=11)
    ax.set_xlim(0, EDGE)
    ax.set_xticks([])
    ax.grid(visible=False)
    for side in ("top", "right", "bottom", "left"):
        ax.spines[side].set_visible(False)
    counts = table["verdict"].value_counts().reindex(list(VERDICTS), fill_value=0)
    told = ", ".join(f"{n} {verdict if n == 1 else SIGNS[verdict][2]}" for verdict, n in counts.items())
    measured = table.loc[table["n"] > 0, "n"]
    size = f"{style.counts(measured)} prompts. " if len(measured) else ""
    beside = (
        " λ = 0: value and verdict by the same rule of the same training without the head, for claims that compare "
        "PreSafe with the model before alignment."
    )
    caption = (
        f"{size}Values with 95 % intervals over prompts and alignment seeds; of several parts, the one furthest from "
        "holding, of those with the claim's verdict. "
        "A claim holds if the whole interval is on its side of the bound, and does not hold if the whole "
        "interval is on the other side."
    )
    if controlled:
        caption += beside
    for mark, said in MARKS.items():
        if any(mark in _marks(row) for row in table.itertuples()):
            caption += f" {mark}: {said}."
    listed = " ".join(f"{row.claim} {row.verdict.capitalize()}." for row in table.itertuples())
    finding = f"{question} {len(table)} claims: {told}".strip()
    figure = style.finish(figure, finding, caption, "A table of claims and verdicts.", ax)
    figure.set_label(f"{style.alt_text(figure)} {listed}")
    return figure


def _measured(row: tuple) -> str:
    if pd.isna(row.low) and pd.isna(row.high):
        return "not measured"
    return f"{number(row.value)} [{number(row.low)}, {number(row.high)}]{'  '.join(['', *_marks(row)])}"


def _marks(row: tuple) -> list[str]:
    """Why the interval alone does not tell the verdict: keys of :data:`MARKS`."""
    told = {"H": "Holm" in row.still_open, "B": "Bonferroni" in row.still_open, "G": "to explain" in row.still_open}
    return [mark for mark, yes in told.items() if yes] + ["*"] * bool(row.note)
