"""What figures of the evidence call their conditions, in which order and colour, and what they measure."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from saferlrm.conditions import FEW
from saferlrm.plots import style
from saferlrm.suites.synthetic import REASONING

# What a figure of the evidence calls a condition, in the order in which figures show them. What is missing here has the
# label of its method.
CONDITION_NAMES = {
    "before": "before alignment",
    "sft": "λ\u00a0=\u00a00",  # no line ends within it
    "presafe": "PreSafe",
    "presafe_decisions": "PreSafe + decisions",
    "hard": "hard decisions",
    "gold": "gold labels",
    "detached": "detached head",
    "shuffled": "shuffled labels",
    "shuffled_decisions": "shuffled + decisions",
    "random": "random labels",
    "safety_tax": "Safety Tax",
    "reasoned": "SafeChain / STAR-1",
    "safepath": "SAFEPATH",
    "safekey": "SafeKey",
    "thinksafe": "ThinkSafe",
}
# Rivals without training are drawn hollow, so that a few colours can return.
COLOURS = {
    "before": style.PALETTE["before"],
    "sft": style.PALETTE["sft"],
    "presafe": style.PALETTE["presafe"],
    "presafe_decisions": "#003F66",
    "hard": style.PALETTE["hard"],
    "gold": style.PALETTE["gold"],
    "detached": style.PALETTE["detached"],
    "shuffled": style.PALETTE["shuffled"],
    "shuffled_decisions": "#B8B8B8",
    "random": style.PALETTE["random"],
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
PLAIN = CONDITION_NAMES["sft"]
BUDGETS = {"control": "the full alignment set", FEW: "few examples"}


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
    known = CONDITION_NAMES.get(method) or style.method_name(method)
    return f"{known} ({budget})" if budget else known


def conditions(found: pd.Series) -> list[str]:
    """The conditions or methods that occur, in the order of the study; those of the few examples after the others."""
    return style.in_order(found, [name + budget for budget in ("", f"/{FEW}") for name in CONDITION_NAMES])


def colour(condition: str, position: int = 0) -> str:
    """The colour of a condition, the same for both alignment budgets."""
    method = condition.partition("/")[0]
    return COLOURS.get(method) or style.colour(method, position)
