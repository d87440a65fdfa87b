"""What was seen is tried again: on fresh seeds and further organisms, and how the attacks that fail end."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from saferlrm.endings import EMPTY, HIDDEN, ending, ending_lines, endings
from saferlrm.errors import SaferlrmError
from saferlrm.profile import load_profile
from saferlrm.store import Store, repository
from saferlrm.study import Study
from saferlrm.study import confirming as module


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """The smoke profile with two fresh seeds, and organisms that ship in the place of those that must be grown."""
    monkeypatch.setattr(module, "FRESH_SEEDS", (3, 4))
    monkeypatch.setattr(module, "FURTHER_ORGANISMS", (1, 2))
    monkeypatch.setattr(Study, "out", tmp_path / "out")
    return Study(load_profile("smoke", **{"evidence.workers": 1, "evidence.suite_size": 4}), Store(tmp_path / "store"))


def test_the_confirmation_asks_every_control_on_fresh_seeds_and_where_answers_may_be_longer(study, monkeypatch):
    rows = study.confirmation()
    conditions = {f"{name}/few" for name in ("sft", "presafe", "detached", "shuffled", "random")}
    longer = {f"{name}/few+limit={4 * study.profile.decoding.max_new_tokens}" for name in ("sft", "presafe")}
    assert set(rows["condition"]) == {"before"} | conditions | longer
    assert set(rows.loc[rows["condition"] != "before", "seed"]) == {3, 4}
    assert set(rows["organism"]) == {2}
    assert len(study.saved_rows("confirmation")) == len(rows)
    assert not {"thought", "answer", "text"} & set(study.saved_rows("confirmation"))
    ended = study.saved_rows("confirmation_endings")
    assert set(ended["condition"]) == {"sft/few", "presafe/few"}
    keys = ["condition", "seed", "suite", "prompt_id"]
    card = rows[rows["condition"].isin(["sft/few", "presafe/few"]) & (rows["mode"] == "on")]
    both = ended.merge(card, on=keys, suffixes=("", "_card"), validate="one_to_one")
    assert len(both) == len(ended) == 2 * 2 * 2 * 4
    assert (both["verdict"] == both["verdict_card"]).all()  # the same answers
    table = endings(ended, "sft/few", "presafe/few")
    assert np.allclose(table.groupby("suite")[["plain", "other"]].sum(), 1)
    monkeypatch.setattr(module, "answer", None)
    pd.testing.assert_frame_equal(study.confirmation(), rows)  # nothing is asked twice


def test_further_organisms_have_their_own_rows(study):
    rows = study.further_organisms()
    assert set(rows["organism"]) == {1, 2}
    assert set(rows["condition"]) == {"before", "sft/few", "presafe/few", "shuffled/few"}
    assert len(study.saved_rows("further_organisms")) == len(rows)


def test_only_organisms_can_be_tried_again(tmp_path, tiny_lm_folder):
    study = Study(load_profile("smoke", model=str(tiny_lm_folder)), Store(tmp_path))
    with pytest.raises(SaferlrmError, match="has no growth seeds"):
        study.confirmation()
    with pytest.raises(SaferlrmError, match="has no growth seeds"):
        study.further_organisms()


def answered(condition: str, verdicts: list[str], refuses: list[bool]) -> pd.DataFrame:
    """The same answers with each of three seeds."""
    one = pd.DataFrame(
        {"prompt_id": [f"p{i}" for i in range(len(verdicts))], "verdict": verdicts, "thought_refuses": refuses}
    )
    rows = pd.concat([one.assign(seed=seed) for seed in range(3)], ignore_index=True)
    return rows.assign(condition=condition, suite="harmful_unseen")


def test_a_refusal_that_the_user_does_not_see_is_an_ending_of_its_own():
    rows = answered("sft", ["refusal", "babble", "babble", "truncated", "compliance"], [True, True, False, False, True])
    assert ending(rows).tolist()[:5] == ["refused", HIDDEN, EMPTY, EMPTY, "answered"]


def test_endings_are_compared_prompt_by_prompt_with_an_interval():
    plain = answered("sft", ["compliance"] * 60 + ["refusal"] * 40, [False] * 100)
    other = answered("presafe", ["compliance"] * 20 + ["babble"] * 40 + ["refusal"] * 40, [False] * 60 + [True] * 40)
    table = endings(pd.concat([plain, other]).sample(frac=1, random_state=0), "sft", "presafe").set_index("ending")
    assert table.loc["answered", ["plain", "other", "difference"]].tolist() == pytest.approx([0.6, 0.2, -0.4])
    assert table.loc["answered", "high"] < -0.25
    assert table.loc[EMPTY, "low"] > 0.25
    assert table.loc["refused", ["low", "high"]].tolist() == pytest.approx([-0.037, 0.037], abs=1e-3)
    assert (table[["n", "seeds"]] == [100, 3]).all(axis=None)
    lines = ending_lines(table.reset_index())
    assert lines[0].startswith("harmful, unseen, answered: 0.600 and 0.200, difference −0.400 [−0.4")
    assert endings(pd.DataFrame(), "sft", "presafe").empty
    assert ending_lines(endings(pd.DataFrame(), "sft", "presafe")) == []


def test_the_declared_study_finds_the_rows_that_ship_and_no_other_does(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFERLRM_OUT", str(tmp_path))
    declared = Study("organism", Store(tmp_path / "store"))
    shipped = repository() / "results" / "tidy" / "further_organisms.parquet"
    pd.testing.assert_frame_equal(declared.saved_rows("further_organisms"), pd.read_parquet(shipped))
    declared.carry_rows()
    carried = {path.name for path in (tmp_path / "results" / "tidy").glob("*.parquet")}
    assert carried == {f"{name}.parquet" for name in ("confirmation", "confirmation_endings", "further_organisms")}
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("SAFERLRM_OUT", str(tmp_path / "other"))
    other = Study("organism", Store(tmp_path / "store"), data_seed=1)
    other.carry_rows()
    assert other.saved_rows("further_organisms").empty
    assert not (tmp_path / "other" / "results").exists()
