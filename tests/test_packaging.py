"""What a fresh machine needs: the lock, conda's copy of it, and the build files agree."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import saferlrm

ROOT = Path(__file__).parent.parent
SITE_LOCK = "site/requirements.lock.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(file: str = "requirements.lock.txt") -> dict[str, Version]:
    lines = (ROOT / file).read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin) for pin in pins), (
        "exact public versions"
    )
    names = {canonicalize_name(pin.split("==")[0]): Version(pin.split("==")[1]) for pin in pins}
    assert len(names) == len(pins), "a package is pinned twice"
    return names


def direct() -> list[Requirement]:
    extras = [text for group in PROJECT["optional-dependencies"].values() for text in group]
    return [Requirement(text) for text in (*PROJECT["dependencies"], *extras)]


def test_the_conda_environment_has_the_versions_of_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert {canonicalize_name(pin.split("==")[0]): Version(pin.split("==")[1]) for pin in pip} == locked()
    (python,) = (e for e in environment["dependencies"] if isinstance(e, str) and e.startswith("python="))
    assert python.split("=")[1] in ("3.11", "3.12")


def test_every_direct_requirement_is_locked_within_its_range() -> None:
    everywhere, site = locked(), locked(SITE_LOCK)
    assert not set(everywhere) & set(site), "pinned in both files"
    for requirement in direct():
        pins = site if str(requirement) in PROJECT["optional-dependencies"]["site"] else everywhere
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_every_requirement_of_a_locked_package_is_locked(python: str) -> None:
    pins = locked()
    environment = {"extra": "", "python_version": python, "python_full_version": f"{python}.0"}
    for name in pins:
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is not None and not needed.marker.evaluate(environment):
                continue
            key = canonicalize_name(needed.name)
            # A GPU build of torch pins its own libraries; see the head of the lock file.
            if name != "torch" or key in pins:
                assert key in pins, f"{name} needs {needed}"
                assert needed.specifier.contains(pins[key], prereleases=True), f"{name} needs {needed}"


def test_every_third_party_import_is_a_declared_requirement() -> None:
    declared = {canonicalize_name(requirement.name) for requirement in direct()}
    providers = metadata.packages_distributions()
    own = {path.stem for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")}
    found = set()
    for folder in ("saferlrm", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            found.update(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), flags=re.MULTILINE))
    needed = {canonicalize_name(name) for module in found - own for name in providers.get(module, [])}
    # Both come with what is declared and are imported next to it.
    needed -= {"saferlrm", "packaging", "annotated-types", "pydantic-core", "ipython"}
    assert needed <= declared, needed - declared


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == saferlrm.__version__ == metadata.version("saferlrm")
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_profiles_are_part_of_the_package() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert data["saferlrm"] == ["profiles/*.yaml"]


def test_lab_opens_the_first_notebook_where_links_into_docs_work() -> None:
    # Called from another make, as the tests are, it would print the folders it enters and leaves.
    arguments = ["make", "-n", "--no-print-directory", "lab", "LAB_ARGS=--no-browser"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    command = done.stdout.strip().splitlines()[-1]
    assert f'root_dir="{ROOT}"' in command
    assert command.endswith(" --no-browser")
    (notebook,) = re.findall(r"\S+\.ipynb", command)
    assert (ROOT / notebook).is_file()


def test_make_knows_its_commands_and_continuous_integration_calls_make_test() -> None:
    for target in ("study", "test", "lab", "lint", "site", "browser", "clean"):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()


def test_make_says_which_python_it_needs(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\necho "error: Python 3.9 found" >&2\nexit 1\n')
    old.chmod(0o755)
    command = ["make", f"VENV={tmp_path / 'venv'}", f"PYTHON={old}", "lint"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "error: Python" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_every_rule_of_the_sanitiser_is_used() -> None:
    """nbval drops a rule without a word if its replacement is empty or badly spaced."""
    from nbval.plugin import get_sanitize_patterns

    text = (ROOT / "tests" / "nbval_sanitize.cfg").read_text()
    rules = get_sanitize_patterns(text)
    assert len(rules) == text.count("\nregex: ") >= 3
    assert all(replacement.startswith("<") for _, replacement in rules)
