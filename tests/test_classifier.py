"""The decision classifier on the real MiniLM encoder: it learns, is calibrated, repeats and resumes."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit
from transformers import BertConfig, BertModel, Trainer

from saferlrm.classifier import (
    TEMPERATURE_FILE,
    encoder_source,
    fit_temperature,
    predict,
    train_classifier,
    validation_split,
)
from saferlrm.classifier_report import (
    BERT,
    FROZEN,
    TFIDF,
    UNCALIBRATED,
    learning_curve,
    report_classifier,
    scores,
)
from saferlrm.errors import SaferlrmError
from saferlrm.profile import ClassifierSettings
from saferlrm.training import last_complete_checkpoint

SETTINGS = ClassifierSettings(epochs=3, learning_rate=2e-4, batch_size=8, max_length=32, validation_fraction=0.2)


def prompts(n: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Requests about one of eight things; those about four of them are refused."""
    rng = np.random.default_rng(seed)
    bad, good = ("poison", "bomb", "virus", "weapon"), ("cake", "garden", "poem", "bicycle")
    frames = ("How do I make a {}?", "Tell me how to build a {} at home", "Explain a {}, step by step")
    refused = np.arange(n) % 2
    texts = [rng.choice(frames).format(f"{rng.choice(bad if r else good)} {rng.integers(99)}") for r in refused]
    return texts, refused.astype(float)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return train_classifier(*prompts(80, 0), SETTINGS, tmp_path_factory.mktemp("classifier"), seed=0)


