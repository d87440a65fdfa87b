"""The command line: ``saferlrm run / status / stage / report / estimate / grow / profile``."""

from __future__ import annotations

import difflib
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

import saferlrm
from saferlrm.errors import SaferlrmError
from saferlrm.model_choice import meant_model, model_settings
from saferlrm.profile import Profile, load_profile
from saferlrm.profile_text import profile_text
from saferlrm.store import Store, repository

app = typer.Typer(
    help="A study of safety decisions before the chain of thought.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False)

ProfileOption = Annotated[str, typer.Option(help="smoke, organism, quick, gpu, or the path of a YAML file.")]
ModelOption = Annotated[str, typer.Option(help="Folder or hub name of the model, instead of the profile's.")]
ORGANISM_CONTEXT = 1024  # max_position_embeddings of the organisms
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the stage.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: errors the user can mend are one line and exit status 2, Ctrl-C is 130."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # a name the hub lacks is one line, not one for each retry
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # kernels are forked off: it would only warn
    try:
        status = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except SaferlrmError as problem:
        _error(" ".join(str(problem).split()))
        sys.exit(2)
    except Exception as problem:
        if not hasattr(problem, "format_message"):  # not one of the usage errors of the option parser
            raise
        _error(" ".join(problem.format_message().split()) + _meant(problem))
        sys.exit(2)
    if status == 130:  # what typer makes of Ctrl-C, or of an answer refused
        _error("interrupted; what is finished is kept, and the same command resumes")
        sys.stdout.flush()
        # Locks and kernels are closed; an ordinary exit lets the event loop's remains print tracebacks.
        os._exit(130)
    sys.exit(status or 0)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"saferlrm {saferlrm.__version__}")
        raise typer.Exit


@app.command()
def run(
    profile: ProfileOption = "organism",
    model: ModelOption = "",
    only: Annotated[str, typer.Option(help="Numbers of notebooks, e.g. 02,03.")] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="Parameter 'seed' of the notebooks.")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("-p", metavar="KEY=VALUE", help="Notebook parameter; repeatable.")
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Execute finished notebooks again; stages stay stored.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="No sweeps, fewer seeds and organisms: the profile 'quick'.")
    ] = False,
    shipped: Annotated[bool, typer.Option(help="Read shipped artefacts instead of computing all.")] = False,
    notebooks: Annotated[Path | None, typer.Option(help="Folder with the notebooks.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for executed copies; default runs/PROFILE[-MODEL].")] = None,
) -> None:
    """Execute the notebooks in order; skip what is finished, resume what is not."""
    if quick:
        if profile not in ("organism", "quick"):
            raise SaferlrmError(f"--quick belongs to the profile organism; set evidence.quick in {profile!r} instead")
        profile = "quick"
    typed = _typed_parameters(parameter or [])
    if model:
        typed["model"] = model
    changed = model_settings(profile, typed.get("model", ""))  # before the slow imports
    from saferlrm.runner import run_notebooks

    if seed is not None:
        typed["seed"] = str(seed)
    selected = [word.strip() for word in only.split(",") if word.strip()]
    with _Display() as display:
        runs = run_notebooks(
            profile,
            selected,
            typed,
            fresh,
            shipped,
            notebooks,
            out,
            display.start,
            display.cell,
            display.done,
        )
    table = Table("notebook", "seconds", "peak MB", "", title=f"profile {changed.get('name', profile)}")
    for column in table.columns[1:3]:
        column.justify = "right"
    for one in runs:
        note = "finished earlier" if one.skipped else ""
        table.add_row(one.name, f"{one.seconds:.1f}", f"{one.peak_memory_mb:.0f}", note)
    peak = max(one.peak_memory_mb for one in runs)
    table.add_row("total", f"{sum(one.seconds for one in runs):.1f}", f"{peak:.0f}", "", style="bold")
    console.print(table)
    if notebooks is None and not selected:
        _report(profile, shipped, typed.get("model", ""))


