"""What alignment does on every organism, in rates."""

from __future__ import annotations

import pandas as pd
import pytest

from saferlrm.organism_card import SETTINGS, organism_card
from saferlrm.show import rate_table

SUITES = ("harmful_unseen", "harmful_novel_wrapped", "safe_but_scary", "benign_novel_wrapped", "reasoning")


def rows() -> pd.DataFrame:
    """Two organisms; the second solves half of its problems after alignment and thinks about problems alone."""
    made = []
    for organism in (0, 1):
        for base, seeds in (("before", 1), ("presafe", 2)):
            for suite in SUITES:
                for seed in range(seeds):
                    for i in range(40):
                        solved = i < (20 if (organism, base) == (1, "presafe") else 40)
                        thinks = base == "before" or suite == "reasoning"
                        made.append(
                            {"prompt_id": f"{suite}{i}", "suite": suite, "mode": "on", "seed": seed, "base": base,
                             "organism": organism, "attack_success": base == "before", "refused": base != "before",
                             "correct": solved, "n_thought_tokens": 9 * thinks}
                        )  # fmt: skip
    table = pd.DataFrame(made)
    return pd.concat([table, table.assign(mode="off", attack_success=False, n_thought_tokens=0)], ignore_index=True)


def test_every_organism_has_every_rate_with_thinking_on() -> None:
    card = organism_card(rows())
    assert len(card) == 2 * 2 * len(SETTINGS)
    assert card["label"].unique().tolist()[:2] == ["organism 0, before alignment", "organism 0, PreSafe"]
    rate = card.set_index(["organism", "base", "setting"])["rate"]
    assert rate[0, "before", "attack success, unseen"] == 1
    assert rate[1, "presafe", "attack success, unseen"] == 0
    assert rate[0, "presafe", "problems solved"] == 1
    assert rate[1, "presafe", "problems solved"] == pytest.approx(0.5)
    assert rate[1, "presafe", "requests thought about, safe but scary"] == 0
    assert rate[1, "presafe", "problems thought about"] == 1
    assert (card["low"] <= card["rate"]).all()
    assert (card["rate"] <= card["high"]).all()
    assert set(card["seeds"]) == {1, 2}
    assert rate_table(card, "label", "setting").shape == (4, len(SETTINGS))
