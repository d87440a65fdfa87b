"""Execute the notebooks in order: checked parameters, progress, resume, and an error that says where.

papermill only warns about a misspelt parameter, cannot resume, and calls a notebook completed whose kernel
died. So parameters are checked first, and a notebook counts as done when a marker says so that is written
after it succeeded.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import papermill
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError, strip_color

from saferlrm.errors import SaferlrmError
from saferlrm.fingerprint import package_fingerprint
from saferlrm.memory import MEMORY_KEPT, PeakMemory, environment
from saferlrm.model_choice import find_model, model_settings
from saferlrm.profile import load_profile, profile_names
from saferlrm.store import Store, explain_write_errors, file_hash, held, repository, results_folder, write_json

PROGRESS_FILE = "progress.log"  # in the folder of the executed copies
IOPUB_SECONDS = 120  # how long a kernel that has answered may take to hand over its output

OnCell = Callable[[str, int, int], None]
"""Called with the notebook's name, the number of the cell that starts (from 1) and the number of cells."""


@dataclass(frozen=True)
class NotebookRun:
    """One executed notebook. Seconds and peak memory are those of the execution, also where it was skipped
    now.

    Attributes:
        path: the executed copy.
        peak_memory_mb: largest resident set of the kernel and its children, in MB.
        skipped: whether an earlier run had finished it already.
    """

    name: str
    path: Path
    seconds: float
    peak_memory_mb: float
    skipped: bool


def run_notebooks(
    profile: str = "organism",
    only: Sequence[str] = (),
    parameters: Mapping[str, str] | None = None,
    fresh: bool = False,
    shipped: bool = False,
    notebooks: Path | None = None,
    out: Path | None = None,
    on_start: Callable[[str, int], None] = lambda name, cells: None,
    on_cell: OnCell = lambda name, cell, cells: None,
    on_done: Callable[[NotebookRun], None] = lambda run: None,
) -> list[NotebookRun]:
    """Execute the notebooks in order, leaving out those that an earlier run has finished.

    A notebook is finished for good while its source, its parameters, the package's code and the profile's
    settings stay the same. Its time and memory stand in its marker. Those of a whole study of a profile as declared,
    from an empty store to the end, go to ``results/timings.json`` too, which is what the README reports.

    Args:
        only: numbers of notebooks, e.g. ``("02", "03")``; default: all.
        parameters: name to text, as typed on a command line; every notebook that has the parameter gets it.
        fresh: execute notebooks also if they are finished. Stages still come from the store.
        shipped: let notebooks read the shipped artefacts instead of computing everything.
        notebooks: folder with the sources; default: ``notebooks/`` of the checkout.
        out: folder for the executed copies; default: ``runs/<profile>/``, or ``runs/<profile>-<model>/`` where a
            parameter ``model`` replaces the profile's.
        on_start, on_cell, on_done: called as the run proceeds, for display.

    Raises:
        SaferlrmError: unknown profile, model, notebook or parameter, a value of the wrong type, a folder that cannot be
            written, or a cell that failed (named with notebook, number and line).
    """
    settings = load_profile(profile, **model_settings(profile, (parameters or {}).get("model", ""), ask_hub=True))
    sources = select_notebooks(notebooks or repository() / "notebooks", only)
    given = {source: check_parameters(source, profile, parameters or {}) for source in sources}
    _refuse_unknown(parameters or {}, sources)
    out = out or repository() / "runs" / settings.name
    code = package_fingerprint()
    declared = profile in profile_names() and settings == load_profile(profile) and not parameters
    measured = declared and not (only or shipped or Store.default().has_stages())
    runs = []
    with (
        explain_write_errors(out, "make room or choose another folder with --out, and run again"),
        held(out / ".lock", f"run folder {out}"),
        environment(_kernel_environment(shipped, out)),
    ):
        for source in sources:
            wanted = {
                "source": notebook_source_hash(source),
                "parameters": given[source],
                "settings": settings.model_dump(mode="json"),
                "code": code,
                "shipped": shipped,
            }
            run = None if fresh else _finished(source, out, wanted)
            if run is None:
                on_start(source.stem, len(nbformat.read(source, as_version=4).cells))
                run = _execute(source, out, given[source], on_cell)
                _record(run, out, wanted)
            on_done(run)
            runs.append(run)
        if measured and not any(run.skipped for run in runs):
            _record_study(runs, settings.name)
    return runs


