"""Running notebooks: parameters are checked, finished work is skipped, failures are named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from processes import start_python, wait_for

from saferlrm.errors import SaferlrmError
from saferlrm.runner import check_parameters, notebook_parameters, run_notebooks, select_notebooks
from saferlrm.store import write_json

PARAMETERS = 'profile = "organism"\nseed = 0\nrate = 0.5\nlayers = [0, 1]\nquick = True'


def write_notebook(folder: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    folder.mkdir(exist_ok=True)
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# Title"), tagged, *map(nbformat.v4.new_code_cell, cells)],
        metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}},
    )
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two notebooks; each appends a line to a log, so that executions can be counted."""
    monkeypatch.setenv("SAFERLRM_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("SAFERLRM_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    log = "import os\nopen(os.environ['LOG'], 'a').write(f'{name} {profile} {seed}\\n')"
    write_notebook(tmp_path / "notebooks", "00_first", f"name = 'first'\n{log}")
    write_notebook(tmp_path / "notebooks", "01_second", f"name = 'second'\n{log}", "print(seed + 1)")
    return tmp_path / "notebooks"


def run(notebooks: Path, **options):
    arguments = {"profile": "smoke", "notebooks": notebooks, "out": notebooks.parent / "out"} | options
    return run_notebooks(**arguments)


def logged(notebooks: Path) -> list[str]:
    path = notebooks.parent / "log"
    return path.read_text().splitlines() if path.exists() else []


def test_notebooks_run_in_order_with_their_parameters_and_are_measured(notebooks: Path) -> None:
    cells: list[tuple[str, int, int]] = []
    runs = run(notebooks, parameters={"seed": "4"}, on_cell=lambda *where: cells.append(where))
    assert logged(notebooks) == ["first smoke 4", "second smoke 4"]
    assert [one.name for one in runs] == ["00_first", "01_second"]
    assert all(one.peak_memory_mb > 10 and one.seconds > 0 and not one.skipped for one in runs)
    assert cells[-1][0] == "01_second"
    assert cells[-1][1] == cells[-1][2]
    executed = nbformat.read(runs[1].path, as_version=4)
    assert executed.cells[-1].outputs[0].text == "5\n"
    marker = json.loads((notebooks.parent / "out" / "01_second.done.json").read_text())
    assert marker["seconds"] == runs[1].seconds


def test_only_a_whole_study_from_an_empty_store_renews_the_reported_timings(notebooks: Path) -> None:
    timings = notebooks.parent / "results" / "timings.json"
    run(notebooks, only=("00",))
    run(notebooks, shipped=True, out=notebooks.parent / "shipped")
    run(notebooks, parameters={"seed": "1"}, out=notebooks.parent / "other")
    run(notebooks)  # one of the two was finished before
    assert not timings.exists()
    stage = notebooks.parent / "store" / "organism" / "0123"
    stage.mkdir(parents=True)
    (stage / "manifest.json").write_text("{}")
    run(notebooks, fresh=True)
    assert not timings.exists()
    (stage / "manifest.json").unlink()
    write_json(timings, {"organism": {"00_first": {}}, "smoke": {"old": {}}})
    run(notebooks, fresh=True)
    written = json.loads(timings.read_text())
    assert list(written["smoke"]) == ["00_first", "01_second"]
    assert written["organism"] == {"00_first": {}}


def test_finished_notebooks_are_skipped_until_something_changes(notebooks: Path) -> None:
    run(notebooks)
    assert all(one.skipped for one in run(notebooks))
    assert len(logged(notebooks)) == 2

    run(notebooks, parameters={"seed": "1"})
    assert len(logged(notebooks)) == 4
    run(notebooks, parameters={"seed": "1"}, fresh=True)
    assert len(logged(notebooks)) == 6

    write_notebook(notebooks, "01_second", "print('changed')")
    first, second = run(notebooks, parameters={"seed": "1"})
    assert first.skipped
    assert not second.skipped


def test_a_damaged_copy_is_executed_again(notebooks: Path) -> None:
    first, _ = run(notebooks)
    first.path.write_text(first.path.read_text()[:-20])
    again, second = run(notebooks)
    assert not again.skipped
    assert second.skipped


def test_stored_outputs_do_not_make_a_run_stale(notebooks: Path) -> None:
    run(notebooks)
    path = notebooks / "01_second.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="1\n")]
    nbformat.write(notebook, path)
    assert all(one.skipped for one in run(notebooks))


def test_a_selection_is_by_number_or_name(notebooks: Path) -> None:
    assert [path.stem for path in select_notebooks(notebooks, ("1",))] == ["01_second"]
    both = select_notebooks(notebooks, ("01_second", "00"))
    assert [path.stem for path in both] == ["00_first", "01_second"]
    with pytest.raises(SaferlrmError, match="unknown notebook '07'; choose from 00, 01"):
        select_notebooks(notebooks, ("07",))
    with pytest.raises(SaferlrmError, match="no notebooks"):
        select_notebooks(notebooks / "empty")


def test_parameters_take_the_types_of_their_defaults(notebooks: Path) -> None:
    path = notebooks / "00_first.ipynb"
    assert notebook_parameters(path) == {
        "profile": "organism", "seed": 0, "rate": 0.5, "layers": [0, 1], "quick": True
    }  # fmt: skip
    typed = {"seed": "7", "rate": "1", "layers": "[2]", "quick": "false"}
    expected = {"profile": "007", "seed": 7, "rate": 1.0, "layers": [2], "quick": False}
    assert check_parameters(path, "007", typed) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "one"),
        ("seed", "1e3"),
        ("seed", "1.0"),
        ("seed", "True"),
        ("rate", "x"),
        ("layers", "3"),
        ("quick", "1"),
    ],
)
def test_a_value_of_another_type_is_refused_before_anything_runs(notebooks, name, value) -> None:
    with pytest.raises(SaferlrmError, match=f"parameter '{name}' of 00_first.ipynb takes a value of type"):
        run(notebooks, parameters={name: value})
    assert logged(notebooks) == []


