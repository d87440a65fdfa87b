"""Classifiers of real prompts: what they learn from, what they are tested on, and how their errors are counted."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from saferlrm.errors import SaferlrmError
from saferlrm.profile import load_profile
from saferlrm.real_classifier import FINETUNED, ranking, real_prompt_classifiers, real_prompts


@pytest.fixture(scope="module")
def data() -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SAFERLRM_TEST_DATA") or beside)
    if not (folder / "refusal_direction" / "harmful_train.json").is_file():
        pytest.skip("published prompts are not here: set SAFERLRM_TEST_DATA to a folder with refusal_direction/")
    return folder


def test_training_and_test_prompts_are_apart(data: Path) -> None:
    prompts = real_prompts(data)
    assert {name: len(table) for name, table in prompts.items()} == {"train": 1004, "xstest": 450, "jbb": 200}
    assert [int(prompts[name]["refuse"].sum()) for name in ("train", "xstest", "jbb")] == [251, 200, 100]
    tested = {text.lower() for name in ("xstest", "jbb") for text in prompts[name]["text"]}
    assert not tested & {text.lower() for text in prompts["train"]["text"]}
    assert prompts["train"].equals(real_prompts(data)["train"])


def test_columns_are_found_in_whatever_case(data: Path, tmp_path: Path) -> None:
    """JailbreakBench's own files say ``Goal``; copies of its benign half say ``goal``."""
    for name in ("xstest", "jailbreakbench", "refusal_direction"):
        shutil.copytree(data / name, tmp_path / name)
    for name in ("harmful", "benign"):
        path = tmp_path / "jailbreakbench" / f"{name}.csv"
        head, _, rows = path.read_text(encoding="utf-8").partition("\n")
        path.write_text(f"{head.swapcase()}\n{rows}", encoding="utf-8")
    assert real_prompts(tmp_path)["jbb"].equals(real_prompts(data)["jbb"])


def test_every_classifier_is_scored_on_both_tests(data: Path, tmp_path: Path) -> None:
    """On a fifth of the prompts, for one epoch; the numbers that count stand in results/11_real_classifier.json."""
    settings = load_profile("smoke").classifier.model_copy(update={"max_length": 32})
    for name in ("xstest", "jailbreakbench", "refusal_direction"):
        shutil.copytree(data / name, tmp_path / name)
    path = tmp_path / "refusal_direction" / "harmful_train.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))[:50]), encoding="utf-8")
    table = real_prompt_classifiers(tmp_path, settings, seeds=(0,))
    assert len(table) == 6
    assert table["test"].tolist() == ["xstest", "jbb"] * 3
    assert (table["auroc"] > 0.5).all()
    assert (table["n_train"] < 210).all()
    for name in ("auroc", "fpr_half", "fpr_recall"):
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()
    assert table.loc[table["model"] == FINETUNED, "seed"].tolist() == [0, 0]


def test_rankings_are_counted_right() -> None:
    rng = np.random.default_rng(1)
    refuse = np.arange(200) < 100
    p = np.round(rng.normal(refuse * 1.0), 1)  # with ties
    found = ranking(refuse, p, resamples=200)
    assert found["auroc"] == pytest.approx(roc_auc_score(refuse, p))
    assert found["auroc_low"] < found["auroc"] < found["auroc_high"]
    assert found["fpr_half"] == pytest.approx(np.mean(p[~refuse] > 0.5))
    threshold = max(t for t in p if np.mean(p[refuse] >= t) >= 0.95)
    assert found["fpr_recall"] == pytest.approx(np.mean(p[~refuse] >= threshold))
    perfect = ranking(refuse, refuse.astype(float), resamples=50)
    assert (perfect["auroc"], perfect["fpr_half"], perfect["fpr_recall"]) == (1, 0, 0)
    with pytest.raises(SaferlrmError, match="both labels"):
        ranking(np.ones(3, bool), np.zeros(3))


def test_files_that_are_not_as_published_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SaferlrmError, match=r"cannot read .*harmful_train\.json"):
        real_prompts(tmp_path)
    for name in ("refusal_direction", "xstest", "jailbreakbench"):
        shutil.copytree(data / name, tmp_path / name)
    path = tmp_path / "jailbreakbench" / "benign.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("goal", "aim", 1), encoding="utf-8")
    with pytest.raises(SaferlrmError, match=r"benign\.csv has no column 'goal'"):
        real_prompts(tmp_path)
