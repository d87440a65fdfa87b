"""Questions in the notebooks: enough of them, where they belong, each with one folded answer, and no two alike."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

from saferlrm.store import repository

PATHS = sorted((repository() / "notebooks").glob("*.ipynb"))
FORM = re.compile(
    r"\*\*Question\.\*\* (?P<question>.+?)\n\n<details>\n<summary>Answer</summary>\n\n(?P<answer>.+?)\n\n</details>",
    flags=re.DOTALL,
)
FEWEST = 3  # questions of a notebook
EACH = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem[:2])


class Question(NamedTuple):
    id: str
    source: str
    section: str  # the heading of the second level above it
    before: str  # id of the cell above it

    @property
    def parts(self) -> tuple[str, str]:
        found = FORM.fullmatch(self.source)
        assert found, f"{self.id} does not have the form of a question with one folded answer"
        return found["question"].strip(), found["answer"].strip()


def questions(path: Path) -> list[Question]:
    section, before, found = "", "", []
    for cell in nbformat.read(path, as_version=nbformat.NO_CONVERT).cells:
        if cell.cell_type == "markdown":
            section = (re.findall(r"^## (.+)$", cell.source, flags=re.MULTILINE) or [section])[-1]
            if "-question-" in cell.id or "**Question.**" in cell.source:
                found.append(Question(cell.id, cell.source, section, before))
        before = cell.id
    return found


@EACH
def test_a_notebook_asks_at_least_three_questions_in_theory_and_practice(path: Path) -> None:
    found = questions(path)
    assert len(found) >= FEWEST
    for one in found:
        assert re.fullmatch(rf"{path.stem[:2]}-question-[a-z0-9-]+", one.id)
        assert one.section in ("Theory", "Practice"), f"{one.id} stands in {one.section}"
        assert "-question-" not in one.before, f"{one.id} follows another question at once"


@EACH
def test_a_question_has_one_folded_answer_that_is_not_empty(path: Path) -> None:
    for one in questions(path):
        question, answer = one.parts
        assert "?" in question
        assert "<" not in re.sub(r"\$[^$]*\$|`[^`]*`", "", question + answer), f"{one.id}: one fold, and no other HTML"
        assert len(answer.split()) >= 20, f"{one.id}: an answer gives its reason"


@EACH
def test_an_answer_quotes_no_rate_that_another_run_could_change(path: Path) -> None:
    for one in questions(path):
        _, answer = one.parts
        assert not re.search(r"(?<![\d.])[01]\.\d\d", answer), f"{one.id} quotes a number; name the row instead"


def test_no_two_questions_or_answers_are_equal() -> None:
    pairs = [one.parts for path in PATHS for one in questions(path)]
    for texts in zip(*pairs, strict=True):
        assert len({" ".join(text.casefold().split()) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    "source",
    [
        "**Question.** Why?",
        "**Question.** Why?\n\n<details>\n<summary>Answer</summary>\n\n\n\n</details>",
        # without its blank lines the answer would not be read as Markdown
        "**Question.** Why?\n\n<details>\n<summary>Answer</summary>\nBecause.\n</details>",
        "**Question.** Why?\n\n<details>\n<summary>Answer</summary>\n\nBecause.",
    ],
)
def test_another_form_is_found(source: str) -> None:
    with pytest.raises(AssertionError, match="00-question-x"):
        _ = Question("00-question-x", source, "Theory", "").parts
