"""Finished stages on disk, addressed by everything they depend on.

A stage's key is the hash of its name, its settings, the keys of its inputs and the code that builds it. Its
folder is committed by one rename after the last file is written, so a folder that exists is complete; its
manifest holds the hash of every file, so a damaged one is noticed. An interrupted build keeps its partial
folder and resumes in it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

import saferlrm
from saferlrm.errors import SaferlrmError
from saferlrm.fingerprint import code_fingerprint as code_fingerprint
from saferlrm.memory import PeakMemory

MANIFEST = "manifest.json"
WORK = "work"
LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "scikit-learn", "scipy")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_PERMISSION = (errno.EROFS, errno.EACCES, errno.EPERM)
MAKE_ROOM = "make room or set SAFERLRM_HOME to another folder, and run again"


@dataclass(frozen=True)
class Artefact:
    """A finished stage: a folder of files and the manifest that vouches for them."""

    path: Path
    key: str
    manifest: Mapping[str, Any]

    @property
    def stage(self) -> str:
        return self.manifest["stage"]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())


class Store:
    """Stages under ``root``, with an optional read-only layer of shipped ones.

    Args:
        root: folder of finished stages, created when the first one is committed.
        shipped: folder of the same layout that is read, verified and never written.
        lock_timeout: seconds to wait for another process that builds the same stage; ``None`` reads
            ``SAFERLRM_LOCK_TIMEOUT`` and otherwise waits as long as it takes.
    """

    def __init__(self, root: Path, shipped: Path | None = None, lock_timeout: float | None = None) -> None:
        self.root = Path(root)
        self.shipped = Path(shipped) if shipped is not None else None
        self.lock_timeout = lock_timeout
        self._verified: dict[Path, tuple[tuple[str, int, int], ...]] = {}

    @classmethod
    def default(cls) -> Store:
        """The store of this checkout: ``SAFERLRM_HOME`` or ``store/``, and the shipped artefacts.

        ``SAFERLRM_SHIPPED=0`` leaves the shipped layer out, so that everything is computed here.
        """
        shipped = None if os.environ.get("SAFERLRM_SHIPPED") == "0" else results_folder() / "artefacts"
        return cls(Path(os.environ.get("SAFERLRM_HOME") or repository() / "store").expanduser(), shipped)

    def load_or_compute(
        self,
        stage: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Artefact],
        build: Callable[[Path], None],
        code: str,
    ) -> Artefact:
        """Return the stage's artefact: from this store, the shipped layer, or built now.

        Args:
            stage: name of the stage; also the name of its folder.
            settings: everything the result depends on besides inputs and code; JSON values only.
            inputs: artefacts that ``build`` reads.
            build: writes the stage's files into the folder it is given. After an interruption it is called
            with the
                same folder and whatever it holds, so it may go on from there. Files under ``work/`` in that
                folder are for resuming only and are removed when the stage is committed.
            code: fingerprint of the building code, see `code_fingerprint`.

        Raises:
            SaferlrmError: the store cannot be written, the disk is full, or another process holds the stage
            for
                longer than the timeout.
        """
        key = artefact_key(stage, settings, inputs, code)
        found = self._load(stage, key)
        if found is not None:
            return found
        final = self.root / stage / key[:16]
        partial = final.with_suffix(".partial")
        lock = self.root / ".locks" / f"{stage}-{key[:16]}.lock"
        with explain_write_errors(self.root), held(lock, f"stage {stage}", self.lock_timeout):
            found = self._load(stage, key, report=False)  # finished by another process while we waited
            if found is not None:
                return found
            details = self._build(stage, build, partial)
            manifest = {
                "stage": stage,
                "key": key,
                "settings": _jsonable(settings),
                "inputs": {name: artefact.key for name, artefact in sorted(inputs.items())},
                "code": code,
                **details,
            }
            write_json(partial / MANIFEST, manifest)
            if final.exists():  # damaged, as _load has said
                shutil.rmtree(final)
            os.replace(partial, final)
        return Artefact(final, key, manifest)

    def entries(self) -> list[Artefact]:
        """All finished stages, shipped ones included, oldest first. Files are not verified."""
        found = []
        for layer in (self.root, self.shipped):
            for path in layer.glob(f"*/*/{MANIFEST}") if layer is not None else ():
                manifest = _read_manifest(path)
                if manifest is not None and path.parent.suffix != ".partial":
                    found.append(Artefact(path.parent, manifest["key"], manifest))
        return sorted(found, key=lambda artefact: (artefact.manifest["started"], artefact.stage))

    def has_stages(self) -> bool:
        """Whether a stage was finished here; shipped ones do not count."""
        return any(path.parent.suffix != ".partial" for path in self.root.glob(f"*/*/{MANIFEST}"))

    def unfinished(self) -> list[Path]:
        """Folders of interrupted builds, which the next run resumes."""
        return sorted(self.root.glob("*/*.partial"))

    def _load(self, stage: str, key: str, report: bool = True) -> Artefact | None:
        for layer in (self.root, self.shipped):
            path = layer / stage / key[:16] if layer is not None else None
            if path is None or not os.path.isdir(
                path
            ):  # unlike Path.is_dir: no error where nothing may be read
                continue
            manifest = _read_manifest(path / MANIFEST)
            if manifest is None or manifest["key"] != key or manifest["stage"] != stage:
                damage: tuple[str, str] | None = (MANIFEST, "not the manifest of this stage")
            else:
                damage = self._damage(path, manifest)
            if manifest is not None and damage is None:
                return Artefact(path, key, manifest)
            if damage is not None and report:
                say(f"{path / damage[0]} is damaged ({damage[1]}); stage {stage} is computed again")
        return None

    def _damage(self, path: Path, manifest: Mapping[str, Any]) -> tuple[str, str] | None:
        """Name of the first file that is not as it was written, and what is wrong with it."""
        signature = []
        for name, expected in manifest["files"].items():
            try:
                status = (path / name).stat()
            except OSError:
                return name, "missing"
            if status.st_size != expected["bytes"]:
                return name, f"{status.st_size} bytes instead of {expected['bytes']}"
            signature.append((name, status.st_size, status.st_mtime_ns))
        if self._verified.get(path) != tuple(signature):  # a study asks for the same stage many times
            for name, expected in manifest["files"].items():
                if file_hash(path / name) != expected["sha256"]:
                    return name, "its content has changed"
            self._verified[path] = tuple(signature)
        return None

    def _build(self, stage: str, build: Callable[[Path], None], partial: Path) -> dict[str, Any]:
        """Run ``build`` and return what the manifest says about the run and its files."""
        resumed = partial.is_dir() and any(partial.iterdir())
        partial.mkdir(parents=True, exist_ok=True)
        (partial / MANIFEST).unlink(missing_ok=True)  # killed between manifest and rename
        started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        with PeakMemory() as peak:
            try:
                build(partial)
            except (SaferlrmError, OSError):
                raise
            except Exception as problem:
                if not resumed or _write_problem(problem):
                    raise
                # What an interruption left behind may be half a file; nothing finished is lost by starting
                # afresh.
                say(f"stage {stage} could not resume ({type(problem).__name__}); it starts afresh")
                shutil.rmtree(partial)
                partial.mkdir()
                build(partial)
        shutil.rmtree(partial / WORK, ignore_errors=True)
        files = sorted(file for file in partial.rglob("*") if file.is_file())
        if not files:
            raise RuntimeError(f"stage {stage} wrote no file")
        return {
            "started": started,
            "seconds": round(time.perf_counter() - clock, 3),
            "resumed": resumed,
            "peak_memory_mb": round(peak.mb, 1),
            **environment(),
            "files": {
                file.relative_to(partial).as_posix(): {
                    "sha256": file_hash(file),
                    "bytes": file.stat().st_size,
                }
                for file in files
            },
        }


def artefact_key(stage: str, settings: Mapping[str, Any], inputs: Mapping[str, Artefact], code: str) -> str:
    """SHA-256 over the canonical JSON of everything a stage depends on."""
    description = {
        "stage": stage,
        "settings": _jsonable(settings),
        "inputs": {name: artefact.key for name, artefact in inputs.items()},
        "code": code,
    }
    return hashlib.sha256(_canonical(description)).hexdigest()


def environment() -> dict[str, Any]:
    """Versions, device and code state, for a manifest."""
    versions = {"saferlrm": saferlrm.__version__, "python": platform.python_version()}
    for library in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    torch = sys.modules.get("torch")  # a stage that never imported it ran on the CPU
    on_gpu = torch is not None and torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"cpu ({os.cpu_count()} cores, {platform.machine()})"
    return {"versions": versions, "device": device, "git_commit": git_commit()}


def git_commit() -> str | None:
    """Commit of the checkout, with ``-dirty`` if it has local changes; ``None`` outside a git checkout."""
    command = [
        "git",
        "--no-optional-locks",
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude",
        "*",
    ]
    try:
        done = subprocess.run(command, cwd=repository(), capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def repository() -> Path:
    """The checkout this package runs from; the working directory if it was installed without one."""
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def results_folder() -> Path:
    """Where results are kept: ``SAFERLRM_RESULTS`` or ``results/`` of the checkout."""
    return Path(os.environ.get("SAFERLRM_RESULTS") or repository() / "results").expanduser()


def say(line: str) -> None:
    """One line to the person at the keyboard, on stderr."""
    Console(stderr=True, force_jupyter=False, highlight=False).print(line, markup=False, soft_wrap=True)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader finds the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def held(lock_file: Path, what: str, timeout: float | None = None) -> Iterator[None]:
    """Hold a lock between processes; whoever waits is told who holds it.

    The lock is the operating system's and ends with its process, also after ``kill -9``.

    Raises:
        SaferlrmError: not available within ``timeout`` seconds (default ``SAFERLRM_LOCK_TIMEOUT``, or no
        limit).
    """
    if timeout is None:
        timeout = _seconds_from_environment("SAFERLRM_LOCK_TIMEOUT")
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    holder_file = lock_file.with_suffix(".holder.json")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = _holder(holder_file)
        say(f"{what} is in use by {holder}: waiting for it")
        try:
            lock.acquire(timeout=-1 if timeout is None else timeout, poll_interval=0.2)
        except Timeout:
            raise SaferlrmError(
                f"{what} is still in use by {holder} after {timeout:g} s; wait for it, or end that process"
            ) from None
    try:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(holder_file, {"pid": os.getpid(), "host": socket.gethostname(), "started": now})
        yield
    finally:
        with contextlib.suppress(OSError):
            holder_file.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def explain_write_errors(folder: Path, remedy: str = MAKE_ROOM) -> Iterator[None]:
    """Create ``folder``, and turn a full disk or a read-only folder into one line that says what to do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise SaferlrmError(f"cannot create {folder}: {problem.strerror}; {remedy}") from problem
    try:
        yield
    except SaferlrmError:
        raise
    except Exception as problem:
        reason = _write_problem(problem)
        if reason is None:
            raise
        raise SaferlrmError(
            f"cannot write to {folder}: {reason}; finished work is kept: {remedy}"
        ) from problem


