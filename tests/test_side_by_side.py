"""Worker processes: they stay, give memory back, find the same, and are renewed after a failure."""

from __future__ import annotations

import logging
import os
import signal
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformers.trainer_utils import sort_checkpoints

from saferlrm.conditions import condition
from saferlrm.memory import MEMORY_KEPT, PeakMemory, environment, give_back
from saferlrm.profile import load_profile
from saferlrm.store import Store
from saferlrm.study import Study, side_by_side

MB = 10**6


@pytest.fixture
def two(tmp_path) -> Study:
    return Study(load_profile("smoke", **{"evidence.workers": 2}), Store(tmp_path))


def workers() -> set[int]:
    return set(side_by_side._pool(2)._processes)


def test_a_variable_holds_for_a_while_and_what_was_there_comes_back(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    with environment(MEMORY_KEPT):
        assert {name: os.environ[name] for name in MEMORY_KEPT} == MEMORY_KEPT
    assert os.environ["MALLOC_ARENA_MAX"] == "7"
    assert "MALLOC_TRIM_THRESHOLD_" not in os.environ


def test_giving_back_frees_what_nobody_holds():
    with PeakMemory() as held:
        block = np.ones(400 * MB // 8)
    del block
    give_back()
    with PeakMemory() as after:
        pass
    assert held.mb - after.mb > 300


def test_the_modes_of_one_model_side_by_side_are_its_scorecard(two, tmp_path_factory):
    alone = Study(load_profile("smoke"), Store(tmp_path_factory.mktemp("alone")))
    pd.testing.assert_frame_equal(two.scorecard(), alone.scorecard())
    assert not (alone.store.root / "scorecard_of_mode").exists()
    assert len(list((two.store.root / "scorecard_of_mode").glob("*/manifest.json"))) == len(two.profile.modes)


def test_workers_stay_for_the_next_table_and_are_renewed_after_a_failure(two):
    two.side_by_side("history", [("sft", 0), ("presafe", 0)])
    first = workers()
    assert len(first) == 2
    rows = two.histories(("sft", "presafe"))
    assert workers() == first
    assert set(rows["method"]) == {"sft", "presafe"}
    assert rows.groupby("method")["seed"].nunique().eq(len(two.profile.seeds)).all()
    os.kill(min(first), signal.SIGKILL)
    with pytest.raises(BrokenProcessPool):
        two.side_by_side("scorecard", [("sft", 0), ("presafe", 0)])
    assert not workers() & first


def test_the_whole_alignment_set_has_the_seeds_of_the_sweeps(two, monkeypatch):
    more = two.like(evidence=two.profile.evidence.model_copy(update={"seeds": (0, 1, 2), "workers": 1}))
    monkeypatch.setattr("saferlrm.study.controls.conditions.controls", lambda: [condition("sft"), condition("sft/few")])
    seeds = more.controls().groupby("group")["seed"].unique()
    assert list(seeds["control"]) == [0, 1]
    assert list(seeds["few"]) == [0, 1, 2]


def test_two_checkpoints_within_a_second_warn_nobody_and_other_warnings_pass(tmp_path: Path) -> None:
    logger = logging.getLogger("transformers.trainer_utils")
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logger.addHandler(handler)
    try:
        for step in (9, 10):
            (tmp_path / f"checkpoint-{step}").mkdir()
        ordered = sort_checkpoints(str(tmp_path), use_mtime=True)
        logger.warning("something else")
    finally:
        logger.removeHandler(handler)
    assert [Path(one).name for one in ordered] == ["checkpoint-9", "checkpoint-10"]
    assert seen == ["something else"]