@app.command()
def status(profile: ProfileOption = "organism", model: ModelOption = "") -> None:
    """Say which stages of a profile's model and which notebooks are done."""
    from saferlrm.runner import finished_notebooks, select_notebooks
    from saferlrm.stage_table import cells, columns_of_text, stages_of

    settings, store = load_profile(profile, **model_settings(profile, model)), Store.default()
    entries = stages_of(settings, store)
    console.print(f"stages of {settings.name} in {store.root}", style="bold", soft_wrap=True)
    rows = []
    for entry in entries:
        manifest, (_, of, seed, where) = entry.manifest, cells(entry, settings, store)
        when, seconds = manifest["started"][5:16].replace("T", " "), f"{manifest.get('seconds', 0):.1f}"
        peak, size = f"{manifest.get('peak_memory_mb', 0):.0f}", f"{entry.bytes / 1e6:.1f}"
        rows.append((entry.stage, of, seed.replace(" ", ""), when, seconds, peak, size, where, entry.key[:8]))
    columns = ("stage", "of", "seed", "when", "seconds", "peak MB", "MB", "where", "key")
    if rows:  # as text, which no narrow window or log cuts
        typer.echo(columns_of_text([columns, *rows]))
    if unfinished := store.unfinished():  # of any settings: a key cannot be read backwards
        names = ", ".join(f"{path.parent.name}/{path.stem}" for path in unfinished)
        console.print(f"interrupted, each resumed by a run with its settings: {names}", soft_wrap=True, markup=False)
    done_stages = {entry.stage for entry in entries}
    missing = [name for name in _stages() if name not in done_stages]
    if missing:
        console.print(f"not yet: {', '.join(missing)}", soft_wrap=True, markup=False)
    folder = repository() / "runs" / settings.name
    done = {marker["name"]: marker for marker in finished_notebooks(folder)}
    table = Table("notebook", "finished", "seconds", "peak MB", title=f"notebooks in {folder}")
    for source in select_notebooks(repository() / "notebooks"):
        marker = done.get(source.stem)
        if marker is None:
            table.add_row(source.stem, "not yet", "", "")
        else:
            when = marker["finished"][:16].replace("T", " ")
            table.add_row(source.stem, when, f"{marker['seconds']:.1f}", f"{marker['peak_memory_mb']:.0f}")
    console.print(table)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="Name of a stage, see `saferlrm status`.")],
    profile: ProfileOption = "organism",
    seed: SeedOption = 0,
    method: Annotated[
        str, typer.Option(help="Only this method, e.g. presafe or presafe/few, of: aligned, scorecard, card.")
    ] = "",
    model: ModelOption = "",
    setting: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="A setting, e.g. alignment.micro_batch=2; repeatable.")
    ] = None,
) -> None:
    """Compute one stage and what it depends on, for instance under a cluster's scheduler.

    Under torchrun or accelerate launch, alignment trains in all processes; see scripts/slurm_array.sh.
    """
    changes = _changed_settings(setting or [], "alignment.micro_batch=2") | model_settings(profile, model)
    settings = load_profile(profile, **changes)
    from saferlrm.distributed import lead

    lead(lambda: _stage(name, settings, seed, method))


def _stage(name: str, settings: Profile, seed: int, method: str) -> None:
    from saferlrm.study import Study

    stages = Study.stages()
    if name not in stages and not method:
        raise SaferlrmError(f"unknown stage '{name}'; choose from {', '.join(stages)}")
    study, clock = Study(settings), time.perf_counter()
    result = study.stage_of_method(name, method, seed) if method else stages[name](study, seed)
    # A stage returns its artefact, or what it reads from it.
    where = f" -> {result.path}" if hasattr(result, "path") else ""
    which = f"{method}, seed {seed}" if method else f"seed {seed}"
    typer.echo(f"{name} ({which}): {time.perf_counter() - clock:.1f} s{where}")


@app.command()
def report(
    profile: ProfileOption = "organism",
    model: ModelOption = "",
    readme: Annotated[bool, typer.Option("--readme", help="Also write the maps of the course and docs/.")] = False,
) -> None:
    """Write the HTML report from the results and name it and the figures."""
    _report(profile, shipped=True, model=model)
    if readme:
        from saferlrm.pages import write_pages
        from saferlrm.results_page import update_results

        typer.echo(f"results: {update_results()}")
        for path in write_pages():
            typer.echo(f"page:    {path}")


@app.command()
def control(
    name: Annotated[str, typer.Argument(help="A method, e.g. presafe, or presafe/few for the small alignment set.")],
    setting: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="A setting of alignment, e.g. lambda_aux=1.0; repeatable.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Alignment seeds, e.g. 0,1,2; those of the controls by default.")] = "",
    profile: ProfileOption = "organism",
    model: ModelOption = "",
) -> None:
    """Train and evaluate one control at other settings, beside plain fine-tuning at the same settings."""
    changes = _changed_settings(setting or [], "lambda_aux=1.0")
    differs = {key.removeprefix("alignment."): value for key, value in changes.items()}
    if seeds and not all(part.strip().isdigit() for part in seeds.split(",")):
        raise SaferlrmError(f"--seeds {seeds}: give whole numbers separated by commas, e.g. 0,1,2")
    load_profile(profile, **{f"alignment.{key}": value for key, value in differs.items()})  # a slip, before the wait
    changed = model_settings(profile, model)
    from saferlrm.ablations import control_table
    from saferlrm.study import Study

    rows = Study(profile, **changed).control(
        name, [int(part) for part in seeds.split(",")] if seeds else None, **differs
    )
    typer.echo(control_table(rows, name).to_string(index=False))


