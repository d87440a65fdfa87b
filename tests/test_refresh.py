"""Refreshing a notebook in place, and what keeps it as it was."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from saferlrm.errors import SaferlrmError
from saferlrm.refresh import WARM, refresh


def _write(path: Path, code: str) -> Path:
    cost = new_markdown_cell(f"| run | time |\n|---|---|\n| {WARM} | not measured yet | |")
    cost.id = "cost"
    nbformat.write(new_notebook(cells=[cost, new_code_cell(code)]), path)
    return path


def test_outputs_counts_and_costs_are_renewed(tmp_path: Path) -> None:
    path = _write(tmp_path / "00_small.ipynb", "print(1)\nprint(2)")
    (done,) = refresh([path])
    assert done[0] == path
    assert done[1] > 0
    assert done[2] > 0
    notebook = nbformat.read(path, as_version=4)
    cost, code = notebook.cells
    assert code.execution_count == 1
    assert [output.text for output in code.outputs] == ["1\n2\n"]
    assert "not measured" not in cost.source
    assert " s |" in cost.source
    assert "GB" in cost.source


def test_marks_of_exercises_and_tags_stay_and_other_metadata_go(tmp_path: Path) -> None:
    path = _write(tmp_path / "00_small.ipynb", "print(1)")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].metadata = {"exercise": "00.1", "tags": ["nbval-check-output"], "papermill": {"duration": 1}}
    nbformat.write(notebook, path)
    list(refresh([path]))
    kept = nbformat.read(path, as_version=4).cells[1].metadata
    assert kept == {"exercise": "00.1", "tags": ["nbval-check-output"]}


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("1 / 0", "division by zero"),
        ("import sys; print('oh', file=sys.stderr)", "stderr"),
        ("print('/home/somebody/x')", "prints a path"),
    ],
)
def test_a_bad_cell_leaves_the_notebook_as_it_was(tmp_path: Path, code: str, why: str) -> None:
    path = _write(tmp_path / "00_small.ipynb", code)
    before = path.read_bytes()
    with pytest.raises(SaferlrmError, match=why):
        list(refresh([path]))
    assert path.read_bytes() == before