def select_notebooks(folder: Path, only: Sequence[str] = ()) -> list[Path]:
    """Notebooks ``NN_*.ipynb`` of a folder in order, or those whose number or name is in ``only``."""
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise SaferlrmError(f"no notebooks NN_*.ipynb in {folder}; run from a checkout of the repository")
    chosen: set[Path] = set()
    for word in only:
        matches = [path for path in found if word.zfill(2) == path.name[:2] or word in (path.stem, path.name)]
        if not matches:
            numbers = ", ".join(path.name[:2] for path in found)
            raise SaferlrmError(f"unknown notebook '{word}'; choose from {numbers}")
        chosen.update(matches)
    return [path for path in found if not only or path in chosen]


def check_parameters(notebook: Path, profile: str, typed: Mapping[str, str]) -> dict[str, Any]:
    """The parameters to inject into one notebook: those it has, as values of their defaults' types.

    A profile's file and a model's folder get their whole path: kernels run in the folder of the notebook.

    Raises:
        SaferlrmError: a value that does not have the type of the default in the notebook, or a ``model`` that can be
            neither a folder with a model nor a name on the hub.
    """
    defaults = notebook_parameters(notebook)
    values = {"profile": profile, **typed}
    if "model" in values:
        values["model"] = find_model(values["model"])
    if values["profile"].endswith((".yaml", ".yml")):
        values["profile"] = str(Path(values["profile"]).resolve())
    return {name: _convert(notebook, name, values[name], defaults[name]) for name in values if name in defaults}


def notebook_parameters(notebook: Path) -> dict[str, Any]:
    """Names and default values of a notebook's parameters cell.

    Raises:
        SaferlrmError: not a notebook, or a default that is not a literal.
    """
    try:
        found = papermill.inspect_notebook(str(notebook))
    except Exception as problem:  # nbformat and json raise many kinds
        reason = " ".join(str(problem).split())[:200]
        raise SaferlrmError(f"{notebook.name} is not a readable notebook: {reason}") from None
    defaults = {}
    for name, parameter in found.items():
        try:
            defaults[name] = ast.literal_eval(parameter["default"])
        except (ValueError, SyntaxError):
            raise SaferlrmError(
                f"{notebook.name}: parameter '{name}' = {parameter['default']} is no literal; "
                "only literals can be replaced"
            ) from None
    return defaults


