"""The command line as a person meets it: real processes, real exit codes, errors of one line."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from processes import start_python, wait_for
from test_runner import write_notebook

import saferlrm


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return start_python("-m", "saferlrm", *arguments, **{"COLUMNS": "160"} | environment)


def saferlrm_command(*arguments: object, **environment: str) -> tuple[int, str, str]:
    process = start(*arguments, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_the_version_is_printed() -> None:
    assert saferlrm_command("--version") == (0, f"saferlrm {saferlrm.__version__}\n", "")


def test_a_profile_is_printed_as_yaml() -> None:
    status, out, _ = saferlrm_command("profile", "smoke")
    assert status == 0
    assert yaml.safe_load(out)["name"] == "smoke"


def test_a_profile_of_one_s_own_needs_no_editor(tmp_path: Path) -> None:
    changes = ["-s", "name=gpu-14b", "-s", "alignment.micro_batch=3", "--set", "decoding.batch_size=12"]
    status, out, err = saferlrm_command("profile", "gpu", *changes)
    assert status == 0, err
    (tmp_path / "own.yaml").write_text(out)
    settings = yaml.safe_load(saferlrm_command("profile", tmp_path / "own.yaml")[1])
    assert (settings["name"], settings["alignment"]["micro_batch"]) == ("gpu-14b", 3)
    assert settings["decoding"]["batch_size"] == 12
    status, _, err = saferlrm_command("profile", "gpu", "--set", "alignment.micro=3")
    assert (status, err.count("\n")) == (2, 1)
    assert "unknown setting 'alignment.micro'" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--profile", "smokee"], "unknown profile 'smokee' (did you mean 'smoke'?)"),
        (["profile", "nothing"], "unknown profile 'nothing'"),
        (["stage", "organism", "--profile", "x"], "unknown profile 'x'"),
        (["run", "-p", "seed"], "write -p KEY=VALUE"),
        (["run", "--seed", "-1"], "--seed"),
        (["run", "--sede", "1"], "--sede"),
        (["run", "--notebooks", "/nowhere"], "no notebooks"),
        (["runn"], "No such command 'runn'. Did you mean 'run'?"),
        (["control", "presafe", "-s", "lambda=1"], "unknown setting 'alignment.lambda' (did you mean 'lambda_aux'?)"),
        (["report", "--profile", "x"], "unknown profile 'x'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_and_exit_status_2(arguments: list[str], message: str) -> None:
    status, out, err = saferlrm_command(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    return {"SAFERLRM_RESULTS": str(tmp_path / "results"), "SAFERLRM_HOME": str(tmp_path / "store")}


def test_a_run_ends_with_a_table_and_a_second_one_skips(tmp_path: Path, places: dict[str, str]) -> None:
    write_notebook(tmp_path / "nb", "00_first", "print(profile, seed)")
    command = [
        "run",
        "--profile",
        "smoke",
        "--notebooks",
        tmp_path / "nb",
        "--out",
        tmp_path / "out",
        "--seed",
        3,
    ]
    status, out, err = saferlrm_command(*command, **places)
    assert status == 0, err
    assert "00_first: 4 cells" in out or "00_first" in out
    assert "total" in out
    assert "smoke 3" in (tmp_path / "out" / "00_first.ipynb").read_text()
    status, out, _ = saferlrm_command(*command, **places)
    assert status == 0
    assert "finished earlier" in out


def test_a_failed_cell_is_named_and_the_exit_status_is_not_zero(
    tmp_path: Path, places: dict[str, str]
) -> None:
    write_notebook(tmp_path / "nb", "00_first", "{}['key']")
    command = ["run", "--profile", "smoke", "--notebooks", tmp_path / "nb", "--out", tmp_path / "out"]
    status, _, err = saferlrm_command(*command, **places)
    assert status == 2
    assert "error: 00_first.ipynb failed in cell 4 (In [3]), line 1: KeyError: 'key'" in err
    assert "Traceback" not in err


def test_ctrl_c_exits_130_and_says_that_the_run_resumes(tmp_path: Path, places: dict[str, str]) -> None:
    sign = tmp_path / "sign"
    write_notebook(
        tmp_path / "nb", "00_first", f"import time\nopen({str(sign)!r}, 'w').write('x')\ntime.sleep(60)"
    )
    process = start(
        "run", "--profile", "smoke", "--notebooks", tmp_path / "nb", "--out", tmp_path / "out", **places
    )
    wait_for(sign)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1].startswith("error: interrupted")
    assert "Traceback" not in err


def test_a_misspelt_parameter_is_refused_where_papermill_only_warns(tmp_path: Path, places) -> None:
    write_notebook(tmp_path / "nb", "00_first", "print(seed)")
    command = ["run", "--profile", "smoke", "--notebooks", tmp_path / "nb", "--out", tmp_path / "out"]
    status, _, err = saferlrm_command(*command, "-p", "rates=0.1", **places)
    assert status == 2
    assert "unknown parameter 'rates' (did you mean 'rate'?)" in err
    assert not (tmp_path / "out").exists()


def test_status_shows_the_stages_of_its_model_alone(tmp_path: Path, places: dict[str, str]) -> None:
    for name, model, seed in (("one", "Qwen/Qwen3-8B", 3), ("two", "Qwen/Qwen3-14B", 4)):
        folder = tmp_path / "store" / "aligned" / name
        folder.mkdir(parents=True)
        settings = {"model": model, "method": "presafe", "seed": seed}
        manifest = {"stage": "aligned", "key": name * 6, "started": "2026-01-01T00:00", "files": {}}
        manifest["settings"] = settings
        (folder / "manifest.json").write_text(json.dumps(manifest))
    status, out, err = saferlrm_command("status", "--profile", "gpu", **places, COLUMNS="40")
    assert status == 0, err
    (row,) = [line for line in out.splitlines() if "presafe" in line]
    assert row.split()[:3] == ["aligned", "presafe", "3"]  # and not the 4 of the other model
    assert "shipped" not in out


def test_status_lists_stages_and_notebooks(tmp_path: Path, places: dict[str, str]) -> None:
    status, out, err = saferlrm_command("status", "--profile", "smoke", **places)
    assert status == 0, err
    assert "not yet" in out
    assert "00_" in out


def test_an_unknown_stage_is_refused_with_the_choices() -> None:
    status, _, err = saferlrm_command("stage", "bogus", "--profile", "smoke")
    assert status == 2
    assert "unknown stage 'bogus'; choose from" in err


def test_a_checkpoint_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, _, err = saferlrm_command("grow", "--profile", "smoke", "--out", tmp_path / "file")
    assert status == 2
    assert "cannot create" in err
    assert err.count("\n") == 1
