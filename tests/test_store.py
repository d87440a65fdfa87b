"""The store: a stage is computed once, an interruption loses nothing, damage is noticed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import start_python

from saferlrm.errors import SaferlrmError
from saferlrm.store import Artefact, Store, artefact_key, code_fingerprint, held


def counting_build(calls: list[Path], text: str = "result"):
    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "sub").mkdir(exist_ok=True)
        (folder / "value.txt").write_text(text)
        (folder / "sub" / "more.bin").write_bytes(bytes(5000))

    return build


def compute(store: Store, calls: list[Path], **changes) -> Artefact:
    arguments = {"stage": "demo", "settings": {"seed": 0}, "inputs": {}, "code": "c"} | changes
    return store.load_or_compute(build=counting_build(calls), **arguments)


def test_a_stage_is_built_once_and_then_loaded(tmp_path: Path) -> None:
    calls: list[Path] = []
    first = compute(Store(tmp_path), calls)
    second = compute(Store(tmp_path), calls)
    assert len(calls) == 1
    assert first.path == second.path == tmp_path / "demo" / first.key[:16]
    assert (second.path / "value.txt").read_text() == "result"
    assert [entry.key for entry in Store(tmp_path).entries()] == [first.key]


def test_the_manifest_says_what_was_done_and_with_what(tmp_path: Path) -> None:
    artefact = compute(Store(tmp_path), [], settings={"seed": 3, "modes": ("on", "off")})
    manifest = json.loads((artefact.path / "manifest.json").read_text())
    assert manifest["settings"] == {"seed": 3, "modes": ["on", "off"]}
    assert manifest["files"]["sub/more.bin"]["bytes"] == 5000
    assert {"python", "saferlrm", "torch"} <= set(manifest["versions"])
    assert manifest["peak_memory_mb"] > 1
    assert {"code", "device", "git_commit", "inputs", "key", "seconds", "stage", "started"} <= set(manifest)
    assert artefact.bytes == 5006


def test_everything_a_stage_depends_on_changes_its_key(tmp_path: Path) -> None:
    base = {"stage": "a", "settings": {"x": 1, "y": 2}, "inputs": {}, "code": "c"}
    key = artefact_key(**base)
    parent = Artefact(tmp_path, "parent-key", {})
    for change in ({"stage": "b"}, {"settings": {"x": 1, "y": 3}}, {"code": "d"}, {"inputs": {"in": parent}}):
        assert artefact_key(**base | change) != key
    assert artefact_key(**base | {"settings": {"y": 2, "x": 1}}) == key
    assert artefact_key(**base | {"settings": {"x": True, "y": 2}}) != key


def test_settings_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    for value in (object(), float("nan"), {1}):
        with pytest.raises((TypeError, ValueError)):
            compute(Store(tmp_path), [], settings={"x": value})


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("value.txt", lambda path: path.write_text("resulT")),
        ("sub/more.bin", lambda path: path.write_bytes(path.read_bytes()[:100])),
        ("value.txt", Path.unlink),
        ("manifest.json", lambda path: path.write_text("{")),
        ("manifest.json", lambda path: path.write_text(path.read_text().replace('"demo"', '"other"'))),
        ("manifest.json", Path.unlink),
    ],
    ids=["tampered", "truncated", "missing", "half-a-manifest", "another-manifest", "no-manifest"],
)
def test_a_damaged_artefact_is_named_and_computed_again(tmp_path, capfd, name, damage) -> None:
    calls: list[Path] = []
    artefact = compute(Store(tmp_path), calls)
    damage(artefact.path / name)
    again = compute(Store(tmp_path), calls)
    assert len(calls) == 2
    assert (again.path / "value.txt").read_text() == "result"
    message = capfd.readouterr().err.strip()
    assert name in message
    assert "computed again" in message
    assert "\n" not in message


def test_damage_within_one_session_is_noticed_too(tmp_path: Path) -> None:
    store, calls = Store(tmp_path), []
    artefact = compute(store, calls)
    compute(store, calls)
    (artefact.path / "value.txt").write_text("RESULT")
    compute(store, calls)
    assert len(calls) == 2


def test_shipped_artefacts_are_used_verified_and_never_changed(tmp_path: Path, capfd) -> None:
    calls: list[Path] = []
    shipped = compute(Store(tmp_path / "shipped"), calls)
    store = Store(tmp_path / "own", shipped=tmp_path / "shipped")
    assert compute(store, calls).path == shipped.path
    assert len(calls) == 1
    (shipped.path / "value.txt").write_text("broken")
    own = compute(Store(tmp_path / "own", shipped=tmp_path / "shipped"), calls)
    assert own.path.is_relative_to(tmp_path / "own")
    assert (shipped.path / "value.txt").read_text() == "broken"
    assert "value.txt" in capfd.readouterr().err
    assert {entry.path for entry in store.entries()} == {shipped.path, own.path}


def test_the_default_store_leaves_shipped_artefacts_out_on_request(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAFERLRM_HOME", str(tmp_path))
    monkeypatch.setenv("SAFERLRM_SHIPPED", "0")
    assert Store.default().root == tmp_path
    assert Store.default().shipped is None
    monkeypatch.setenv("SAFERLRM_SHIPPED", "1")
    assert Store.default().shipped is not None


BUILD_SLOWLY = """
import sys, time
from pathlib import Path
from saferlrm.store import Store

