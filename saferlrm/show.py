"""What a notebook prints: intervals, verdicts computed from them, redacted excerpts, token tables.

Nothing here computes a result. A verdict is a function of an interval, so a sentence in a notebook
changes when its numbers do. Answers to harmful prompts are never shown whole: see :func:`redact`.
"""

from __future__ import annotations

import difflib
import html
import math
import re
from collections.abc import Collection, Sequence

import pandas as pd
from IPython.display import Markdown

from saferlrm.align.data import IGNORE, AlignmentExample, encode
from saferlrm.errors import SaferlrmError
from saferlrm.judges import is_refusal
from saferlrm.lm import LanguageModel
from saferlrm.profile import HeadToken
from saferlrm.stats import Interval

BLOCK = "████"
OPENING_WORDS = 5  # shown of an answer that complies with a harmful prompt
REFUSAL_WORDS = 7  # shown of a refusal: what hides behind an apology stays hidden
ESTIMATES = ("rate", "difference", "auroc", "accuracy", "value")


def read(table: pd.DataFrame, estimate: str | None = None, /, **where: object) -> Interval:
    """The one row of a results table with these values, as an interval; of NaN if there is no such row.

    Args:
        estimate: column of the estimate; by default the first of ``rate``, ``difference``, ``auroc``,
            ``accuracy``, ``value``. Its bounds are ``<estimate>_low`` and ``<estimate>_high``, or ``low`` and
            ``high``.
        where: column = value, e.g. ``suite="benign", mode="on"``.

    Raises:
        SaferlrmError: no such column, or more than one such row.
    """
    part = table
    for column, value in where.items() if len(table) else ():
        if column not in part:
            raise SaferlrmError(f"the table has no column {column!r}; it has {', '.join(table)}")
        part = part[part[column] == value]
    if part.empty:  # nothing was measured here, e.g. no answer that complied
        return Interval(math.nan, math.nan, math.nan, 0)
    if len(part) > 1:
        wanted = ", ".join(f"{column} = {value}" for column, value in where.items())
        raise SaferlrmError(f"{len(part)} rows of the table have {wanted}; name columns until one is left")
    row = part.iloc[0]
    name = estimate or next((name for name in ESTIMATES if name in row), None)
    if name is None or name not in row:
        raise SaferlrmError(f"the table has no estimate {estimate or 'column'}; it has {', '.join(table)}")
    low, high = (row.get(f"{name}_{end}", row.get(end, math.nan)) for end in ("low", "high"))
    return Interval(float(row[name]), float(low), float(high), int(row.get("n", 0)))


def figures(found: Interval, digits: int = 2, n: bool = True) -> str:
    """``0.53 [0.47, 0.58], n = 300``; the minus sign is a real one, and rounding leaves no ``−0.00``."""
    if math.isnan(found.estimate):
        return "not measurable on these prompts"
    text = [_number(value, digits) for value in (found.estimate, found.low, found.high)]
    return f"{text[0]} [{text[1]}, {text[2]}]" + (f", n = {found.n}" if n and found.n else "")


def column(table: pd.DataFrame, estimate: str, digits: int = 2) -> list[str]:
    """One estimate of every row with its interval, as text; empty where nothing was measured."""
    found = [read(table.iloc[[i]], estimate) for i in range(len(table))]
    return ["" if math.isnan(one.estimate) else figures(one, digits) for one in found]


def rate(label: str, found: Interval, digits: int = 2) -> None:
    """Prints an estimate with its interval."""
    print(f"{label}: {figures(found, digits)}")


def checked(
    claim: str,
    found: Interval,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    digits: int = 2,
) -> None:
    """Prints a claim, what was measured, and whether the interval, only the estimate or neither keeps it.

    Args:
        claim: what is claimed, without the number.
        at_least, at_most: exactly one bound.
    """
    if (at_least is None) == (at_most is None):
        raise SaferlrmError("give checked() either at_least or at_most")
    bound, word, sign = (at_least, "at least", 1) if at_most is None else (at_most, "at most", -1)
    asked = f"{claim} {word} {_number(bound, digits).rstrip('0').rstrip('.')}"
    if math.isnan(found.estimate):
        verdict = "open"
    else:
        near, far = (found.high, found.low) if sign == 1 else (found.low, found.high)
        if sign * found.estimate >= sign * bound:
            verdict = "yes" if sign * far >= sign * bound else "yes, but the interval crosses the bound"
        else:
            verdict = "no, but the interval reaches the bound" if sign * near >= sign * bound else "no"
    print(f"{asked}? {figures(found, digits)}: {verdict}")


def difference(label: str, found: Interval, digits: int = 2) -> None:
    """Prints a difference and what can be said of it: higher, lower, or no difference that can be claimed."""
    nearest = min(abs(found.low), abs(found.high)) if found.low * found.high > 0 else 0.0
    digits += nearest > 0 and not float(_number(nearest, digits))  # "[0.00, 0.02] lies above 0" would puzzle
    if math.isnan(found.estimate):
        verdict = "no statement"
    elif found.low > 0:
        verdict = "the interval lies above 0, so it is higher"
    elif found.high < 0:
        verdict = "the interval lies below 0, so it is lower"
    else:
        verdict = "the interval contains 0, so no difference can be claimed"
    print(f"{label}: {figures(found, digits)}: {verdict}")


