"""How attacks end: what the user sees refused, what only the thought refuses, and what is left without content."""

from __future__ import annotations

import numpy as np
import pandas as pd

from saferlrm.crossed import crossed_difference, outcomes, paired
from saferlrm.plots.style import suite_name
from saferlrm.show import figures, read

SEEN = {"compliance": "answered", "off_topic": "about something else", "refusal": "refused", "partial": "refused"}
COLUMNS = ["suite", "ending", "plain", "other", "difference", "low", "high", "n", "seeds"]
HIDDEN, EMPTY = "refused in the thought alone", "no content"  # no content: babble, or cut off before there was any


def ending(rows: pd.DataFrame) -> pd.Series:
    """The kind of ending of each answer.

    Args:
        rows: ``verdict`` on what the user sees, and ``thought_refuses``. Only a thought that was taken for the whole
            answer hides a refusal: where the user sees an answer, its verdict counts.
    """
    hidden = rows["thought_refuses"].astype(bool).map({True: HIDDEN, False: EMPTY})
    return rows["verdict"].map(SEEN).fillna(hidden)


def endings(rows: pd.DataFrame, plain: str, other: str) -> pd.DataFrame:
    """How often answers of two conditions end in each way, and the difference ``other`` minus ``plain``.

    Args:
        rows: tidy rows with ``prompt_id``, ``suite``, ``condition``, ``seed``, ``verdict``, ``thought_refuses``.

    Returns:
        ``suite``, ``ending``, ``plain`` and ``other`` (rates), ``difference``, ``low``, ``high`` (95 %, over prompts
        and alignment seeds), ``n`` (prompts), ``seeds``; no row if there are none.
    """
    if rows.empty:
        return pd.DataFrame(columns=COLUMNS)
    found = []
    for suite, part in rows.assign(ending=ending(rows)).groupby("suite", sort=False):
        for kind in dict.fromkeys((*SEEN.values(), HIDDEN, EMPTY)):
            told = part.assign(is_kind=(part["ending"] == kind).astype(float))
            one, two = paired(*(outcomes(told[told["condition"] == name], "is_kind") for name in (plain, other)))
            gap = crossed_difference(one, two)
            sides = {"plain": float(np.mean(one)), "other": float(np.mean(two)), "difference": gap.estimate}
            bounds = {"low": gap.low, "high": gap.high, "n": gap.n, "seeds": one.shape[1]}
            found.append({"suite": suite, "ending": kind} | sides | bounds)
    return pd.DataFrame(found, columns=COLUMNS)


def ending_lines(table: pd.DataFrame) -> list[str]:
    """:func:`endings` in words, one line for each suite and ending."""
    lines = []
    for at, row in table.iterrows():
        gap = figures(read(table.loc[[at]]), 3, n=False)
        lines.append(
            f"{suite_name(row['suite'])}, {row['ending']}: {row['plain']:.3f} and {row['other']:.3f}, difference {gap}"
        )
    return lines