def test_a_misspelt_parameter_is_refused_with_a_suggestion(notebooks: Path) -> None:
    with pytest.raises(SaferlrmError, match=r"unknown parameter 'sede' \(did you mean 'seed'"):
        run(notebooks, parameters={"sede": "1"})
    assert logged(notebooks) == []


def test_a_parameter_goes_to_the_notebooks_that_have_it(notebooks: Path) -> None:
    write_notebook(notebooks, "02_third", "print(extra)", parameters='profile = "organism"\nextra = 1')
    runs = run(notebooks, parameters={"extra": "2"})
    assert nbformat.read(runs[2].path, as_version=4).cells[-1].outputs[0].text == "2\n"


def test_parameters_that_are_no_literals_are_refused(notebooks: Path) -> None:
    path = write_notebook(notebooks, "03_derived", parameters='profile = "organism"\nseed = len(profile)')
    with pytest.raises(SaferlrmError, match="only literals"):
        notebook_parameters(path)


def test_a_file_that_is_no_notebook_is_named(notebooks: Path) -> None:
    (notebooks / "04_broken.ipynb").write_text("{")
    with pytest.raises(SaferlrmError, match=r"04_broken.ipynb is not a readable notebook"):
        run(notebooks)


def test_a_failing_cell_is_named_with_notebook_number_and_line(notebooks: Path) -> None:
    write_notebook(notebooks, "01_second", "x = 1", "y = 2\n1 / 0")
    with pytest.raises(SaferlrmError) as caught:
        run(notebooks)
    message = str(caught.value)
    # Title, parameters, injected parameters, x, y: the fifth cell, the fourth that is code.
    assert "01_second.ipynb failed in cell 5 (In [4]), line 2: ZeroDivisionError: division by zero" in message
    assert "\n" not in message
    write_notebook(notebooks, "01_second", "x = 1", "y = 2")
    first, second = run(notebooks)
    assert first.skipped
    assert not second.skipped


def test_an_error_meant_for_the_user_is_passed_on_in_its_own_words(notebooks: Path) -> None:
    write_notebook(notebooks, "01_second", "from saferlrm.profile import load_profile\nload_profile('smok')")
    with pytest.raises(SaferlrmError, match=r"cell 4 \(In \[3\]\), line 2: unknown profile 'smok'"):
        run(notebooks)


