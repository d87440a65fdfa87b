"""Executing the notebooks in place: fresh outputs and counts, and nothing in them that belongs to one machine.

`saferlrm run` writes executed copies into `runs/`. This writes into `notebooks/` itself, on purpose and never by
accident: it is how the outputs that readers see, and that nbval compares, are renewed.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from saferlrm.errors import SaferlrmError
from saferlrm.memory import PeakMemory
from saferlrm.store import repository, results_folder

KEPT_METADATA = ("exercise", "tags")
KEPT_OUTPUTS = frozenset({"text/plain", "text/html", "text/markdown", "image/png"})
MACHINE_PATH = re.compile(r"(/home/|/root/|/tmp/|/usr/|/Users/|site-packages)")
COLD = "within `make study`, computing what no earlier notebook has"
WARM = "finished stages at hand"


def refresh(paths: Sequence[Path]) -> Iterator[tuple[Path, float, float]]:
    """Executes each notebook with the profile of its parameters cell and writes it back.

    Yields:
        The notebook, its seconds and its peak memory in MB. The costs stand in the cell ``cost`` of the notebook too;
        the cold ones come from ``results/timings.json``.

    Raises:
        SaferlrmError: a cell fails, writes to stderr, or prints a path of this machine; the notebook stays as it was.
    """
    os.environ.update(SAFERLRM_PROGRESS="0", TOKENIZERS_PARALLELISM="false")
    timings = _timings()
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        seconds, peak = _execute(notebook, path.name)
        problems = list(_clean(notebook))
        if problems:
            raise SaferlrmError(f"{path.name}: {problems[0]}; mend the cell and refresh again")
        cost = next(cell for cell in notebook.cells if cell.id == "cost")
        cost.source = _with_cost(cost.source, WARM, seconds, peak)
        if path.stem in timings:
            cold = timings[path.stem]
            cost.source = _with_cost(cost.source, COLD, cold["seconds"], cold["peak_memory_mb"])
        nbformat.validate(notebook)
        temporary = path.with_suffix(".part")
        nbformat.write(notebook, temporary)
        temporary.replace(path)
        yield path, seconds, peak


def _execute(notebook: Any, name: str) -> tuple[float, float]:
    clock = time.perf_counter()
    with tempfile.TemporaryDirectory() as elsewhere, PeakMemory(children_only=True) as peak:
        resources = {"metadata": {"path": elsewhere}}
        client = NotebookClient(notebook, timeout=7200, kernel_name="python3", resources=resources, record_timing=False)
        try:
            client.execute()
        except Exception as problem:  # nbclient's own errors and those of the kernel
            line = str(problem).strip().splitlines()[-1]
            raise SaferlrmError(f"{name}: {line}") from None
    return time.perf_counter() - clock, peak.mb


def _clean(notebook: Any) -> Iterator[str]:
    """Strips what differs between machines and yields what must not be there."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in KEPT_METADATA if cell.metadata.get(key)})
        if cell.cell_type != "code":
            continue
        kept: list[Any] = []
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                yield f"cell {cell.id} writes to stderr: {output.text[:200]!r}"
            elif output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
                kept[-1].text += output.text  # several writes of one cell are one text
            else:
                if "data" in output:
                    output.data = {kind: value for kind, value in output.data.items() if kind in KEPT_OUTPUTS}
                    output.metadata = {}
                kept.append(output)
        cell.outputs = kept
        if found := MACHINE_PATH.search(
            json.dumps([output for output in kept if "image/png" not in output.get("data", {})])
        ):
            yield f"cell {cell.id} prints a path ({found.group(0)})"


def _with_cost(source: str, key: str, seconds: float, peak: float) -> str:
    spent = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
    return re.sub(rf"^\| {re.escape(key)} \|.*$", f"| {key} | {spent} | {peak / 1000:.1f} GB |", source, flags=re.M)


def _timings() -> dict[str, Any]:
    try:
        return json.loads((results_folder() / "timings.json").read_text()).get("organism", {})
    except (OSError, ValueError):
        return {}


def notebooks(only: Sequence[str] = ()) -> list[Path]:
    """The repository's notebooks in order, or those whose numbers are given."""
    return [
        p for p in sorted((repository() / "notebooks").glob("[0-9][0-9]_*.ipynb")) if not only or p.name[:2] in only
    ]
