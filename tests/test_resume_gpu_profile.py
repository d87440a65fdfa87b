"""The gpu profile on a local model folder, cut down: killed, side by side, in two processes, the same results."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from processes import start_python
from test_distributed import TORCHRUN, assert_same_run

from saferlrm.profile import as_yaml, load_profile
from saferlrm.study import shipped_organism

SCRIPT = Path(__file__).parent.parent / "scripts" / "slurm_array.sh"
SMALL = {
    "device": "cpu",
    "dtype": "float32",
    "data.source": "synthetic",
    "judge.kind": "rules",
    "decoding.max_new_tokens": 100,
    "decoding.temperature": 0.0,
    "decoding.forced_thought_tokens": 32,
    "classifier.n_prompts": 40,
    "classifier.epochs": 1,
    "alignment.n_harmful": 8,
    "alignment.n_benign": 8,
    "alignment.batch_size": 2,
    "alignment.epochs": 4,
    "alignment.micro_batch": 1,
}


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gpu profile with everything small, bf16 and gradient checkpointing as it declares them, and a local model."""
    folder = tmp_path_factory.mktemp("gpu")
    shutil.copytree(shipped_organism(0), folder / "model")
    small = load_profile("gpu", model=str(folder / "model"), **SMALL)
    assert small.alignment.bf16
    assert small.alignment.gradient_checkpointing
    (folder / "gpu.yaml").write_text(as_yaml(small))
    return folder / "gpu.yaml"


def stage(profile: Path, store: Path, method: str, *launcher: str) -> subprocess.Popen[str]:
    return start_python(
        *launcher, "-m", "saferlrm", "stage", "aligned", "--profile", profile, "--method", method, "--seed", "1",
        SAFERLRM_HOME=str(store), SAFERLRM_SHIPPED="0", PYTHONPATH=os.pathsep.join(filter(None, sys.path)),
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out + err


def aligned(store: Path) -> Path:
    (manifest,) = store.glob("aligned/*/manifest.json")
    return manifest.parent


@pytest.fixture(scope="module")
def through(profile: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run of PreSafe that nothing interrupted."""
    store = tmp_path_factory.mktemp("through")
    assert "aligned (presafe, seed 1)" in finished(stage(profile, store, "presafe"))
    return store


def test_a_killed_and_restarted_run_ends_with_the_same_adapter(profile: Path, through: Path, tmp_path: Path) -> None:
    for shared in through.iterdir():  # what comes before alignment is finished, so the kill falls into training
        if shared.name not in ("aligned", ".locks"):
            shutil.copytree(shared, tmp_path / shared.name)
    process = stage(profile, tmp_path, "presafe")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("aligned/*.partial/checkpoints/*/trainer_state.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.glob("aligned/*/manifest.json"))
    finished(stage(profile, tmp_path, "presafe"))
    assert json.loads((aligned(tmp_path) / "manifest.json").read_text())["resumed"]
    weights = "adapter/adapter_model.safetensors"
    assert (aligned(tmp_path) / weights).read_bytes() == (aligned(through) / weights).read_bytes()
    first, second = (json.loads((aligned(store) / "history.json").read_text()) for store in (through, tmp_path))
    assert first == second


def test_a_launcher_trains_the_same_adapter_and_the_first_process_commits_it(
    profile: Path, through: Path, tmp_path: Path
) -> None:
    out = finished(stage(profile, tmp_path, "presafe", *TORCHRUN))
    assert out.count("aligned (presafe, seed 1)") == 1
    assert aligned(tmp_path).name == aligned(through).name
    # In bf16 sums in another order differ, a norm of gradients by some per cent: this shows who commits what. That the
    # numbers are equal is shown in float32 (test_distributed.py).
    assert_same_run(aligned(through), aligned(tmp_path), atol=1e-3, rel=0.1)
    assert not list(tmp_path.glob("*/*.partial"))


def test_tasks_of_an_array_share_a_store_and_compute_nothing_twice(
    profile: Path, through: Path, tmp_path: Path
) -> None:
    model, store = yaml.safe_load(profile.read_text())["model"], tmp_path / "store"
    (tmp_path / "tasks.txt").write_text(f"{model} sft 1\n{model} safety_tax 1 alignment.epochs=2\n")
    places = {
        "SAFERLRM_HOME": str(store),
        "SAFERLRM_PROFILE": str(profile),
        "PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }

    def task(number: int) -> subprocess.Popen[bytes]:
        with (tmp_path / f"task_{number}.log").open("wb") as log:
            return subprocess.Popen(
                ["bash", SCRIPT, tmp_path / "tasks.txt", "aligned"],
                env=os.environ | places | {"SLURM_ARRAY_TASK_ID": str(number)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def said(number: int) -> str:
        return (tmp_path / f"task_{number}.log").read_text()

    # Both need the alignment set first. It is held here until both wait for it, so that neither is early.
    (shared,) = (through / "alignment_set").iterdir()
    (store / ".locks").mkdir(parents=True)
    deadline = time.monotonic() + 240
    with FileLock(store / ".locks" / f"alignment_set-{shared.name}.lock"):
        both = [task(1), task(2)]
        while not all("stage alignment_set" in said(n) and "waiting for it" in said(n) for n in (1, 2)):
            assert [process.poll() for process in both] == [None, None], said(1) + said(2)
            assert time.monotonic() < deadline, said(1) + said(2)
            time.sleep(0.05)
    manifest = store / "alignment_set" / shared.name / "manifest.json"
    while not manifest.exists():
        assert time.monotonic() < deadline, said(1) + said(2)
        time.sleep(0.02)
    computed = manifest.stat().st_ino
    assert [process.wait(timeout=300) for process in both] == [0, 0], said(1) + said(2)
    assert manifest.stat().st_ino == computed
    assert {path.name: len(list(path.iterdir())) for path in store.iterdir() if path.name != ".locks"} == {
        "alignment_set": 1,
        "aligned": 2,
    }
    committed = {path: path.stat().st_ino for path in store.glob("*/*/manifest.json")}
    assert task(1).wait(timeout=300) == 0, said(1)
    assert {path: path.stat().st_ino for path in store.glob("*/*/manifest.json")} == committed
