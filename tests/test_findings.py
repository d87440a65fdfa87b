"""Sentences of notebooks 06 and 07: they follow their tables, and claim only what an interval excludes."""

from __future__ import annotations

import pandas as pd

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
    assert "neither model thinks about more than 5% of the harmful or of the harmless requests; problems keep" in text
    assert "whether the decision or the missing thought brings it, rates do not tell" in text
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
    heavy = pd.DataFrame([gap("a", "b", 0.1, 0.3, sweep="lambda", value=5.0, level="5") | {"suite": suite}
                          for suite in (SUITE, "harmful_unseen")])  # fmt: skip
    said = findings.head_answer(pd.DataFrame(rows), SUITE, heavy)
    assert said[0] == "On jailbreaks, unseen (thinking on):"
    assert said[1].startswith("With many examples, the head makes no difference that can be claimed (0.000 [−0.020, ")
    assert "not after Holm's correction" in said[2]
    for line, where in zip(said[-2:], ("jailbreaks, unseen", "harmful, unseen"), strict=True):  # not the suite alone
        raised = f"At λ = 5, with few examples, on {where}, the head raises attack success (0.200 [0.100, 0.300])."
        assert line == raised
    assert "their own control, detached + decisions: the head makes no difference" in said[4]
    assert "(0.000 [−0.100, 0.100]: at most 10 points)" in said[4]
    text = findings.label_only_sentence(pd.DataFrame(rows), SUITE)
    assert "*detached + decisions* cannot be told from λ = 0 (−0.100 [−0.300, 0.100])" in text
    assert "*shuffled + decisions* lowers it too" in text
    assert "What the head itself adds to them: 1 of 2 intervals exclude 0" in text
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


def test_direct_requests_stand_beside_jailbreaks_in_what_labels_without_answers_do():
    rows = [
        gap(before, after, low, high, suite=suite)
        for suite, low, high in ((SUITE, -0.3, -0.1), ("harmful_unseen", -0.4, 0.2))
        for before, after in (
            ("sft/few", "presafe_decisions/few"), ("sft/few", "detached_decisions/few"),
            ("sft/few", "shuffled_decisions/few"), ("detached_decisions/few", "presafe_decisions/few"),
            ("shuffled_decisions/few", "presafe_decisions/few"),
        )
    ]  # fmt: skip
    text = findings.label_only_sentence(pd.DataFrame(rows), SUITE)
    assert text.index("On jailbreaks, unseen") < text.index("On harmful, unseen")
    assert "makes no difference that can be claimed (−0.100 [−0.400, 0.200]: at most 40 points) against λ = 0" in text
    assert "0 of 2 intervals exclude 0 (−0.100 [−0.400, 0.200] and −0.100 [−0.400, 0.200])" in text


def test_several_differences_are_bounded_by_their_widest_ends():
    rows = pd.DataFrame([gap("a", "b", -0.04, 0.01), gap("a", "b", -0.01, 0.025, suite="harmful_unseen")])
    text = findings.bounds(rows)
    assert text.startswith("0 of 2 intervals exclude 0")
    assert "a fall by 4.0 points (jailbreaks, unseen) and a rise by 2.5 (harmful, unseen)" in text
    assert findings.bounds(pd.DataFrame([gap("a", "b", 0.01, 0.03)])).startswith("1 of 1 intervals exclude 0")
    assert "a fall by 0.0 points" in findings.bounds(pd.DataFrame([gap("a", "b", 0.01, 0.03)]))
    assert findings.bounds(rows.head(0)) == "not measured"


def test_labels_that_are_equal_are_called_one_control():
    gold = pd.Series([True, False] * 50)
    assert findings.equal_labels(pd.DataFrame({"refused": gold}), gold).endswith(
        "equal for 100 of 100 examples, one control under two names"
    )
    other = gold.copy()
    other[:30] = False
    assert findings.equal_labels(pd.DataFrame({"refused": other}), gold).endswith("equal for 85 of 100 examples, two")