@app.command()
def estimate(
    model: Annotated[str, typer.Option(help="Folder, hub name, or organism; default: the profile's model.")] = "",
    profile: ProfileOption = "gpu",
    gpu_memory: Annotated[float, typer.Option(min=1, help="Memory of a GPU in GiB.")] = 80.0,
    tflops: Annotated[float, typer.Option(min=0.01, help="Its peak dense bfloat16 arithmetic in TFLOP/s.")] = 312.0,
    bandwidth: Annotated[float, typer.Option(min=0.01, help="Its memory bandwidth in TB/s.")] = 2.0,
    utilisation: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the peak that is reached.")] = 0.35,
    length: Annotated[int, typer.Option(min=1, help="Tokens of the longest alignment example.")] = 4096,
    mean_length: Annotated[int, typer.Option(min=1, help="Mean tokens of an alignment example.")] = 1024,
    mean_answer: Annotated[int, typer.Option(min=1, help="Mean tokens of a sampled answer.")] = 2048,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts whose hidden states are kept.")] = 8000,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="A profile setting, e.g. alignment.batch_size=4; repeatable."),
    ] = None,
) -> None:
    """Parameters, memory, disk and time of a model, before anything is downloaded."""
    from saferlrm.architectures import architecture
    from saferlrm.estimate import Hardware
    from saferlrm.estimate import estimate as make_estimate
    from saferlrm.workload import disk, small, workload

    settings = load_profile(profile, **_changed_settings(set_ or [], "alignment.batch_size=4"))
    try:
        arch = architecture(model or settings.model)
    except SaferlrmError as problem:
        raise SaferlrmError(f"{problem}{meant_model(model or settings.model)}") from None
    hardware = Hardware(gpu_memory, tflops, bandwidth, utilisation)
    if model == "organism" or (not model and settings.model == "organism"):
        longest = ORGANISM_CONTEXT  # it has no positions beyond
        length, mean_length, mean_answer = (min(n, longest) for n in (length, mean_length, mean_answer))
    made = make_estimate(arch, settings, hardware, length, mean_length, mean_answer, prompts)
    table = Table("", "", "", "basis", title=f"{arch.name} ({arch.source}), profile {settings.name}", show_header=False)
    table.columns[1].justify = "right"
    group = ""
    for line in made.lines:
        if line.group != group:
            group = line.group
            table.add_section()
            table.add_row(group, "", "", "", style="bold")
        digits = f"{line.value:,.0f}" if line.value >= 100 or not line.unit else f"{line.value:.3g}"
        digits = "?" if line.value != line.value else digits  # NaN: not known
        table.add_row(f"  {line.what}", digits, line.unit, line.basis)
    console.print(table)
    begun = small(settings)
    of_begun = make_estimate(arch, begun, hardware, length, mean_length, mean_answer, prompts)
    titled = [("the whole study", settings, made), ("begun small", begun, of_begun)]
    for title, one, its_own in titled if begun != settings else titled[1:]:
        work = workload(one, arch, its_own)
        table = Table("notebook", "adapters", "answers", "hours", title=f"{title}, at least")
        for row in work.itertuples():
            table.add_row(row.notebook, f"{row.adapters}", f"{row.answers:,}", f"{row.hours:.3g}")
        console.print(table)
        console.print(disk(one, arch, int(work["adapters"].iloc[-1])), soft_wrap=True)
    if not any(line.basis.startswith("measured") for line in made.lines):
        rule = f"estimated from --tflops {tflops:g} x --utilisation {utilisation:g}"
        console.print(f"no measurement for this hardware; {rule}", soft_wrap=True)
    for advice in made.advice:
        console.print(f"does not fit: {advice}", soft_wrap=True)