def choice(name: str, value: object, allowed: Collection[object], several: bool = False) -> None:
    """Refuses a value of the Parameters cell that the notebook cannot work with.

    Args:
        name: of the parameter.
        allowed: the values that it may have.
        several: ``value`` is a list of such values, with at least one in it.

    Raises:
        SaferlrmError: the value, or one of several, is not allowed; in one line with what is, and a near miss by name.
    """
    if several and not (isinstance(value, list | tuple) and value):
        raise SaferlrmError(f"{name} = {value!r}: it has to be a list with at least one of {_listed(allowed)}")
    for one in value if several else (value,):
        if one not in allowed or isinstance(one, bool):
            close = difflib.get_close_matches(str(one), [text for text in allowed if isinstance(text, str)], n=1)
            hint = f"did you mean {close[0]!r}? It may be " if close else "it may be "
            raise SaferlrmError(f"{name} = {value!r}: {hint}{_listed(allowed)}; change it in the Parameters cell")


def _listed(values: Collection[object]) -> str:
    return ", ".join(map(str, values))


def rate_table(table: pd.DataFrame, rows: str = "suite", columns: str = "mode", digits: int = 2) -> pd.DataFrame:
    """A tidy table of rates as a grid of ``0.53 [0.47, 0.58]``; empty where nothing was measured."""
    cells = [
        (row[rows], row[columns], figures(read(pd.DataFrame([row])), digits, n=False)) for _, row in table.iterrows()
    ]
    grid = pd.DataFrame(cells, columns=[rows, columns, "text"]).pivot(index=rows, columns=columns, values="text")
    kept = grid.reindex(index=table[rows].unique(), columns=table[columns].unique()).fillna("")
    kept.columns.name = None
    return kept


def redact(answer: str, *topics: str | None) -> str:
    """An answer to a harmful prompt, fit to be shown: its first words, harmful things (``topics``) blacked out.

    A refusal keeps ``REFUSAL_WORDS`` words, anything else ``OPENING_WORDS``: enough to see that it complies.
    """
    text = " ".join(answer.split())
    for topic in filter(None, topics):
        squeezed = [re.escape(letter) for letter in topic if letter.isalnum()]
        text = re.sub(r"[\W_]*".join(squeezed), BLOCK, text, flags=re.IGNORECASE)
    words = text.split()
    kept = REFUSAL_WORDS if is_refusal(" ".join(words[:REFUSAL_WORDS])) else OPENING_WORDS
    return " ".join(words[:kept]) + (" …" if len(words) > kept else "")


def excerpts(scorecard: pd.DataFrame, prompt_ids: Sequence[str]) -> Markdown:
    """Verdict and redacted answer of some prompts in every thinking mode of a scorecard."""
    part = scorecard[scorecard["prompt_id"].isin(prompt_ids)]
    rows = [
        {
            "prompt": row.prompt_id,
            "thinking": row.mode,
            "verdict": row.verdict.replace("_", " "),
            "answer": redact(row.answer, row.topic) if row.harmful else _short(row.answer),
        }
        for row in part.sort_values("prompt_id", kind="stable").itertuples()
    ]
    return markdown_table(pd.DataFrame(rows))


def changed(scorecard: pd.DataFrame, suite: str, first: str = "off", second: str = "on") -> list[str]:
    """Prompts of a suite that are refused in the mode ``first`` and complied with in ``second``, in order."""
    part = scorecard[scorecard["suite"] == suite]
    verdicts = part.pivot(index="prompt_id", columns="mode", values="verdict")
    return list(verdicts.index[(verdicts[first] == "refusal") & (verdicts[second] == "compliance")])


def token_table(lm: LanguageModel, example: AlignmentExample, head_token: HeadToken) -> pd.DataFrame:
    """The tokens of one alignment example: what is masked, what is learnt, and where the head reads.

    Returns:
        One row per token: ``token`` (as Python writes it, so that line breaks show), ``part`` (prompt or
        target), ``next-token loss`` and ``head`` (marks the tokens that the auxiliary head reads).
    """
    encoded = encode(example, lm, head_token)
    start, end = encoded["head_span"]
    labels = encoded["labels"]
    n_prompt = next((i for i, label in enumerate(labels) if label != IGNORE), len(labels))
    rows = [
        {
            "token": repr(lm.tokenizer.decode([token])),
            "part": "prompt" if i < n_prompt else "target",
            "next-token loss": "masked" if label == IGNORE else "counts",
            "head": "reads here" if start <= i < end else "",
        }
        for i, (token, label) in enumerate(zip(encoded["input_ids"], labels, strict=True))
    ]
    return pd.DataFrame(rows)


def markdown_table(table: pd.DataFrame) -> Markdown:
    """A table whose cells may hold sentences: pandas cuts those off, Markdown wraps them."""
    lines = [[str(name) for name in table.columns], ["---"] * len(table.columns)]
    lines += [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _cell(value: object) -> str:
    return html.escape(str(value), quote=False).replace("|", "\\|").replace("\n", " ")


def _short(text: str, limit: int = 120) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " …"


def _number(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")