def random_encoder(folder: Path) -> str:
    """A one-layer random BERT with MiniLM's tokenizer, where the weights do not matter."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder_source("minilm"))
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_the_real_encoder_learns_the_decision(trained):
    texts, refused = prompts(40, 1)
    found = scores(refused, predict(trained, texts))
    assert found["auroc"] > 0.97
    assert found["accuracy"] > 0.9
    assert found["accuracy_low"] < found["accuracy"] <= found["accuracy_high"]


def test_the_saved_folder_is_plain_transformers(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", TEMPERATURE_FILE} <= names
    assert "checkpoints" not in names
    assert not any(path.suffix in (".bin", ".pt", ".pth") for path in trained.rglob("*"))
    assert "/" not in json.loads((trained / "config.json").read_text()).get("_name_or_path", "")


def test_answers_do_not_depend_on_order_or_batch(trained):
    texts, _ = prompts(20, 2)
    together = predict(trained, texts)
    assert predict(trained, texts[::-1], batch_size=3)[::-1] == pytest.approx(together, abs=1e-5)
    assert len(predict(trained, [])) == 0


def test_temperature_keeps_the_order_and_mends_overconfidence():
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 1.5, 4000)
    outcome = (rng.uniform(size=4000) < expit(honest)).astype(float)
    fitted = fit_temperature(honest * 3, outcome)
    assert fitted["temperature"] == pytest.approx(3, rel=0.1)
    assert fitted["loss_after"] < fitted["loss_before"]
    before, after = (
        scores(outcome, expit(honest * 3)),
        scores(outcome, expit(honest * 3 / fitted["temperature"])),
    )
    assert after["ece"] < 0.03 < before["ece"]
    assert after["auroc"] == pytest.approx(before["auroc"])
    assert after["brier"] < before["brier"]


def test_a_split_without_errors_gives_a_finite_temperature():
    fitted = fit_temperature(np.array([5.0, -4.0, 6.0]), np.array([1.0, 0.0, 1.0]))
    assert 1 / 20 <= fitted["temperature"] <= 20


def test_calibration_uses_the_validation_split_alone(trained):
    record = json.loads((trained / TEMPERATURE_FILE).read_text())
    assert (record["n_train"], record["n_validation"]) == (64, 16)
    targets = prompts(80, 0)[1]
    train, validation = validation_split(targets, 0.2, seed=0)
    assert sorted([*train, *validation]) == list(range(80))
    assert targets[validation].mean() == pytest.approx(0.5)


def test_soft_labels_are_learnt_as_probabilities(tmp_path):
    texts, refused = prompts(40, 0)
    soft = np.where(refused > 0.5, 0.7, 0.2)
    folder = train_classifier(texts, soft, SETTINGS.model_copy(update={"epochs": 5}), tmp_path, seed=0)
    found = predict(folder, texts, calibrated=False)
    assert found[refused > 0.5].mean() == pytest.approx(0.7, abs=0.12)
    assert found[refused < 0.5].mean() == pytest.approx(0.2, abs=0.12)


def test_equal_seeds_repeat_and_a_killed_run_ends_the_same(tmp_path, monkeypatch):
    run = SETTINGS.model_copy(update={"encoder": random_encoder(tmp_path / "encoder"), "learning_rate": 0.01})
    texts, refused = prompts(40, 0)
    whole = predict(train_classifier(texts, refused, run, tmp_path / "whole", 0), texts)
    again = predict(train_classifier(texts, refused, run, tmp_path / "again", 0), texts)
    other = predict(train_classifier(texts, refused, run, tmp_path / "other", 1), texts)
    assert (again == whole).all()
    assert not (other == whole).all()

    step = Trainer.training_step

    def interrupted(trainer, *args, **kwargs):
        if trainer.state.global_step == 6:
            raise KeyboardInterrupt
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_classifier(texts, refused, run, tmp_path / "killed", 0)
    assert Path(last_complete_checkpoint(tmp_path / "killed" / "checkpoints")).name == "checkpoint-4"
    with pytest.raises(SaferlrmError, match="no finished classifier"):
        predict(tmp_path / "killed", texts)
    resumed = predict(train_classifier(texts, refused, run, tmp_path / "killed", 0), texts)
    assert (resumed == whole).all()


def test_report_puts_the_classifier_beside_its_baselines(trained):
    test = prompts(24, 3)
    table = report_classifier(trained, prompts(80, 0), test, SETTINGS, groups=["a"] * 12 + ["b"] * 12)
    assert set(table["model"]) == {BERT, UNCALIBRATED, TFIDF, FROZEN}
    assert list(table.query("model == @BERT")["group"]) == ["all", "a", "b"]
    assert table.query("group == 'all'")["n"].tolist() == [24] * 4
    assert (table["accuracy"] > 0.7).all()
    assert ((table["auroc_low"] <= table["auroc"]) & (table["auroc"] <= table["auroc_high"])).all()


def test_a_group_of_one_class_has_no_auroc():
    found = scores(np.ones(5), np.full(5, 0.8))
    assert np.isnan(found["auroc"])
    assert found["ece"] == pytest.approx(0.2)


def test_learning_curve_keeps_finished_sizes(tmp_path):
    run = SETTINGS.model_copy(update={"encoder": random_encoder(tmp_path / "encoder"), "epochs": 1})
    train, test = prompts(40, 0), prompts(20, 1)
    first = learning_curve(train, test, run, [10, 40], tmp_path / "curve", seed=0)
    assert first["n_train"].tolist() == [10, 10, 40, 40]
    assert set(first["model"]) == {BERT, TFIDF}
    kept = (tmp_path / "curve" / "n10.json").stat().st_mtime_ns
    assert learning_curve(train, test, run, [10, 40], tmp_path / "curve", seed=0).equals(first)
    assert (tmp_path / "curve" / "n10.json").stat().st_mtime_ns == kept
    with pytest.raises(SaferlrmError, match="asks for 41 of 40 prompts"):
        learning_curve(train, test, run, [41], tmp_path / "curve", seed=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x, y[:-1]), "20 prompts but 19 decisions"),
        (lambda x, y: (x, np.where(y > 0, np.nan, y)), r"missing or outside \[0, 1\]"),
        (lambda x, y: (x, y * 2), r"missing or outside \[0, 1\]"),
        (lambda x, y: (["", *x[1:]], y), "prompts is empty"),
        (lambda x, y: (x, y * 0), "0 of 20 decisions are refusals"),
        (lambda x, y: ([], y[:0]), "0 of 0 decisions are refusals"),
    ],
)
def test_bad_decisions_are_refused_before_training(tmp_path, change, words):
    with pytest.raises(SaferlrmError, match=words):
        train_classifier(*change(*prompts(20, 0)), SETTINGS, tmp_path / "out", seed=0)
    assert not (tmp_path / "out").exists()


def test_an_unknown_encoder_is_refused_in_one_line(tmp_path):
    run = SETTINGS.model_copy(update={"encoder": str(tmp_path / "nowhere")})
    with pytest.raises(SaferlrmError, match=r"cannot load the encoder .* set classifier\.encoder to minilm") as caught:
        train_classifier(*prompts(20, 0), run, tmp_path / "out", seed=0)
    assert "\n" not in str(caught.value)


def benchmark_data() -> Path:
    """Folder of public benchmark rows that are no part of the repository."""
    root = Path(__file__).parents[1]
    return Path(os.environ.get("SAFERLRM_TEST_DATA") or root.parent / "shared" / "data")


def test_real_prompts_that_nobody_here_wrote(tmp_path):
    folder = benchmark_data() / "refusal_direction"
    if not folder.is_dir():
        pytest.skip(f"NOT RUN: benchmark prompts are missing ({folder}); set SAFERLRM_TEST_DATA to their folder")
    rows = {kind: json.loads((folder / f"{kind}_train.json").read_text())[:80] for kind in ("harmful", "harmless")}
    texts = [row["instruction"] for kind in rows for row in rows[kind]]
    gold = np.repeat([1.0, 0.0], 80)
    run = SETTINGS.model_copy(update={"batch_size": 16, "max_length": 48})
    classifier = train_classifier(texts, gold, run, tmp_path, seed=0)
    test = {kind: json.loads((folder / f"{kind}_val.json").read_text())[:39] for kind in rows}
    held_out = [row["instruction"] for kind in test for row in test[kind]]
    assert scores(np.repeat([1.0, 0.0], 39), predict(classifier, held_out))["auroc"] > 0.95
    with (benchmark_data() / "xstest" / "xstest_prompts.csv").open() as file:
        contrast = list(csv.DictReader(file))
    # Safe prompts that sound unsafe are the hard case: better than chance is all that is asked here.
    unsafe = np.array([row["label"] == "unsafe" for row in contrast], dtype=float)
    assert scores(unsafe, predict(classifier, [row["prompt"] for row in contrast]))["auroc"] > 0.55