def build(folder):
    start = len(list(folder.glob("step-*")))
    (folder / "work").mkdir(exist_ok=True)
    for step in range(start, 4):
        (folder / f"step-{step}").write_text(str(step * step))
        with (Path(sys.argv[1]) / "log").open("a") as log:
            log.write(f"{step}\\n")
        if len(sys.argv) > 2 and step == 1:
            print("half", flush=True)
            time.sleep(float(sys.argv[2]))

artefact = Store(Path(sys.argv[1])).load_or_compute("slow", {}, {}, build, "c")
print(artefact.manifest["resumed"], artefact.path, flush=True)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return start_python("-c", script, *arguments)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_an_interrupted_build_resumes_and_ends_with_the_same_files(tmp_path: Path, how: int) -> None:
    root = tmp_path / "interrupted"
    root.mkdir()
    process = start(BUILD_SLOWLY, root, 60)
    assert process.stdout.readline() == "half\n"
    process.send_signal(how)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert Store(root).entries() == []
    assert len(Store(root).unfinished()) == 1

    out, _ = start(BUILD_SLOWLY, root).communicate(timeout=60)
    assert out.startswith("True ")
    assert (root / "log").read_text().split() == ["0", "1", "2", "3"]
    assert Store(root).unfinished() == []

    straight = tmp_path / "straight"
    straight.mkdir()
    start(BUILD_SLOWLY, straight).communicate(timeout=60)
    (resumed,), (once,) = Store(root).entries(), Store(straight).entries()
    assert resumed.manifest["files"] == once.manifest["files"]


def test_leftovers_that_cannot_be_resumed_are_discarded(tmp_path: Path, capfd) -> None:
    def build(folder: Path) -> None:
        if (folder / "half").exists():
            raise ValueError("half a file")
        (folder / "half").write_text("x")
        if not (tmp_path / "second").exists():
            (tmp_path / "second").touch()
            raise KeyboardInterrupt
        (folder / "done").write_text("y")

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path / "s").load_or_compute("demo", {}, {}, build, "c")
    artefact = Store(tmp_path / "s").load_or_compute("demo", {}, {}, build, "c")
    assert (artefact.path / "done").exists()
    assert "starts afresh" in capfd.readouterr().err


