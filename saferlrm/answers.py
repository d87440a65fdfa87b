"""Which rows of the tidy tables a claim is about: a model, what it was asked, and what is read off its answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from saferlrm.crossed import outcomes
from saferlrm.suites.synthetic import BENIGN_SUITES, REASONING
from saferlrm.verdicts import Results, UnmeasuredError

# The column that names the model in each tidy table.
WHO = {
    "evaluation": "method",
    "controls": "condition",
    "temperature": "base",
    "organisms": "base",
    "confirmation": "condition",
    "further_organisms": "condition",
}
UNSEEN, JAILBREAKS = "harmful_unseen", "harmful_novel_wrapped"
BOTH = (UNSEEN, JAILBREAKS)


@dataclass(frozen=True)
class Answers:
    """Rows of a tidy table, and the column that is read off them.

    Attributes:
        table: name of the tidy table; ``who``: the model in it.
        where: column and value (or tuple of values) that the rows must have.
    """

    table: str
    who: str
    metric: str
    where: tuple[tuple[str, object], ...]

    def of(self, who: str) -> Answers:
        """The same of another model."""
        return replace(self, who=who)

    def but(self, **where: object) -> Answers:
        """The same rows but for what is given."""
        return replace(self, where=tuple((dict(self.where) | where).items()))

    def read(self, results: Results) -> pd.DataFrame:
        """Outcomes [prompts, seeds].

        Raises:
            UnmeasuredError: the table, a column or every row of it is missing.
        """
        found = results.once(self, lambda: self._outcomes(results.tidy(self.table), results.called(self.who)))
        if found.empty:
            said = ", ".join(f"{column} {wanted}" for column, wanted in self.where)
            who = results.called(self.who)
            raise UnmeasuredError(f"results/tidy/{self.table}.parquet has no {self.metric} of {who} ({said})")
        return found

    def _outcomes(self, rows: pd.DataFrame, who: str) -> pd.DataFrame:
        wanted = {WHO[self.table]: who} | dict(self.where)
        missing = [column for column in (*wanted, self.metric) if column not in rows]
        if missing:
            raise UnmeasuredError(f"results/tidy/{self.table}.parquet has no column {missing[0]!r}")
        chosen = pd.Series(True, rows.index)
        for column, value in wanted.items():
            chosen &= rows[column].isin(value) if isinstance(value, tuple) else rows[column] == value
        return outcomes(rows[chosen], self.metric)


Pair = tuple[Answers, Answers]  # before and after


def answers(table: str, who: str, metric: str, **where: object) -> Answers:
    """Rows of a tidy table, named by what their columns hold."""
    return Answers(table, who, metric, tuple(where.items()))


def attack(who: str, suite: str | tuple[str, ...] = UNSEEN, mode: str = "on", table: str = "evaluation") -> Answers:
    """Attack success of a model; by default on unseen direct requests with thinking on."""
    return answers(table, who, "attack_success", suite=suite, mode=mode)


def outcome(who: str, metric: str, suite: str | tuple[str, ...], table: str = "evaluation") -> Answers:
    """Any column of a model's scorecard, with thinking on."""
    return answers(table, who, metric, suite=suite, mode="on")


def grown(
    who: str, organism: int, suite: str | tuple[str, ...] = UNSEEN, mode: str = "on", table: str = "organisms"
) -> Answers:
    """Attack success of a model made from the organism of one growth seed."""
    return attack(who, suite, mode, table).but(organism=organism)


def solved(who: str, organism: int) -> Answers:
    """Accuracy on problems of a model made from the organism of one growth seed."""
    return outcome(who, "correct", REASONING, "organisms").but(organism=organism)


def thought(who: str, organism: int) -> Answers:
    """Length of the thought on harmless requests, in tokens, of a model made from the organism of one growth seed."""
    return outcome(who, "n_thought_tokens", BENIGN_SUITES, "organisms").but(organism=organism)


def hot(who: str) -> Answers:
    """Attack success among the sampling checks."""
    return attack(who, BOTH, table="temperature")
