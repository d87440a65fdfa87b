"""Two processes train what one trains: the same rows, losses, gradients, adapter; also when killed and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from align_in_process import EXAMPLES
from processes import start_python
from safetensors.torch import load_file

from saferlrm.align import align
from saferlrm.errors import SaferlrmError
from saferlrm.profile import AlignmentSettings
from saferlrm.training import FILLER, LengthBucketSampler

WORKER = Path(__file__).parent / "align_in_process.py"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")


def run(*arguments: object, **environment: str) -> tuple[int, str, str]:
    process = start_python(*arguments, PYTHONPATH=os.pathsep.join(filter(None, sys.path)), **environment)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def assert_same_run(one: Path, other: Path, atol: float = 1e-5, rel: float = 1e-5) -> None:
    """Equal adapters (weights of the order of 0.1) and equal losses, norms and accuracies at every step.

    Sums in another order change the last bits of a number: of a float32 here.
    """
    first, second = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=atol)
    rows, others = (json.loads((folder / "history.json").read_text()) for folder in (one, other))
    assert len(rows) == len(others)
    for row, same in zip(rows, others, strict=True):
        assert same == pytest.approx(row, rel=rel, abs=atol)


@pytest.fixture(scope="module")
def one_process(tiny_lm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one") / "out"
    status, printed, err = run(WORKER, tiny_lm_folder, out)
    assert status == 0, err
    assert "processes: 1, sharded: False" in printed
    return out


@pytest.mark.parametrize("n", [1, 7, 16, 19, 33])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_processes_rows_of_a_step_are_together_the_batch_of_one_process(n: int, world_size: int) -> None:
    lengths = [(7 * i) % 23 for i in range(n)]
    alone, shared = (LengthBucketSampler(lengths, 8, seed=3, megabatch=2, world_size=w) for w in (1, world_size))
    for sampler in (alone, shared):
        sampler.set_epoch(2)
    order, dealt = list(alone), list(shared)
    assert len(shared) == len(dealt)
    for start in range(0, len(dealt), 8):
        rows = dealt[start : start + 8]
        assert sorted(i for i in rows if i != FILLER) == sorted(order[start : start + 8])
    assert sorted(i for i in dealt if i != FILLER) == list(range(n))


@pytest.mark.parametrize(
    ("launcher", "options"),
    [(TORCHRUN, ["micro_batch=1"]), (ACCELERATE, ["fsdp=true", "gradient_checkpointing=true", "micro_batch=1"])],
    ids=["ddp", "fsdp"],
)
def test_two_processes_killed_and_started_again_end_as_one_that_ran_through(
    tiny_lm_folder: Path, tmp_path: Path, one_process: Path, launcher: tuple[str, ...], options: list[str]
) -> None:
    status, _, _ = run(*launcher, WORKER, tiny_lm_folder, tmp_path, "kill_at=7", *options)
    assert status != 0
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-4"]
    assert not (tmp_path / "adapter").exists()
    status, printed, err = run(*launcher, WORKER, tiny_lm_folder, tmp_path, *options)
    assert status == 0, err
    assert printed.count(f"processes: 2, sharded: {'fsdp=true' in options}") == 2
    assert_same_run(one_process, tmp_path)


def test_a_batch_that_cannot_be_shared_out_is_one_line(tiny_lm_folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SaferlrmError, match=r"alignment.batch_size=4 cannot be shared out over 3 .* a multiple of 3"):
        align(tiny_lm_folder, EXAMPLES, AlignmentSettings(batch_size=4), 0, tmp_path)


def test_the_slurm_template_is_valid_and_refuses_a_line_it_cannot_read(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "scripts" / "slurm_array.sh"
    (tmp_path / "tasks.txt").write_text("Qwen/Qwen3-8B presafe 0\nQwen/Qwen3-8B presafe\n")
    done = subprocess.run(
        ["bash", script, tmp_path / "tasks.txt"],
        env=os.environ | {"SLURM_ARRAY_TASK_ID": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "write MODEL METHOD SEED" in done.stderr


def test_the_slurm_template_asks_for_the_signal_where_python_gets_it() -> None:
    """``B:`` signals the batch shell alone; python takes its place by ``exec``, with one GPU and with several."""
    text = (Path(__file__).parent.parent / "scripts" / "slurm_array.sh").read_text()
    assert "#SBATCH --signal=B:INT@" in text
    started = [line.split()[0] for line in text.splitlines() if '"${PYTHON:-python}"' in line]
    assert started == ["exec", "exec"]


LED = """
import sys
from pathlib import Path
from saferlrm.distributed import lead
from saferlrm.profile import load_profile
from saferlrm.store import Store
from saferlrm.study import Study, aligning

def seen(*arguments, loading, **_):
    print("device_map:", loading.device_map)
    (arguments[4] / "cost.json").write_text("{}")

def program():
    model, store = sys.argv[1:]
    study = Study(load_profile("smoke", model=model, **{"loading.device_map": "auto"}), Store(Path(store)))
    study._prepared = lambda method, seed: ([], study.profile.alignment)
    study.aligned("sft", seed=0)

aligning.align = seen
lead(program)
"""


@pytest.mark.parametrize(("launcher", "device_map"), [((), "auto"), (TORCHRUN, "single")])
def test_under_a_launcher_every_process_trains_on_its_own_device(
    launcher: tuple[str, ...], device_map: str, tmp_path: Path, tiny_lm_folder: Path
) -> None:
    """``loading.device_map: auto`` is for sampling: a launcher gives each process a card, and FSDP shards.

    The first process leads and runs the study with the launcher hidden, as ``saferlrm stage`` does.
    """
    (tmp_path / "led.py").write_text(LED)
    status, printed, err = run(*launcher, tmp_path / "led.py", tiny_lm_folder, tmp_path / "store")
    assert status == 0, err
    assert printed.split("device_map: ")[1:] == [f"{device_map}\n"]