def _write_problem(problem: BaseException | None) -> str | None:
    """Why a write failed, if it was the disk: also where a library has wrapped the system's error."""
    seen: set[int] = set()
    while problem is not None and id(problem) not in seen:
        seen.add(id(problem))
        text = str(problem)
        if isinstance(problem, OSError) and problem.errno in NO_SPACE:
            return os.strerror(problem.errno).lower()
        if isinstance(problem, OSError) and problem.errno in NO_PERMISSION:
            return f"{os.strerror(problem.errno).lower()} ({problem.filename})"
        if re.search(r"\d+ requested and \d+ written", text):  # numpy drops the system's error
            return "no space left on device"
        # safetensors and other Rust code: "I/O error: No space left on device (os error 28)"
        for number in NO_SPACE:
            if f"(os error {number})" in text or os.strerror(number) in text:
                return os.strerror(number).lower()
        problem = problem.__cause__ or problem.__context__
    return None


def _seconds_from_environment(name: str) -> float | None:
    text = os.environ.get(name)
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise SaferlrmError(f"{name} must be a number of seconds, not '{text}'") from None


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _read_manifest(path: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        complete = all(isinstance(manifest[key], str) for key in ("stage", "key", "started"))
        complete &= all({"sha256", "bytes"} <= set(entry) for entry in manifest["files"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if complete else None


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _jsonable(settings: Mapping[str, Any]) -> Any:
    """The settings as JSON would return them; TypeError or ValueError for anything JSON cannot hold."""
    return json.loads(_canonical(dict(settings)))
