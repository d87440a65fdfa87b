"""Writing the exercises into the notebooks: from the cell ``exercises`` to the end, everything is generated.

The last cell says what to read next (:mod:`saferlrm.course.reading`).

Outputs are written too: what a cell prints that nobody has touched is known without running the notebook.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from saferlrm.course.checking import outcome
from saferlrm.course.exercise import Exercise, dedent
from saferlrm.course.reading import reading_text
from saferlrm.course.registry import FURTHER, exercises_of
from saferlrm.errors import SaferlrmError

HEADING = "exercises"  # id of the cell from which on cells are generated
READING = "further-reading"  # id of the last cell
CHECKED = "nbval-check-output"
INTRODUCTION = """
## Exercises

Each exercise is one cell. Put your code into it and run it: its last line checks your work and says what is wrong, or
what is worth keeping. Hints and solutions are folded. ★ takes a look, ★★ some thought, ★★★ a quiet half-hour.
"""


def sync(path: Path) -> bool:
    """Writes the exercises into a notebook; whether anything had to be written. All other cells stay as they are.

    Raises:
        SaferlrmError: the notebook has no cell ``exercises``.
    """
    if differing(path) is None:
        return False
    notebook = nbformat.read(path, as_version=4)
    start = _start(notebook, path)
    before = notebook.cells[:start]
    made = section(path.name[:2], first_count=1 + sum(cell.cell_type == "code" for cell in before))
    notebook.cells = [*before, *made]
    nbformat.validate(notebook)
    temporary = path.with_suffix(".part")
    nbformat.write(notebook, temporary)
    temporary.replace(path)
    return True


def differing(path: Path) -> str | None:
    """The first cell in which a notebook differs from its exercises, in words; outputs and counts do not count."""
    notebook = nbformat.read(path, as_version=4)
    found = notebook.cells[_start(notebook, path) :]
    wanted = section(path.name[:2])
    for have, want in zip(found, wanted, strict=False):
        if any(have.get(key) != want.get(key) for key in ("id", "cell_type", "source", "metadata")):
            return f"the cell {have.id} is not what saferlrm/course says of {want.id}; run python -m saferlrm.course"
    if len(found) != len(wanted):
        return f"{len(found)} cells of exercises instead of {len(wanted)}; run python -m saferlrm.course"
    return None


def section(number: str, first_count: int = 1) -> list[Any]:
    """The cells of one notebook's exercises, and the last one, with what to read next."""
    cells = [new_markdown_cell(_lines(INTRODUCTION), id=HEADING)]
    for count, one in enumerate(exercises_of(number), first_count):
        cells += _cells(one, count)
    cells.append(new_markdown_cell(f"### To go on with\n\n{dedent(FURTHER[number])}", id=f"{HEADING}-further"))
    cells.append(new_markdown_cell(reading_text(number), id=READING))
    return cells


def _cells(exercise: Exercise, count: int) -> list[Any]:
    name = f"exercise-{exercise.id.replace('.', '-')}"
    mark = {"exercise": exercise.id}
    return [
        new_markdown_cell(task_text(exercise), id=name, metadata=mark),
        new_code_cell(
            exercise.cell(),
            id=f"{name}-code",
            metadata=mark | {"tags": [CHECKED]},
            execution_count=count,
            outputs=[new_output("stream", name="stdout", text=f"{blank_text(exercise)}\n")],
        ),
        new_markdown_cell(solution_text(exercise), id=f"{name}-solution", metadata=mark),
    ]


def blank_text(exercise: Exercise) -> str:
    """What the check prints of a starter that nobody has touched."""
    return outcome(exercise.id, exercise.defined(exercise.starter)).text


def task_text(exercise: Exercise) -> str:
    """Title, difficulty, statement and the folded hint."""
    stars = "★" * exercise.stars + "☆" * (3 - exercise.stars)
    head = f"### {exercise.id} · {exercise.title}\n\n*{exercise.kind}* · {stars} · about {exercise.minutes} minutes"
    return f"{head}\n\n{_lines(exercise.statement)}\n\n{_folded('Hint', _lines(exercise.hint))}"


def solution_text(exercise: Exercise) -> str:
    """The folded solution, and what is worth keeping."""
    code = f"```python\n{dedent(exercise.solution)}\n```"
    return _folded(f"Solution of {exercise.id}", f"{code}\n\n{exercise.learned}")


def _folded(title: str, body: str) -> str:
    # The blank lines make Markdown of what stands inside, in JupyterLab, on GitHub and in MyST.
    return f"<details>\n<summary>{title}</summary>\n\n{body}\n\n</details>"


def _lines(text: str) -> str:
    """Paragraphs as one line each, as the notebooks have them; lists, tables, formulas and code stay as they are."""
    blocks = dedent(text).split("\n\n")
    kept = ("- ", "* ", "| ", "1. ", "$$", "```")
    return "\n\n".join(b if b.lstrip().startswith(kept) or "\n```" in b else b.replace("\n", " ") for b in blocks)


def _start(notebook: Any, path: Path) -> int:
    for at, cell in enumerate(notebook.cells):
        if cell.id == HEADING:
            return at
    raise SaferlrmError(f"{path.name} has no cell with the id {HEADING!r}; put back one with the heading ## Exercises")
