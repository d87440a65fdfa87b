"""Shorter and longer thoughts: what the model gets to read, and what is counted."""

from __future__ import annotations

import pytest
from tiny import write_hasty_lm

from saferlrm import budget
from saferlrm.budget import budget_rows, budget_table, closed
from saferlrm.errors import SaferlrmError
from saferlrm.evaluate import scorecard
from saferlrm.generate import Decoding
from saferlrm.lm import load_lm
from saferlrm.suites.synthetic import build_suite

SUITES = {"reasoning": build_suite("reasoning", 6), "harmful_unseen": build_suite("harmful_unseen", 4)}
DECODING = Decoding(max_new_tokens=60)


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return load_lm(write_hasty_lm(tmp_path_factory.mktemp("hasty")))


def test_every_prompt_at_every_budget(lm):
    rows = budget_rows(lm, SUITES, DECODING, (0, 4), (8, 16))
    assert rows.groupby(["budget", "tokens"], dropna=False).size().tolist() == [10] * 5
    cut = rows[(rows["budget"] == "cut")].groupby("tokens")["n_thought_tokens"]
    assert cut.max()[0] == 0
    assert cut.max()[4] <= 4
    modes = rows.groupby(["budget", "tokens"], dropna=False)["mode"].unique().map(list).to_dict()
    assert modes["cut", 0] == ["off"]
    assert modes["forced", 16] == ["forced"]


def test_a_cut_thought_is_closed_so_that_an_answer_follows(lm):
    seen = closed(lm, ["one two three four five six"], 2)[0]
    assert seen.endswith(f"\n{lm.chat.think_close}")
    assert len(lm.encode([seen.removesuffix(lm.chat.think_close).strip()])[0]) <= 2
    assert closed(lm, [""], 2) == [lm.chat.think_close]


def test_what_follows_a_cut_is_answer_and_not_thought(lm, monkeypatch):
    given = {}

    def spy(lm, suites, modes, decoding, batch_size, openings=None, judge=None, **more):
        if openings:
            given.update(openings)
        return scorecard(lm, suites, modes, decoding, batch_size, openings=openings, judge=judge)

    monkeypatch.setattr(budget, "scorecard", spy)
    rows = budget_rows(lm, SUITES, DECODING, (3,), ())
    assert set(given) == {prompt.id for suite in SUITES.values() for prompt in suite}
    assert (rows.loc[rows["budget"] == "cut", "n_thought_tokens"] <= 3).all()


def test_the_table_runs_from_short_to_long(lm):
    table = budget_table(budget_rows(lm, SUITES, DECODING, (4, 0), (16, 8)), "correct")
    assert table["budget"].tolist() == ["cut", "cut", "own", "forced", "forced"]
    assert table["tokens"].fillna(-1).tolist() == [0, 4, -1, 8, 16]
    assert table["n"].tolist() == [6] * 5  # problems alone can be solved
    by_suite = budget_table(budget_rows(lm, SUITES, DECODING, (0,), (8,)), "attack_success", ("suite",))
    assert by_suite["suite"].unique().tolist() == ["harmful_unseen"]


def test_a_forced_length_without_room_for_an_answer_is_refused(lm):
    with pytest.raises(SaferlrmError, match="leave no answer"):
        budget_rows(lm, SUITES, DECODING, (), (60,))
