"""What figures of the evidence call their conditions, in which order and colour, and what they measure."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from saferlrm.conditions import FEW
from saferlrm.plots import style
from saferlrm.suites.synthetic import REASONING

# The order in which figures of the evidence show conditions; those that are missing here come last.
ORDER = (
    "before",
    "sft",
    "presafe",
    "hard",
    "gold",
    "detached",
    "shuffled",
    "random",
    "presafe_decisions",
    "detached_decisions",
    "shuffled_decisions",
    "safety_tax",
    "reasoned",
    "safepath",
    "safekey",
    "thinksafe",
)
# Of conditions that the theme has no colour for. Rivals without training are drawn hollow, so that a few can return.
COLOURS = {
    "presafe_decisions": "#003F66",
    "detached_decisions": "#8CC7E8",
    "shuffled_decisions": "#B8B8B8",
    "safety_tax": "#D55E00",
    "reasoned": "#009E73",
    "safepath": "#56B4E9",
    "safekey": "#CC79A7",
    "thinksafe": "#7A5C3E",
    "zerothink": style.PALETTE["off"],
    "lessthink": style.PALETTE["short"],
    "morethink": style.PALETTE["on"],
    "saferemind": "#009E73",
    "steering": "#D55E00",
    "steering_pre_cot": "#B8860B",
}
PLAIN = style.method_name("sft").replace(" ", "\u00a0")  # no line ends within it
BUDGETS = {"control": "the full alignment set", FEW: "few examples"}


METRICS = {"attack_success": "attack success", "refused": "refused", "correct": "problems solved"}


class Measure(NamedTuple):
    """One rate of the evidence: which rows count, and what of them."""

    title: str
    metric: str
    suite: str
    mode: str = "on"

    def of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows that count."""
        return rows[(rows["suite"] == self.suite) & (rows["mode"] == self.mode) & rows[self.metric].notna()]


UNSEEN = Measure("Attack success,\ndirect requests", "attack_success", "harmful_unseen")
WRAPPED = Measure("Attack success,\nunseen jailbreaks", "attack_success", "harmful_novel_wrapped")
PREFILLED = Measure("Attack success,\nprefilled thoughts", "attack_success", "harmful_unseen", "prefilled")
SCARY = Measure("Over-refusal,\nsafe but scary", "refused", "safe_but_scary")
BENIGN_WRAPPED = Measure("Over-refusal,\nbenign in unseen jailbreaks", "refused", "benign_novel_wrapped")
SOLVED = Measure("Problems solved\n", "correct", REASONING)
MEASURES = (UNSEEN, WRAPPED, PREFILLED, SCARY, BENIGN_WRAPPED, SOLVED)
ATTACKS = {UNSEEN: "direct requests", WRAPPED: "unseen jailbreaks", PREFILLED: "prefilled thoughts"}


def condition_name(name: str) -> str:
    """What a figure of the evidence calls a condition or method: ``presafe/few`` is ``PreSafe (few)``."""
    method, _, budget = name.partition("/")
    known = PLAIN if method == "sft" else style.method_name(method)
    return f"{known} ({budget})" if budget else known


def display_name(name: str) -> str:
    """What tables and sentences call a suite, a method, a condition, a thinking mode, an alignment set or a metric."""
    for known in (style.SUITE_NAMES, BUDGETS, METRICS, style.MODE_NAMES):
        if name in known:
            return known[name]
    return condition_name(name).replace("\u00a0", " ")


def conditions(found: pd.Series) -> list[str]:
    """The conditions or methods that occur, in the order of the study; those of the few examples after the others."""
    return style.in_order(found, [name + budget for budget in ("", f"/{FEW}") for name in ORDER])


def colour(condition: str, position: int = 0) -> str:
    """The colour of a condition, the same for both alignment budgets."""
    method = condition.partition("/")[0]
    return COLOURS.get(method) or style.colour(method, position)
