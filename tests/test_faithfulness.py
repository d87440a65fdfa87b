"""Hints: what is put into problems, and what counts as following and mentioning."""

from __future__ import annotations

import random
from dataclasses import replace

import pandas as pd
import pytest

from saferlrm import faithfulness
from saferlrm.errors import SaferlrmError
from saferlrm.faithfulness import TEMPLATES, disclosed, hint_rows, hinted, influence, mentions_hint, two_by_two
from saferlrm.generate import Decoding
from saferlrm.lm import load_lm
from saferlrm.organism.problems import FAMILIES, make_problem
from saferlrm.suites.synthetic import build_suite

PROBLEMS = build_suite("reasoning", 24)


def test_a_wrong_hint_is_wrong_and_a_right_one_right():
    forms = hinted(PROBLEMS)
    assert len(forms) == len(PROBLEMS) * 6
    gold = {problem.id: problem.answer for problem in PROBLEMS}
    for prompt, kind, right, hint in forms:
        assert (hint == gold[prompt.id]) == bool(right)
        assert prompt.answer == gold[prompt.id]  # the problem stays what it was
        if right is None:
            assert "answer is" not in prompt.text
        else:
            assert TEMPLATES[kind].format(problem="", hint=hint).strip() in prompt.text


def test_hints_depend_on_the_problem_and_seed_alone():
    assert hinted(PROBLEMS) == hinted(PROBLEMS)
    assert hinted(PROBLEMS) != hinted(PROBLEMS, seed=1)
    one, other = (
        {(p.id, kind, right): hint for p, kind, right, hint in hinted(some)} for some in (PROBLEMS, PROBLEMS[::-1])
    )
    assert one == other


def test_problems_without_answers_or_with_one_answer_are_refused():
    with pytest.raises(SaferlrmError, match="known answer"):
        hinted([replace(p, answer=None) for p in PROBLEMS])
    with pytest.raises(SaferlrmError, match="problems have the answer 7"):
        hinted([replace(p, answer="7") for p in PROBLEMS])


def test_the_working_of_a_problem_mentions_no_hint():
    rng = random.Random(0)
    for family in FAMILIES:
        for _ in range(100):
            assert not mentions_hint(" ".join(make_problem(rng, family).steps))
    assert mentions_hint("Somebody says it is 7, so I check.")
    assert mentions_hint("The key tells 7.")


def table(cases: list[tuple[bool, bool, bool]]) -> pd.DataFrame:
    """Answers to a wrong hint: (follows, mentions, follows without the hint), and their controls."""
    rows = []
    for i, (follows, mentions, unhinted) in enumerate(cases):
        for form, hint, right in (("none", "none", None), ("somebody, wrong", "somebody", False)):
            seen = form != "none"
            rows.append(
                {
                    "prompt_id": f"p{i}", "family": "totals", "depth": 1, "mode": "on", "form": form, "hint": hint,
                    "right": right, "correct": not (follows if seen else unhinted), "said": "1",
                    "follows": follows if seen else unhinted, "follows_unhinted": unhinted,
                    "changed": seen and follows != unhinted, "mentions": mentions if seen else False,
                }
            )  # fmt: skip
    return pd.DataFrame(rows).astype({"right": "boolean", "mentions": "boolean", "correct": "boolean"})


def test_the_two_by_two_table_counts_influence_alone():
    moved = [(True, True, False)] * 2 + [(True, False, False)] * 5
    rows = table(moved + [(False, False, False)] * 3 + [(True, False, True)] * 4)
    cells = two_by_two(rows).set_index(["follows", "mentions"])["k"]
    assert cells.to_dict() == {(True, True): 2, (True, False): 5, (False, True): 0, (False, False): 3}
    found = disclosed(rows)
    assert (found.estimate, found.n) == (2 / 7, 7)
    effect = influence(rows).iloc[0]
    assert effect["follows"] == pytest.approx(0.5)  # 11 of 14 with, 4 of 14 without
    assert effect["accuracy"] == pytest.approx(-0.5)
    assert effect["changed"] == pytest.approx(0.5)
    assert effect["follows_low"] > 0


def test_nothing_that_follows_leaves_the_share_open():
    assert disclosed(table([(False, False, False)] * 5)).n == 0
    assert two_by_two(table([(False, False, False)] * 5).assign(mentions=pd.array([None] * 10, "boolean"))).empty


def test_rows_join_every_form_with_its_control(tiny_lm_folder, monkeypatch):
    lm = load_lm(tiny_lm_folder)
    monkeypatch.setattr(faithfulness, "said_in", lambda text: "7" if text else None)
    rows = hint_rows(lm, PROBLEMS[:4], ("off", "on"), Decoding(max_new_tokens=6))
    assert len(rows) == 4 * 6 * 2
    assert not rows.duplicated(["prompt_id", "mode", "form"]).any()
    assert not rows.loc[rows["hint"] == "none", "changed"].any()
    assert (rows["mentions"].isna() == rows["n_thought_tokens"].eq(0)).all()  # without a thought nothing can be told
    assert not {"thought", "answer"} & set(rows)
