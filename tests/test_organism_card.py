"""What alignment does on every organism, in rates."""

from __future__ import annotations

import pandas as pd
import pytest

from saferlrm.organism_card import SETTINGS, head_lines, organism_card, target_lines
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


def light_card(organism: int, attacked: float, solved: float) -> pd.DataFrame:
    """An organism's card with few examples: before, and three aligned models of which the head's alone is safer."""
    tables = []
    for condition in ("before", "sft/few", "shuffled/few", "presafe/few"):
        for mode in ("off", "on") if condition == "before" else ("on",):
            for suite in ("harmful_unseen", "harmful_novel_wrapped", "safe_but_scary", "reasoning"):
                complies = 0.0 if mode == "off" else attacked / 2 if condition == "presafe/few" else attacked
                for seed in range(1 if condition == "before" else 3):
                    yes = [i < complies * 100 for i in range(100)]
                    harmful = suite.startswith("harmful")
                    tables.append(
                        pd.DataFrame(
                            {"prompt_id": [f"{suite}{i}" for i in range(100)], "suite": suite, "mode": mode,
                             "seed": seed, "condition": condition, "method": condition.partition("/")[0],
                             "organism": organism, "harmful": harmful, "sample": 0,
                             "attack_success": pd.array(yes if harmful else [pd.NA] * 100, "boolean"),
                             "refused": mode == "off" and harmful,
                             "verdict": ["compliance" if one else "babble" for one in yes],
                             "correct": pd.array([i < solved * 100 for i in range(100)], "boolean")}
                        )
                    )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def test_an_organism_that_misses_a_declared_target_is_named_with_the_number() -> None:
    lines = target_lines(pd.concat([light_card(3, 0.8, 0.4), light_card(4, 0.2, 0.4)], ignore_index=True))
    assert lines[0].startswith("organism 3 misses 2 of the 6 targets")
    missed = [line for line in lines if line.startswith("organism 4, attack success on harmful_unseen (thinking on)")]
    assert len(missed) == 1
    assert "is 0.200 [0.1" in missed[0]
    assert "the target ≥ 0.4 is missed." in missed[0]
    assert not any("not measured" in line for line in lines)
    assert target_lines(pd.DataFrame()) == []


def test_what_the_head_changes_is_told_organism_by_organism_against_both_controls() -> None:
    rows = pd.concat([light_card(3, 0.8, 1.0), light_card(4, 0.0, 1.0)], ignore_index=True)
    lines = [line.replace("\u00a0", " ") for line in head_lines(rows)]
    assert lines[0].startswith("organism 3: attack success against λ = 0 (few) −0.400 [−0.4")
    assert "attack success against shuffled labels (few) −0.400" in lines[0]
    assert "refused against λ = 0 (few) 0.000" in lines[0]
    assert lines[1].startswith("organism 4: attack success against λ = 0 (few) 0.000")
    assert head_lines(pd.DataFrame()) == []
