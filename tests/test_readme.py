"""The README says what the results say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from saferlrm.errors import SaferlrmError
from saferlrm.readme import results_section, update_readme

ROOT = Path(__file__).resolve().parents[1]


def test_the_readme_holds_the_current_results() -> None:
    assert results_section(ROOT) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_relative_link_of_the_readme_leads_somewhere() -> None:
    import re

    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_updating_touches_nothing_outside_the_marks(tmp_path: Path) -> None:
    for name in ("results", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("artefacts"))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(text.replace("| what | target |", "| old | table |"), encoding="utf-8")
    update_readme(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == text


def test_without_results_the_error_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(SaferlrmError, match="saferlrm run"):
        results_section(tmp_path)
