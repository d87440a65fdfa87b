"""The README orients in one screen, and the page of results says what the results say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from saferlrm.course_map import CLOSE, OPEN
from saferlrm.errors import SaferlrmError
from saferlrm.results_page import PAGE, results_section, update_results

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCREEN, ALL = 42, 80  # lines


def test_the_page_holds_the_current_results() -> None:
    section = results_section(ROOT)
    assert section in (ROOT / PAGE).read_text(encoding="utf-8")
    assert "is within any of the 6 intervals" in section  # three attacks on either alignment set


@pytest.mark.parametrize("name", ["README.md", PAGE, "docs/running.md", "docs/newcomer_trials.md",
                                  "docs/data_dictionary.md"])  # fmt: skip
def test_every_relative_link_leads_somewhere(name: str) -> None:
    path = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_one_screen_has_note_question_figure_commands_map_server_and_citation() -> None:
    screen = "\n".join(README.splitlines()[:SCREEN])
    wanted = ("Content note", "?**", "](figures/06_overview.png)", "\nmake study ", "\nmake test ", OPEN, CLOSE,
              "](docs/gpu_server.md)", "](docs/results.md)", "](CITATION.cff)")  # fmt: skip
    places = [screen.find(part) for part in wanted]
    assert -1 not in places, wanted[places.index(-1)]
    assert places == sorted(places)
    assert len(README.splitlines()) <= ALL, "what is longer belongs into docs"
    assert screen.count("![") == 1, "one figure"
    assert "shields.io" not in README, "no badges"


def test_updating_touches_nothing_outside_the_marks(tmp_path: Path) -> None:
    for name in ("results", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("artefacts"))
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / PAGE).write_text(text.replace("| what | target |", "| old | table |"), encoding="utf-8")
    update_results(tmp_path)
    assert (tmp_path / PAGE).read_text(encoding="utf-8") == text


def test_lost_marks_are_said_to_be_lost(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / PAGE).write_text("# Results\n", encoding="utf-8")
    with pytest.raises(SaferlrmError, match="put back"):
        update_results(tmp_path)


def test_without_results_the_error_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(SaferlrmError, match="saferlrm run"):
        results_section(tmp_path)