def test_an_error_of_the_build_is_passed_on_and_nothing_is_committed(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Store(tmp_path).load_or_compute("demo", {}, {}, build, "c")
    assert Store(tmp_path).entries() == []


def test_work_files_do_not_become_part_of_the_artefact(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "work").mkdir()
        (folder / "work" / "optimizer.bin").write_bytes(bytes(100))
        (folder / "model.bin").write_bytes(bytes(10))

    artefact = Store(tmp_path).load_or_compute("demo", {}, {}, build, "c")
    assert sorted(path.name for path in artefact.path.iterdir()) == ["manifest.json", "model.bin"]


def test_of_two_processes_one_builds_and_the_other_waits_and_says_for_whom(tmp_path: Path) -> None:
    first = start(BUILD_SLOWLY, tmp_path, 4)
    assert first.stdout.readline() == "half\n"
    second = start(BUILD_SLOWLY, tmp_path)
    out_second, err_second = second.communicate(timeout=60)
    out_first, _ = first.communicate(timeout=60)
    assert first.returncode == second.returncode == 0
    assert out_first == out_second
    assert f"in use by process {first.pid} on" in err_second
    assert (tmp_path / "log").read_text().split() == ["0", "1", "2", "3"]


def test_waiting_has_a_limit_that_can_be_set(tmp_path: Path) -> None:
    first = start(BUILD_SLOWLY, tmp_path, 60)
    try:
        assert first.stdout.readline() == "half\n"
        begun = time.monotonic()
        with pytest.raises(SaferlrmError, match=rf"process {first.pid} on .* after 0.5 s"):
            Store(tmp_path, lock_timeout=0.5).load_or_compute("slow", {}, {}, lambda folder: None, "c")
        assert time.monotonic() - begun < 10
    finally:
        first.kill()
        first.communicate()


def test_a_lock_timeout_that_is_no_number_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SAFERLRM_LOCK_TIMEOUT", "soon")
    with pytest.raises(SaferlrmError, match="SAFERLRM_LOCK_TIMEOUT"), held(tmp_path / "x.lock", "x"):
        pass


@contextmanager
def without_superuser() -> Iterator[None]:
    """Permissions bind ordinary users only."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_store_says_so_in_one_line(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir(mode=0o555)
    with without_superuser(), pytest.raises(SaferlrmError, match=r"SAFERLRM_HOME") as caught:
        compute(Store(root), [])
    assert "\n" not in str(caught.value)


def test_a_store_that_is_a_file_or_impossible_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/saferlrm")):
        with pytest.raises(SaferlrmError, match="cannot create"):
            compute(Store(root), [])


def test_a_full_disk_is_explained_and_the_partial_work_kept(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "step-0").write_text("kept")
        with Path("/dev/full").open("w") as file:  # the kernel's own "no space left on device"
            file.write("x")

    with pytest.raises(SaferlrmError, match="no space left on device") as caught:
        Store(tmp_path).load_or_compute("demo", {}, {}, build, "c")
    assert "\n" not in str(caught.value)
    (partial,) = Store(tmp_path).unfinished()
    assert (partial / "step-0").read_text() == "kept"


WRITE_TENSORS_UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from saferlrm.errors import SaferlrmError
from saferlrm.store import Store

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

def build(folder):
    if sys.argv[2] == "safetensors":
        save_file({"x": np.zeros(100_000, dtype=np.float32)}, folder / "x.safetensors")
    else:
        np.save(folder / "x.npy", np.zeros(100_000))

try:
    Store(Path(sys.argv[1])).load_or_compute("demo", {}, {}, build, "c")
except SaferlrmError as problem:
    print(problem)
"""


@pytest.mark.parametrize("library", ["numpy", "safetensors"])
def test_a_limit_hit_inside_a_library_is_explained_too(tmp_path: Path, library: str) -> None:
    out, err = start(WRITE_TENSORS_UNDER_A_LIMIT, tmp_path, library).communicate(timeout=60)
    assert "file too large" in out or "no space left" in out, err
    assert Store(tmp_path).entries() == []


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small package: a imports b (inside a function), b imports nothing, c stands alone."""
    folder = tmp_path / "saferlrm"
    (folder / "sub").mkdir(parents=True)
    (folder / "__init__.py").write_text('"""Package."""\n__version__ = "1"\n')
    (folder / "sub" / "__init__.py").write_text("")
    body = "    from saferlrm.sub import b\n    return b.g(x)\n"
    (folder / "a.py").write_text('"""A."""\ndef f(x):\n    """Doc."""\n' + body)
    (folder / "sub" / "b.py").write_text("import math\ndef g(x):\n    return x + 1  # plus one\n")
    (folder / "c.py").write_text("from . import a\nfrom .sub.b import g\n")
    return folder


def test_the_code_fingerprint_follows_imports_but_not_prose(package: Path) -> None:
    def now(name: str = "saferlrm.a") -> str:
        return code_fingerprint(name, package=package)

    before, other = now(), now("saferlrm.sub.b")
    body = "    from saferlrm.sub import b\n\n    return b.g(x)  # a comment\n"
    (package / "a.py").write_text('"""Other."""\ndef f(x):\n' + body)
    assert now() == before
    (package / "c.py").write_text("x = 1\n")
    assert now() == before
    (package / "sub" / "b.py").write_text("import math\ndef g(x):\n    return x + 2\n")
    assert now() != before
    assert now("saferlrm.sub.b") != other
    with pytest.raises(ModuleNotFoundError):
        now("saferlrm.nowhere")


def test_relative_imports_are_followed(package: Path) -> None:
    before = code_fingerprint("saferlrm.c", package=package)
    (package / "sub" / "b.py").write_text("def g(x):\n    return x * 2\n")
    assert code_fingerprint("saferlrm.c", package=package) != before


def test_every_module_of_the_package_has_a_fingerprint() -> None:
    for name in ("saferlrm.store", "saferlrm.suites.types", "saferlrm.chat"):
        assert len(code_fingerprint(name)) == 64