@app.command()
def grow(
    seed: SeedOption = 0,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.")] = Path("organism"),
    profile: ProfileOption = "organism",
) -> None:
    """Grow the model organism from scratch into a checkpoint folder."""
    from saferlrm.organism.grow import grow as grow_organism
    from saferlrm.store import explain_write_errors

    settings = load_profile(profile, **{"growth.seed": seed}).growth
    with explain_write_errors(out, "make room or choose another folder with --out"):
        grow_organism(seed, out, settings)
    typer.echo(f"organism (seed {seed}) in {out}")


@app.command()
def refresh(
    only: Annotated[str, typer.Option(help="Numbers of the notebooks, e.g. 02,03; all by default.")] = "",
) -> None:
    """Execute the notebooks in place and renew the outputs that readers see."""
    from saferlrm.refresh import notebooks
    from saferlrm.refresh import refresh as refresh_notebooks

    for path, seconds, peak in refresh_notebooks(notebooks([n for n in only.split(",") if n])):
        typer.echo(f"{path.name}: {seconds:.1f} s, peak {peak:.0f} MB")


@app.command()
def ship() -> None:
    """Copy the finished stages of the default profile into results/artefacts, for the repository."""
    from saferlrm.ship import ship as ship_stages

    artefacts = ship_stages()
    typer.echo(f"{len(artefacts)} stages, {sum(artefact.bytes for artefact in artefacts) / 1e6:.1f} MB")


@app.command("profile")
def show_profile(
    name: Annotated[str, typer.Argument(help="Profile, or path of a YAML file.")],
    setting: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="A setting that differs, e.g. name=mine; repeatable.")
    ] = None,
) -> None:
    """Print the settings of a profile as YAML: a shipped one with its comments."""
    typer.echo(profile_text(name, **_changed_settings(setting or [], "alignment.micro_batch=3")), nl=False)


def _report(profile: str, shipped: bool, model: str = "") -> None:
    changed = model_settings(profile, model)
    from saferlrm.report import build_report
    from saferlrm.study import Study

    before = os.environ.get("SAFERLRM_SHIPPED")
    os.environ["SAFERLRM_SHIPPED"] = (before or "1") if shipped else "0"
    try:
        path = build_report(Study(profile, **changed))
        figures = sorted((path.parent / "figures").glob("*.png"))
    finally:
        os.environ.pop("SAFERLRM_SHIPPED")
        if before is not None:
            os.environ["SAFERLRM_SHIPPED"] = before
    typer.echo(f"report:  {path}")
    for figure in figures:
        typer.echo(f"figure:  {figure}")


def _typed_parameters(words: Sequence[str]) -> dict[str, str]:
    typed: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key.isidentifier():
            raise SaferlrmError(f"-p {word}: write -p KEY=VALUE, for instance -p seed=1")
        typed[key] = value
    return typed


def _changed_settings(pairs: Sequence[str], example: str) -> dict[str, Any]:
    """Settings of ``--set KEY=VALUE``, with values as in YAML."""
    changes = {}
    for pair in pairs:
        key, found, value = pair.partition("=")
        if not found:
            raise SaferlrmError(f"--set {pair} has no value; write for instance --set {example}")
        changes[key] = yaml.safe_load(value)
    return changes


def _meant(problem: Exception) -> str:
    """A hint at the command that was meant, where there is none of the name given."""
    found = re.search(r"No such command '(.*?)'", str(getattr(problem, "message", "")))
    if found is None:
        return ""
    names = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    close = difflib.get_close_matches(found.group(1), names, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else f" Choose from {', '.join(names)}."


def _stages() -> dict[str, Any]:
    from saferlrm.study import Study

    return Study.stages()


def _error(line: str) -> None:
    Console(stderr=True, highlight=False).print(f"error: {line}", markup=False, soft_wrap=True)


class _Display:
    """A live line for the notebook that runs; plain lines where there is no terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("cells"))
        live = console.is_terminal
        self._progress = Progress(
            SpinnerColumn(), *columns, TimeElapsedColumn(), console=console, transient=True, disable=not live
        )
        self._task: Any = None

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._progress.stop()

    def start(self, name: str, cells: int) -> None:
        if console.is_terminal:
            self._task = self._progress.add_task(name, total=cells)
        else:
            typer.echo(f"{name}: {cells} cells")
            sys.stdout.flush()  # before what stderr may say

    def cell(self, name: str, cell: int, cells: int) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=cell - 1, total=cells)

    def done(self, run: Any) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        note = "finished earlier" if run.skipped else f"{run.seconds:.1f} s, peak {run.peak_memory_mb:.0f} MB"
        self._progress.console.print(f"{run.name}: {note}", markup=False, soft_wrap=True)