def notebook_source_hash(notebook: Path) -> str:
    """SHA-256 over cell types, sources and tags: outputs may change without making a run stale."""
    cells = nbformat.read(notebook, as_version=4).cells
    text = json.dumps([(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in cells])
    return hashlib.sha256(text.encode()).hexdigest()


def finished_notebooks(out: Path) -> list[dict[str, Any]]:
    """Markers of the notebooks that have finished in a run folder, for status."""
    return [marker for path in sorted(out.glob("*.done.json")) if (marker := _read_marker(path)) is not None]


def _refuse_unknown(typed: Mapping[str, str], sources: Sequence[Path]) -> None:
    known = sorted({name for source in sources for name in notebook_parameters(source)})
    for name in typed:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            raise SaferlrmError(f"unknown parameter '{name}'{hint}; the notebooks have {', '.join(known)}")


def _convert(notebook: Path, name: str, text: str, default: Any) -> Any:
    """Typed text as a value of the default's type: ``1e3`` is no whole number, and text stays text."""
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False", "null": "None"}.get(text, text))
    except (ValueError, SyntaxError):
        value = text
    if type(value) is int and type(default) is float:
        value = float(value)
    if default is not None and type(value) is not type(default):
        raise SaferlrmError(
            f"parameter '{name}' of {notebook.name} takes a value of type {type(default).__name__} "
            f"such as {default!r}, not '{text}'"
        )
    return value


def _kernel_environment(shipped: bool, out: Path) -> dict[str, str]:
    """What kernels inherit: progress goes to a file and not into saved outputs; artefacts are computed here."""
    progress = str((out / PROGRESS_FILE).resolve())
    return {"SAFERLRM_PROGRESS": progress, "SAFERLRM_SHIPPED": "1" if shipped else "0"} | MEMORY_KEPT


class _CountingEngine(NBClientEngine):
    """papermill's own engine, telling which cell it has reached."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        reached = options.pop("reached")
        start = nb_man.cell_start

        def cell_start(cell: Any, cell_index: int | None = None, **rest: Any) -> None:
            reached(cell_index, len(nb_man.nb.cells))
            start(cell, cell_index, **rest)

        nb_man.cell_start = cell_start
        return super().execute_managed_notebook(nb_man, kernel_name, **options)


papermill_engines.register("saferlrm", _CountingEngine)


def _execute(source: Path, out: Path, parameters: Mapping[str, Any], on_cell: OnCell) -> NotebookRun:
    logging.getLogger("papermill").setLevel(logging.ERROR)
    position = [0]

    def reached(index: int, cells: int) -> None:
        position[0] = index + 1
        on_cell(source.stem, index + 1, cells)

    target, unfinished = out / source.name, out / f".{source.name}"
    _marker(source, out).unlink(missing_ok=True)
    clock = time.perf_counter()
    with PeakMemory(children_only=True) as peak:
        try:
            papermill.execute_notebook(
                str(source),
                str(unfinished),
                parameters=dict(parameters),
                engine_name="saferlrm",
                kernel_name="python3",
                progress_bar=False,
                cwd=str(source.parent),
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # it shares our stderr
                reached=reached,
                iopub_timeout=IOPUB_SECONDS,
            )
        except TimeoutError as problem:  # of the kernel's, which is an OSError
            if unfinished.exists():
                os.replace(unfinished, target)
            raise SaferlrmError(
                f"{source.name} gave no sign for {IOPUB_SECONDS} s in cell {position[0]} (was the machine asleep, or "
                "very busy?); what is finished is kept: run again to continue"
            ) from problem
        except PapermillExecutionError as problem:
            os.replace(unfinished, target)
            raise SaferlrmError(_failure(source, target, problem)) from problem
        except (OSError, SaferlrmError):
            raise
        except Exception as problem:
            if unfinished.exists():
                os.replace(unfinished, target)
            reason = " ".join(str(problem).split())[:200]
            raise SaferlrmError(
                f"{source.name} failed in cell {position[0]}: {type(problem).__name__}: {reason}; "
                f"see {target}, and run again to continue"
            ) from problem
    os.replace(unfinished, target)
    seconds = time.perf_counter() - clock
    return NotebookRun(source.stem, target, round(seconds, 1), round(peak.mb, 1), skipped=False)


def _failure(source: Path, target: Path, problem: PapermillExecutionError) -> str:
    """Where and why a cell failed, in one line."""
    trace = strip_color("\n".join(problem.traceback))
    lines = re.findall(rf"Cell In\s*\[{problem.exec_count}\], line (\d+)", trace)
    place = f"cell {problem.cell_index + 1} (In [{problem.exec_count}])" + (f", line {lines[-1]}" if lines else "")
    what = " ".join(f"{problem.ename}: {problem.evalue}".split())
    if problem.ename == SaferlrmError.__name__:  # it already says what to do
        what = " ".join(problem.evalue.split())
    return f"{source.name} failed in {place}: {what} [executed copy: {target}]"


def _marker(source: Path, out: Path) -> Path:
    return out / f"{source.stem}.done.json"


def _read_marker(path: Path) -> dict[str, Any] | None:
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
        assert {"name", "wanted", "seconds", "peak_memory_mb", "sha256"} <= set(marker)
    except (OSError, ValueError, TypeError, AssertionError):
        return None
    return marker


def _finished(source: Path, out: Path, wanted: Mapping[str, Any]) -> NotebookRun | None:
    marker, target = _read_marker(_marker(source, out)), out / source.name
    if marker is None or marker["wanted"] != wanted or not target.is_file():
        return None
    if file_hash(target) != marker["sha256"]:
        return None
    return NotebookRun(source.stem, target, marker["seconds"], marker["peak_memory_mb"], skipped=True)


def _record(run: NotebookRun, out: Path, wanted: Mapping[str, Any]) -> None:
    """Write the marker: from then on the notebook is finished."""
    marker = {"name": run.name, **_costs(run), "sha256": file_hash(run.path), "wanted": wanted}
    write_json(out / f"{run.name}.done.json", marker)


def _record_study(runs: Sequence[NotebookRun], profile: str) -> None:
    """Put the costs of a whole study beside the results; those of other profiles stay."""
    path = results_folder() / "timings.json"
    with explain_write_errors(path.parent, "make room or set SAFERLRM_RESULTS to another folder"):
        try:
            timings = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            timings = {}
        write_json(path, timings | {profile: {run.name: _costs(run) for run in runs}})


def _costs(run: NotebookRun) -> dict[str, Any]:
    finished = datetime.fromtimestamp(run.path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return {"seconds": run.seconds, "peak_memory_mb": run.peak_memory_mb, "finished": finished}
