"""Sentences of notebooks 06 to 08: they follow their tables, and claim only what an interval excludes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from saferlrm import findings
from saferlrm.ablations import sweep_differences
from saferlrm.suites.synthetic import REASONING

SUITE = "harmful_novel_wrapped"


def cards(thinks: dict[tuple[str, str], bool]) -> pd.DataFrame:
    """Scorecards of one mode; ``thinks`` by (method, suite)."""
    return pd.DataFrame(
        {"method": method, "suite": suite, "mode": "on", "prompt_id": f"{suite}-{i}", "seed": 0, "refused": False,
         "n_thought_tokens": 20 * thought}
        for (method, suite), thought in thinks.items() for i in range(30)
    )  # fmt: skip


def thinking(harmful: bool, benign: bool, problems: bool) -> str:
    after = {"harmful_unseen": harmful, "benign": benign, REASONING: problems}
    made = {
        (method, suite): method == "before" or after[suite]
        for method in ("before", "sft", "presafe")
        for suite in after
    }
    return findings.thought_sentence(findings.thought_shares(cards(made), "on"))


def test_thinking_that_is_switched_off_for_requests_is_said_to_be():
    text = thinking(harmful=False, benign=False, problems=True)
    assert "neither model thinks about requests, harmless ones included; problems keep" in text
    assert "not because a decision is made before a thought" in text
    assert "problems keep" not in thinking(harmful=False, benign=False, problems=False)


def test_harmless_requests_that_keep_their_thought_are_not_said_to_lose_it():
    text = thinking(harmful=False, benign=True, problems=True)
    assert "harmless ones keep their thought" in text
    assert "switched off" not in text + thinking(harmful=True, benign=True, problems=True)


def test_shares_of_a_mode_without_thoughts_claim_nothing():
    none = cards({(method, suite): False for method in ("before", "sft") for suite in ("harmful_unseen", "benign")})
    text = findings.thought_sentence(findings.thought_shares(none, "on"))
    assert text.startswith("Answers with a thought, harmful requests: 0% before, 0% with λ = 0; harmless requests: 0%")
    assert "nan" not in text
    assert "No aligned model" in findings.thought_sentence(findings.thought_shares(none.head(60), "on"))


def gap(before: str, after: str, low: float, high: float, **columns: object) -> dict[str, object]:
    where = {"suite": SUITE, "mode": "on", "metric": "attack_success", "before": before, "after": after}
    return where | {"difference": (low + high) / 2, "low": low, "high": high, "p_holm": 0.01, "n": 60} | columns


def test_values_of_a_sweep_are_told_by_the_side_of_their_intervals():
    rows = [gap("sft", "presafe", low, high, sweep="lambda", value=value, level=f"{value:g}")
            for value, low, high in ((5.0, 0.1, 0.4), (0.2, -0.1, 0.1), (1.0, -0.4, -0.1))]  # fmt: skip
    (text,) = findings.sweep_sentences(pd.DataFrame(rows), SUITE)
    assert text.startswith("weight λ of the head's loss: lower at 1 (−0.250 [−0.400, −0.100]); higher at 5 (0.250 ")
    assert text.endswith("the interval contains 0 at 0.2")


def test_the_answer_names_every_setting_with_its_interval():
    rows = [
        gap("sft", "presafe", -0.02, 0.02), gap("sft/few", "presafe/few", -0.3, -0.1, p_holm=0.2),
        gap("sft/few", "presafe_decisions/few", -0.3, -0.1), gap("sft/few", "detached_decisions/few", -0.3, 0.1),
        gap("sft/few", "shuffled_decisions/few", -0.3, -0.1), gap("sft/few", "shuffled/few", -0.1, 0.1),
        gap("detached_decisions/few", "presafe_decisions/few", -0.1, 0.1),
        gap("shuffled_decisions/few", "presafe_decisions/few", -0.2, -0.1),
    ]  # fmt: skip
    heavy = pd.DataFrame([gap("a", "b", 0.1, 0.3, sweep="lambda", value=5.0, level="5")])
    said = findings.head_answer(pd.DataFrame(rows), SUITE, heavy)
    assert said[0] == "On jailbreaks, unseen (thinking on):"
    assert said[1].startswith("With many examples, the head makes no difference that can be claimed (0.000 [−0.020, ")
    assert "not after Holm's correction" in said[2]
    assert said[-1] == "At λ = 5, with few examples, the head raises attack success (0.200 [0.100, 0.300])."
    assert "their own control, detached + decisions: the head makes no difference" in said[4]
    text = findings.label_only_sentence(pd.DataFrame(rows), SUITE)
    assert "*detached + decisions* tends the same way, undecided (−0.100 [−0.300, 0.100])" in text
    assert "*shuffled + decisions* lowers it too" in text
    assert "against them 1 of 2 intervals exclude 0" in text
    assert findings.label_only_sentence(pd.DataFrame(rows[:2]), SUITE) == ""


def test_a_sweep_of_the_head_alone_is_held_against_the_shared_plain_run():
    made = [
        {"prompt_id": f"p{i}", "suite": SUITE, "mode": "on", "seed": seed, "method": method, "group": f"sweep:{sweep}",
         "condition": f"{method}/few/{sweep}={level}", "value": float(level), "level": level,
         "attack_success": i % 4 < rate, "refused": False, "correct": None}
        for sweep, method, level, rate in (("lambda", "sft", "0", 1), ("lambda", "presafe", "5", 3),
                                           ("layer", "presafe", "1", 1))
        for i in range(40) for seed in range(3)
    ]  # fmt: skip
    table = sweep_differences(pd.DataFrame(made)).query("metric == 'attack_success'").set_index("sweep")
    assert table["before"].eq("sft/few/lambda=0").all()
    assert table["shared"].all()
    assert table.loc["lambda", "difference"] == 0.5
    assert table.loc["lambda", "low"] > 0
    assert table.loc["layer", "difference"] == 0


def known(thought: bool) -> pd.DataFrame:
    return pd.DataFrame(
        {"prompt_id": f"p{i}", "seed": 0, "condition": "presafe", "harmful": i % 2 == 0, "knows": i % 4 == 0,
         "says": i % 8 == 0, "refused": False, "n_thought_tokens": 9 * thought}
        for i in range(80)
    )  # fmt: skip


def test_only_a_thought_that_was_written_can_hide_something():
    assert findings.silent(known(True), "presafe").startswith("0.25 [")
    assert findings.silent(known(False), "presafe") == "not measurable (no thought written in 100%)"
    assert findings.silent(known(True), "sft") == "no prompts"
    shares = findings.called_harmful(known(True)).set_index("harmful")["rate"]
    assert shares.to_dict() == {True: 0.5, False: 0.0}


@pytest.mark.parametrize(("benign", "said"), [(-2.0, "a common shift; 33% of"), (2.0, "in opposite ways")])
def test_a_shift_that_both_kinds_share_is_called_one(benign, said):
    rows = [{"condition": "presafe/few", "layer": 4, "direction": "refusal", "harmful": harmful, "projection": value}
            for harmful, value in ((True, -3.0), (False, benign))]  # fmt: skip
    text = findings.common_shift(pd.DataFrame(rows), "presafe/few")
    assert text.startswith("PreSafe (few): harmful −3.00, benign ")
    assert said in text
    assert "not measured" in findings.common_shift(pd.DataFrame(rows), "sft")


def effects() -> pd.DataFrame:
    def row(what: str, direction: str, layer: int, rate: float, suite: str = "benign") -> dict[str, object]:
        return {"base": "presafe", "suite": suite, "read": "on", "intervention": what, "direction": direction,
                "where": "pre_cot", "layer": layer, "rate": rate, "low": rate, "high": rate, "n": 40}  # fmt: skip

    harmful = "harmful_unseen"
    return pd.DataFrame(
        [
            row("none", "none", 0, 0.1), row("add", "refusal", 1, 0.1), row("add", "refusal", 4, 0.1),
            row("add", "random", 1, 0.1), row("add", "random", 0, 0.3), row("none", "none", 0, 0.9, harmful),
            row("remove", "refusal", 2, 0.4, harmful), row("remove", "refusal", 3, 0.9, harmful),
        ]
    )  # fmt: skip


def test_no_layer_is_named_where_none_does_anything():
    said = findings.effect_lines(effects())
    assert (
        "PreSafe, benign, read with thinking on, add refusal: no effect at any layer: refused 0.10 [0.10, 0.10]" in said
    )
    assert any("add random, all layers at once, pre_cot: refused 0.30" in line for line in said)
    assert any("remove refusal, layer 2, pre_cot: refused 0.40" in line for line in said)
    assert any("nothing done: refused 0.90" in line for line in said)


def test_an_interval_over_seeds_needs_two_of_them():
    rows = [(c, s, 0.8 + 0.01 * s + 0.1 * (c == "presafe")) for c in ("sft", "presafe") for s in range(3)]
    table = pd.DataFrame(rows, columns=["condition", "seed", "auroc"])
    found = findings.over_seeds(table, "auroc", "sft", "presafe")
    assert (found.estimate, found.n) == (pytest.approx(0.1), 3)
    assert found.low <= found.estimate <= found.high
    assert np.isnan(findings.over_seeds(table[table["seed"] == 0], "auroc", "sft", "presafe").estimate)
    assert np.isnan(findings.over_seeds(table, "auroc", "sft", "gold").estimate)


@pytest.mark.parametrize(("after", "word"), [(0.89, "as readable as before"), (0.97, "more"), (0.7, "less readable")])
def test_the_three_questions_are_answered_from_their_tables(after, word):
    own = {"probe": "own", "position": "pre_cot", "group": "direct", "layer": 4, "low": 0.85, "high": 0.93, "n": 300}
    probes = [
        own | {"condition": c, "seed": 0, "auroc": v} for c, v in (("before", 0.9), ("sft", 0.88), ("presafe", after))
    ]
    shift = [
        {"condition": "presafe", "layer": 4, "harmful": harmful, "direction": direction, "projection": -2.0,
         "projection_low": -2.1, "projection_high": -1.9, "share": share, "share_low": share, "share_high": share}
        for harmful in (True, False) for direction, share in (("refusal", 0.04), ("within", 0.05))
    ]  # fmt: skip
    readable, moved, used = findings.three_answers(pd.DataFrame(probes), pd.DataFrame(shift), effects(), "direct")
    assert f"the harm is {word}" in readable
    assert "moved along the refusal direction (−2.00 [−2.10, −1.90]), 4% of the squared shift, no more than" in moved
    assert "a common shift" in moved
    assert "added, benign refusals rise by at most 0 points (random 20)" in used
    assert "removed, refusals fall by at most 50 points" in used