def test_a_kernel_that_dies_is_a_failure_and_not_a_success(notebooks: Path) -> None:
    write_notebook(notebooks, "01_second", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(SaferlrmError, match=r"01_second.ipynb failed in cell 4: DeadKernelError"):
        run(notebooks)
    write_notebook(notebooks, "01_second", "print('well')")
    assert not run(notebooks)[1].skipped


def test_kernels_compute_everything_unless_shipped_artefacts_are_asked_for(notebooks: Path) -> None:
    cell = "import os\nprint(os.environ['SAFERLRM_SHIPPED'], os.environ['SAFERLRM_PROGRESS'], os.getcwd())"
    write_notebook(notebooks, "01_second", cell)
    for shipped, flag in ((False, "0"), (True, "1")):
        runs = run(notebooks, only=("01",), shipped=shipped)
        text = nbformat.read(runs[0].path, as_version=4).cells[-1].outputs[0].text
        assert text == f"{flag} {runs[0].path.parent / 'progress.log'} {notebooks}\n"


def test_progress_goes_to_a_file_and_not_into_the_executed_copy(
    notebooks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = "import time\nfrom saferlrm import progress\nprogress.LOG_SECONDS = 0.01\n"
    cell += "print(sum(time.sleep(0.02) or i for i in progress.track(range(5), 'counting')))"
    write_notebook(notebooks, "01_second", cell)
    (one,) = run(notebooks, only=("01",))
    outputs = nbformat.read(one.path, as_version=4).cells[-1].outputs
    assert [output.text for output in outputs] == ["10\n"]
    lines = (one.path.parent / "progress.log").read_text().splitlines()
    assert lines
    assert all("counting" in line and "/5 " in line for line in lines)


def test_a_kernel_that_gives_no_sign_is_one_line(notebooks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saferlrm.runner.IOPUB_SECONDS", 1)
    write_notebook(notebooks, "00_first", "get_ipython().kernel._publish_status = lambda *args, **rest: None")
    with pytest.raises(SaferlrmError, match=r"00_first.ipynb gave no sign for 1 s .* run again to continue") as said:
        run(notebooks)
    assert "\n" not in str(said.value)


RUN = "import sys; from pathlib import Path; from saferlrm.runner import run_notebooks\n"
RUN += "run_notebooks('smoke', notebooks=Path(sys.argv[1]), out=Path(sys.argv[2]))"


def start(notebooks: Path) -> subprocess.Popen[str]:
    return start_python("-c", RUN, notebooks, notebooks.parent / "out")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_after_an_interruption_the_next_run_goes_on_and_no_kernel_is_left(notebooks: Path, how: int) -> None:
    signs = notebooks.parent / "pid"
    wait = f"import os, pathlib, time\np = pathlib.Path({str(signs)!r})\n"
    wait += "if not p.exists():\n    p.write_text(str(os.getpid()))\n    time.sleep(120)"
    write_notebook(notebooks, "01_second", wait, "print('end')")
    process = start(notebooks)
    kernel = int(wait_for(signs))
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode != 0
    deadline = time.monotonic() + 20
    while psutil.pid_exists(kernel) and psutil.Process(kernel).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the kernel outlived its runner"
        time.sleep(0.2)

    first, second = run(notebooks)
    assert first.skipped
    assert not second.skipped
    assert logged(notebooks) == ["first smoke 0"]


def test_a_second_run_on_the_same_folder_waits_and_says_for_whom(notebooks: Path) -> None:
    go = notebooks.parent / "go"
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists():\n    time.sleep(0.1)"
    write_notebook(notebooks, "01_second", wait)
    first = start(notebooks)
    wait_for(notebooks.parent / "log")
    second = start(notebooks)
    assert f"in use by process {first.pid} on" in second.stderr.readline()
    go.touch()
    second.communicate(timeout=120)
    first.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0)
    assert logged(notebooks) == ["first smoke 0"]  # the second found it finished


def test_an_output_folder_that_cannot_be_written_is_named(notebooks: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SaferlrmError, match=r"cannot create .*file"):
        run(notebooks, out=tmp_path / "file")
    assert not os.path.exists(tmp_path / "log")
