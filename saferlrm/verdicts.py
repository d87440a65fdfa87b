"""What a verdict is made of: results read from disk, a measured number with its interval, and a rule fixed in advance.

A claim *holds* if the whole interval lies on its side of the bound, *does not hold* if the whole interval lies on the
other side, and otherwise *cannot be decided here*. Nothing is decided by a number that was not measured, by one
alignment seed, or by a comparison that does not survive the correction for the number of comparisons beside it. A claim
of several parts holds if all of them do; any one of them refutes it, so each is corrected for their number then.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import pandas as pd

from saferlrm.errors import SaferlrmError
from saferlrm.store import repository

T = TypeVar("T")
Verdict = Literal["holds", "does not hold", "cannot be decided here"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
UNDECIDED: Verdict = "cannot be decided here"
VERDICTS: tuple[Verdict, ...] = (HOLDS, FAILS, UNDECIDED)
Grounding = Literal[
    "abstract",
    "derived from the abstract by this study",
    "digest (second-hand)",
    "popularising page, not in the abstract",
    "this study, found on one organism",
]
ABSTRACT: Grounding = "abstract"
DERIVED: Grounding = "derived from the abstract by this study"
DIGEST: Grounding = "digest (second-hand)"
PAGE: Grounding = "popularising page, not in the abstract"
STUDY: Grounding = "this study, found on one organism"

SEEDS_NEEDED = 2  # fewer alignment seeds say nothing about how much seeds matter
ALPHA = 0.05  # of corrected p-values, as of the 95 % intervals


class UnmeasuredError(SaferlrmError):
    """What a claim needs was not measured; the text says what is missing."""


class Results:
    """The results folder: tidy tables and aggregated tables, read when they are asked for and kept.

    Args:
        folder: holds ``tidy/*.parquet`` and ``*.json``; the checkout's own ``results`` by default.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else repository() / "results"
        self._kept: dict[Hashable, Any] = {}
        self._instead: Mapping[str, str] = {}

    def instead(self, models: Mapping[str, str]) -> Results:
        """The same results, in which a claim about one model is read as a claim about another.

        Args:
            models: method to the method that stands in for it, on whatever alignment set.
        """
        other = Results(self.folder)
        other._kept = {key: kept for key, kept in self._kept.items() if isinstance(key, Path)}  # files, not outcomes
        other._instead = models
        return other

    def called(self, who: str) -> str:
        """The model whose rows are read where a claim names ``who``, such as ``presafe/few``."""
        method, slash, end = who.partition("/")
        return self._instead.get(method, method) + slash + end

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """What ``compute`` returns, computed for the first who asks for ``key`` and kept for the others."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def tidy(self, name: str) -> pd.DataFrame:
        """Rows of ``tidy/<name>.parquet``, one for each prompt x model x mode x sample.

        Raises:
            UnmeasuredError: there is no such file.
            SaferlrmError: it cannot be read.
        """
        path = self._path(f"tidy/{name}.parquet")
        try:
            return self.once(path, lambda: pd.read_parquet(path))
        except (OSError, ValueError) as problem:
            raise SaferlrmError(f"{path} cannot be read ({problem}); run the study again") from None

    def table(self, name: str) -> pd.DataFrame:
        """Rows of ``<name>.json``; raises as :meth:`tidy` does."""
        return pd.DataFrame(self._read(name)["rows"])

    def settings(self, name: str) -> Mapping[str, Any]:
        """The profile that ``<name>.json`` was computed with."""
        return self._read(name).get("evidence", {}).get("profile", {})

    def _read(self, name: str) -> dict[str, Any]:
        path = self._path(f"{name}.json")
        try:
            return self.once(path, lambda: json.loads(path.read_text(encoding="utf-8")))
        except ValueError as problem:
            raise SaferlrmError(f"{path} is not valid JSON ({problem}); run the study again") from None

    def _path(self, name: str) -> Path:
        if not (self.folder / name).is_file():
            raise UnmeasuredError(f"results/{name} is not there")
        return self.folder / name


@dataclass(frozen=True)
class Measured:
    """A number with its 95 % interval.

    Attributes:
        n: prompts; ``seeds``: alignment seeds, 0 where no aligned model takes part.
        unit: what the number counts, for a table.
        also: other numbers that a reader needs beside it.
        p: p-value of the rule's bound, corrected within its family of comparisons; ``None`` outside a family.
        seedless: why training seeds play no part in it; empty where they do, and then too few of them decide nothing.
        at: the interval at another level, for a part of a claim of several parts.
        best: intervals of results as favourable as these prompts and seeds allow, the other side of a comparison being
            what it is; ``None`` where no such result can be named.
    """

    value: float
    low: float
    high: float
    n: int
    seeds: int
    unit: str
    also: Mapping[str, float] = field(default_factory=dict)
    p: float | None = None
    seedless: str = ""
    at: Callable[[float], tuple[float, float]] | None = field(default=None, compare=False, repr=False)
    best: Callable[[], Sequence[tuple[float, float]]] | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}] ({self.size})"

    @property
    def size(self) -> str:
        """Prompts and seeds, in words."""
        return f"n = {self.n}" + (f", {self.seeds} seed{'s' * (self.seeds != 1)}" if self.seeds else "")


@dataclass(frozen=True)
class Rule:
    """The values on the claim's side, bounds included: ``low`` to ``high``, one of which may be infinite."""

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"at least {self.low:g}"
        return f"at most {self.high:g}" if math.isinf(self.low) else f"between {self.low:g} and {self.high:g}"

    def decide(self, found: Measured, parts: int = 1) -> tuple[Verdict, str]:
        """The verdict on one measured number, and the reason.

        Args:
            parts: how many numbers the claim is made of. It needs all of them to hold, which asks for no correction;
                but any one could refute it, so that takes the interval at 1 - 0.05 / parts (Bonferroni, which for the
                question whether any part fails is Holm's first step).
        """
        if not found.seedless and found.seeds < SEEDS_NEEDED:
            was = "seed was" if found.seeds == 1 else "seeds were"
            return UNDECIDED, f"only {found.seeds} alignment {was} measured"
        if math.isnan(found.value):
            return UNDECIDED, "there is nothing to divide by"
        inside = self.contains(found.low, found.high)
        if not inside and not self.excludes(found.low, found.high):
            return UNDECIDED, "the interval crosses the bound"
        if not inside and parts > 1:
            if found.at is None:
                raise SaferlrmError("a part of several needs its interval at other levels")
            low, high = found.at(1 - ALPHA / parts)
            if not self.excludes(low, high):
                wide = f"[{number(low)}, {number(high)}]"
                return UNDECIDED, f"the bound is not excluded after Bonferroni's correction for {parts} parts ({wide})"
        if found.p is not None and found.p >= ALPHA:
            return UNDECIDED, f"the bound is not excluded after Holm's correction (p = {found.p:.3f})"
        side = "the claim's" if inside else "the other"
        return (HOLDS if inside else FAILS), f"the whole interval is on {side} side"

    def margin(self, found: Measured) -> float:
        """How far the value is on the claim's side; infinite where there is none."""
        return math.inf if math.isnan(found.value) else min(found.value - self.low, self.high - found.value)

    def times_the_data(self, found: Measured) -> float:
        """How many times the prompts and seeds would decide, if the value stayed as it is; infinite at the bound.

        Widths shrink with the root of both together, so this is a rough lower bound where seeds are few.
        """
        bound = min((end for end in (self.low, self.high) if math.isfinite(end)), key=lambda b: abs(b - found.value))
        gap, reach = (bound - found.value, found.high) if found.value < bound else (found.value - bound, found.low)
        return (abs(reach - found.value) / gap) ** 2 if gap > 0 else math.inf

    def contains(self, low: float, high: float) -> bool:
        """Whether a whole interval is on the claim's side."""
        return self.low <= low and high <= self.high

    def excludes(self, low: float, high: float) -> bool:
        """Whether a whole interval is on the other side."""
        return high < self.low or low > self.high

    def out_of_reach(self, found: Measured) -> str:
        """Says that no result on so many prompts could have made the claim hold; empty if one could, or unknown."""
        best = list(found.best()) if found.best is not None else []
        if not best or any(self.contains(low, high) for low, high in best):
            return ""
        nearest = min(best, key=lambda ends: max(self.low - ends[0], ends[1] - self.high))
        reached = f"the nearest interval within reach is [{number(nearest[0])}, {number(nearest[1])}]"
        return f"cannot hold with {found.size}, whatever the result; {reached}"


def at_least(bound: float) -> Rule:
    """The claim's side is the bound and above."""
    return Rule(low=bound)


def at_most(bound: float) -> Rule:
    """The claim's side is the bound and below."""
    return Rule(high=bound)


def within(low: float, high: float) -> Rule:
    """The claim's side is between the bounds."""
    return Rule(low, high)


@dataclass(frozen=True)
class Ruling:
    """A verdict, the number that decided it (``None`` if nothing was measured) and the reason in one sentence.

    ``still_open`` says in a few words why nothing was decided, ``times`` how many times the data would decide (see
    :meth:`Rule.times_the_data`); empty and not a number where something was.
    """

    verdict: Verdict
    measured: Measured | None
    why: str
    note: str = ""
    still_open: str = ""
    times: float = math.nan


def rule_on(parts: Mapping[str, Measured], rules: Rule | Mapping[str, Rule]) -> Ruling:
    """The verdict on a claim of one part or several.

    A claim of several parts holds if every part does, and does not hold if one of them does not.

    Args:
        parts: name of the part (empty if there is only one) to what was measured.
        rules: one rule for all parts, or one for each.
    """
    if not parts:
        raise SaferlrmError("a claim needs at least one measured part")
    decided = {}
    for name, found in parts.items():
        rule = rules if isinstance(rules, Rule) else rules[name]
        decided[name] = (found, *rule.decide(found, len(parts)), rule)
    verdict = next(v for v in (FAILS, UNDECIDED, HOLDS) if any(v == d[1] for d in decided.values()))
    why = "; ".join(
        f"{f'{name}: ' if name else ''}{found} against {rule}: {reason}"
        for name, (found, _, reason, rule) in decided.items()
    )
    notes = ""
    if verdict != HOLDS:
        told = ((name, rule.out_of_reach(found)) for name, (found, _, _, rule) in decided.items())
        notes = "; ".join(f"{f'{name}: ' if name else ''}{note}" for name, note in told if note)
    shown = [part for part in decided.values() if part[1] == verdict]
    found, _, reason, rule = min(shown, key=lambda part: part[3].margin(part[0]))
    if verdict != UNDECIDED:
        return Ruling(verdict, found, why + ".", notes)
    crosses = not rule.contains(found.low, found.high) and not rule.excludes(found.low, found.high)
    times = rule.times_the_data(found) if crosses else math.nan
    return Ruling(verdict, found, why + ".", notes, reason.partition(" (")[0], times)


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        id: short and unique; ``wording``: what is claimed, in our words.
        source: who claims it; ``url``: its address or arXiv id.
        grounding: where the claim was read.
        metric: what is measured, in words; ``scope``: what it is measured on.
        measure: the measured parts of the claim.
        rule: the values on the claim's side; one rule for all parts or one for each.
        control: the method that the same is measured of beside it, in the place of PreSafe; empty where the claim
            compares the two itself or is about neither.
        premise: says what is missing without which there is nothing to judge; empty if nothing is.
    """

    id: str
    wording: str
    source: str
    url: str
    grounding: Grounding
    metric: str
    measure: Callable[[Results], Mapping[str, Measured]]
    rule: Rule | Mapping[str, Rule]
    scope: str
    control: str = ""
    premise: Callable[[Results], str] | None = None

    @property
    def rule_in_words(self) -> str:
        """The claim's side of the bound, for each part."""
        if isinstance(self.rule, Rule):
            return str(self.rule)
        return "; ".join(f"{part}: {rule}" for part, rule in self.rule.items())

    def judge(self, results: Results) -> Ruling:
        """The verdict on these results; what was not measured cannot be decided."""
        try:
            ruling = rule_on(self.measure(results), self.rule)
        except UnmeasuredError as missing:
            return Ruling(UNDECIDED, None, f"Not measured: {missing}.", still_open="not measured")
        lacking = self.premise(results) if self.premise else ""
        if not lacking:
            return ruling
        why = f"{lacking} ({ruling.why[:-1]})."
        return Ruling(UNDECIDED, ruling.measured, why, ruling.note, lacking.partition(":")[0].lower())

    def judge_control(self, results: Results) -> Ruling | None:
        """The verdict that the same rule gives on :attr:`control`; ``None`` where there is none."""
        return self.judge(results.instead({"presafe": self.control})) if self.control else None


def any_holds(claims: Sequence[Claim], lacking: str) -> Callable[[Results], str]:
    """A premise: one of these claims holds; ``lacking`` says what there is not if none does."""

    def premise(results: Results) -> str:
        shown = any(claim.judge(results).verdict == HOLDS for claim in claims)
        return "" if shown else f"{lacking}: none of {', '.join(claim.id for claim in claims)} holds"

    return premise


def judged(claims: Iterable[Claim], results: Results) -> pd.DataFrame:
    """Every claim with its verdict, in the given order.

    Returns:
        Columns ``id``, ``claim``, ``source``, ``url``, ``grounding``, ``metric``, ``rule``, ``value``, ``low``,
        ``high`` (95 %; of the part that decided, missing where nothing was measured), ``n`` (prompts), ``seeds``
        (alignment seeds, 0 where none takes part), ``unit``, ``scope``, ``verdict``, ``why`` (one sentence with the
        numbers), ``still_open`` (why it is not decided, in a few words), ``times_the_data`` (how many times the prompts
        and seeds would decide it if the value stayed; missing where that is not the reason), ``also`` (other numbers),
        ``note`` (that no result could have made it hold, if so), and ``control_value``, ``control_low``,
        ``control_high``, ``control_verdict``, ``control_still_open``: the same of the control, where the claim has one.
    """
    rows = []
    for claim in claims:
        ruling, control = claim.judge(results), claim.judge_control(results)
        found = ruling.measured
        rows.append(
            {
                "id": claim.id,
                "claim": claim.wording,
                "source": claim.source,
                "url": claim.url,
                "grounding": claim.grounding,
                "metric": claim.metric,
                "rule": claim.rule_in_words,
                **_ends(found),
                "n": found.n if found else 0,
                "seeds": found.seeds if found else 0,
                "unit": found.unit if found else "",
                "scope": claim.scope,
                "verdict": ruling.verdict,
                "why": ruling.why,
                "still_open": ruling.still_open,
                "times_the_data": ruling.times,
                "also": "; ".join(f"{name}: {number(v)}" for name, v in found.also.items()) if found else "",
                "note": ruling.note,
                **{f"control_{name}": end for name, end in _ends(control.measured if control else None).items()},
                "control_verdict": control.verdict if control else "",
                "control_still_open": control.still_open if control else "",
            }
        )
    return pd.DataFrame(rows)


def _ends(found: Measured | None) -> dict[str, float]:
    """Value and interval; not a number where nothing was measured."""
    return {name: getattr(found, name) if found else float("nan") for name in ("value", "low", "high")}


def number(value: float) -> str:
    """A number for a sentence: three decimals for rates, fewer for what is large or whole."""
    if math.isinf(value) or math.isnan(value):
        return {math.inf: "∞", -math.inf: "-∞"}.get(value, "undefined")
    digits = 3 if abs(value) < 3 else 0 if value == round(value) or abs(value) >= 100 else 2
    nudged = value + math.copysign(1e-9, value)  # a half is rounded the same way before and after it was stored
    return f"{round(nudged, digits) + 0.0:.{digits}f}"
