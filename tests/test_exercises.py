"""Exercises: solutions pass, blanks and typical mistakes are named, and notebooks hold what the package says."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from saferlrm.bibliography import ENTRIES
from saferlrm.course import check
from saferlrm.course.__main__ import main
from saferlrm.course.checking import outcome
from saferlrm.course.compare import difference, shown
from saferlrm.course.exercise import Exercise, dedent
from saferlrm.course.reading import READING, reading_text
from saferlrm.course.registry import EXERCISES, NUMBERS, exercises_of
from saferlrm.course.sync import blank_text, differing, section, sync
from saferlrm.refresh import notebooks

ALL = list(EXERCISES.values())
EACH = pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.id)
MISTAKES = [(one, mistake) for one in ALL for mistake in one.mistakes]
LINES, WIDTH = 25, 120


def run_cell(source: str, names: dict[str, Any]) -> None:
    exec(source, names)


def given(exercise: Exercise) -> Any:
    """What a notebook hands to the check of a measure exercise: here the first case."""
    if exercise.kind != "measure":
        return None
    args = exercise.cases()[0].args
    return args if len(args) > 1 else args[0]


def guess(exercise: Exercise) -> Any:
    """A prediction of the right kind: a word where the solution returns one."""
    if exercise.kind != "measure":
        return None
    args = exercise.cases()[0].args
    right = exercise.defined(exercise.solution)(*args)
    return right if isinstance(right, str) else 0.1


def attempted(exercise: Exercise, code: str) -> str:
    prediction = guess(exercise)
    found = outcome(exercise.id, exercise.defined(code), prediction=prediction, on=given(exercise))
    return found.text


def test_a_prediction_that_cannot_be_one_is_refused() -> None:
    wrongs = (("09.3", "Banana", "one of A, B, C, D"), ("09.3", 0.5, "one of"), ("09.4", "B", "number"))
    for number, wrong, hint in wrongs:
        exercise = EXERCISES[number]
        found = outcome(number, exercise.defined(exercise.solution), prediction=wrong, on=given(exercise))
        assert not found.passed
        assert f"{wrong!r} is no guess; predict" in found.text
        assert hint in found.text


class TestEveryExercise:
    @EACH
    def test_the_solution_passes(self, exercise: Exercise) -> None:
        text = attempted(exercise, exercise.solution)
        assert text.startswith(f"{exercise.id} passed: {exercise.learned}"), text
        if exercise.kind == "measure":
            assert re.search(rf"You predicted {re.escape(shown(guess(exercise)))}; measured here: .+\.$", text)

    @EACH
    def test_a_blank_says_that_it_is_not_solved_yet(self, exercise: Exercise) -> None:
        assert blank_text(exercise).startswith(f"{exercise.id} not solved yet: ")
        if exercise.kind == "measure":  # a guess alone is no solution
            assert attempted(exercise, exercise.starter).startswith(f"{exercise.id} not solved yet: ")

    @EACH
    def test_a_blank_says_the_same_on_every_run(self, exercise: Exercise) -> None:
        assert blank_text(exercise) == blank_text(exercise)
        assert "0x" not in blank_text(exercise)

    @pytest.mark.parametrize(("exercise", "mistake"), MISTAKES, ids=[f"{one.id}" for one, _ in MISTAKES])
    def test_a_typical_mistake_is_named(self, exercise: Exercise, mistake: Any) -> None:
        text = attempted(exercise, mistake.code)
        assert text.startswith(f"{exercise.id} not right yet: "), text
        assert mistake.says in text, text

    @EACH
    def test_any_other_answer_is_caught_in_words(self, exercise: Exercise) -> None:
        names = {"any": lambda *_: "something", "raises": lambda *_: 1 / 0, "none": lambda *_: None, "few": lambda: 0}
        for name, wrong in names.items():
            found = outcome(exercise.id, wrong, prediction=0.5, on=given(exercise))
            assert not found.passed, name
            assert found.text.startswith(f"{exercise.id} not right yet: "), (name, found.text)
        assert "the function itself" in outcome(exercise.id, 0.5, prediction=0.5).text

    @EACH
    def test_its_texts_are_complete(self, exercise: Exercise) -> None:
        assert exercise.id in EXERCISES
        assert exercise.stars in (1, 2, 3)
        assert 5 <= exercise.minutes <= 30
        for text in (exercise.title, exercise.statement, exercise.hint, exercise.learned):
            assert text.strip()
        assert exercise.cases() or exercise.property
        assert len(exercise.cases()) >= 3 or exercise.property
        if exercise.kind == "implement":
            assert len(exercise.mistakes) >= 2
        assert (exercise.kind == "measure") == bool(exercise.on) == bool(exercise.guess)

    @EACH
    def test_its_cell_is_short_and_ends_with_the_check(self, exercise: Exercise) -> None:
        lines = exercise.cell().splitlines()
        assert len(lines) <= LINES
        assert max(map(len, lines)) <= WIDTH
        assert lines[-1].startswith(f'check("{exercise.id}", {exercise.function}')

    @EACH
    def test_its_solution_works_pasted_into_its_cell(
        self, exercise: Exercise, capsys: pytest.CaptureFixture[str]
    ) -> None:
        names: dict[str, Any] = {}
        cell = exercise.cell(exercise.solution, prediction=repr(guess(exercise)))
        if exercise.kind == "measure":
            arguments = exercise.cases()[0].args
            names = {f"given{i}": value for i, value in enumerate(arguments)}
            cell = cell.replace(exercise.call(), exercise.call().split(", on=")[0] + f", on=({', '.join(names)},))")
        run_cell(cell, names)
        assert capsys.readouterr().out.startswith(f"{exercise.id} passed: ")


class TestTheCollection:
    def test_every_notebook_has_at_least_three(self) -> None:
        counts = {number: len(exercises_of(number)) for number in NUMBERS}
        assert min(counts.values()) >= 3, counts

    def test_all_kinds_occur_and_ids_count_up(self) -> None:
        assert {one.kind for one in ALL} == {"implement", "find the bug", "measure"}
        for number in NUMBERS:
            found = [one.id for one in exercises_of(number)]
            assert found == [f"{number}.{i}" for i in range(1, len(found) + 1)]

    def test_most_notebooks_have_every_kind(self) -> None:
        whole = [n for n in NUMBERS if len({one.kind for one in exercises_of(n)}) == 3]
        assert len(whole) >= 9

    def test_functions_of_one_notebook_have_different_names(self) -> None:
        for number in NUMBERS:
            names = [one.function for one in exercises_of(number)]
            assert len(set(names)) == len(names)


class TestFurtherReading:
    @pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem[:2])
    def test_a_notebook_ends_with_what_to_read_next(self, path: Path) -> None:
        last = nbformat.read(path, as_version=4).cells[-1]
        assert last.id == "further-reading"
        assert last.source == reading_text(path.stem[:2])
        assert last.source.startswith("### Further reading\n")
        lines = [line for line in last.source.splitlines() if line.startswith("- ")]
        assert 3 <= len(lines) <= 5
        assert all(re.fullmatch(r"- .+, \*.+\* \(\d{4}, \[.+\]\(https://\S+\)\): .+\.", line) for line in lines)

    def test_only_sources_of_the_bibliography_are_named_and_none_twice_in_a_notebook(self) -> None:
        assert tuple(READING) == NUMBERS
        for number, found in READING.items():
            ids = [key for key, _ in found]
            assert set(ids) <= {entry.id for entry in ENTRIES}, number
            assert len(set(ids)) == len(ids), number
            assert all(20 <= len(why) <= 130 and why.endswith(".") for _, why in found), number


class TestAgreementWithThePackage:
    """Where the package has what an exercise asks for, the solution gives the same."""

    def test_the_auxiliary_loss(self) -> None:
        from saferlrm.align.head import binary_loss

        exercise = EXERCISES["05.1"]
        for case in exercise.cases():
            assert difference(binary_loss(*case.args), exercise.defined(exercise.solution)(*case.args), 1e-6) is None

    def test_the_temperature(self) -> None:
        from saferlrm.classifier import fit_temperature

        exercise = EXERCISES["04.1"]
        for z, y in (case.args for case in exercise.cases()[:3]):
            found = exercise.defined(exercise.solution)(z, y)
            assert found == pytest.approx(fit_temperature(z, y.astype(float))["temperature"], rel=1e-3)

    def test_the_corrected_rate(self) -> None:
        from saferlrm.judges.calibration import JudgeError, corrected_rate

        exercise, judge = EXERCISES["02.3"], JudgeError(positives=100, hits=90, negatives=100, passes=80)
        found = exercise.defined(exercise.solution)(0.41, 0.9, 0.8)
        assert found == pytest.approx(corrected_rate(41, 100, judge).estimate)


class TestTheNotebooks:
    @pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem[:2])
    def test_a_notebook_holds_its_exercises_as_they_are_in_the_package(self, path: Path) -> None:
        assert differing(path) is None

    @pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem[:2])
    def test_stored_outputs_are_what_a_blank_prints(self, path: Path) -> None:
        cells = nbformat.read(path, as_version=4).cells
        for cell in cells:
            if cell.cell_type == "code" and "exercise" in cell.metadata:
                said = "".join(output.get("text", "") for output in cell.outputs)
                assert said == f"{blank_text(EXERCISES[cell.metadata['exercise']])}\n"

    @pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem[:2])
    def test_variables_that_are_measured_on_exist_in_the_notebook(self, path: Path) -> None:
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        trees = [ast.parse(cell.source) for cell in cells if "exercise" not in cell.metadata]
        stored = {n.id for t in trees for n in ast.walk(t) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        for exercise in exercises_of(path.name[:2]):
            used = {n.id for text in exercise.on for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
            assert used <= stored, f"{exercise.id} measures on {used - stored}, which the notebook does not have"

    @pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem[:2])
    def test_starters_do_not_overwrite_names_of_the_notebook(self, path: Path) -> None:
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        trees = [ast.parse(cell.source) for cell in cells if "exercise" not in cell.metadata]
        names = {n.id for t in trees for n in ast.walk(t) if isinstance(n, ast.Name)}
        froms = [n for t in trees for n in ast.walk(t) if isinstance(n, ast.ImportFrom)]
        imported = {alias.asname or alias.name for n in froms for alias in n.names}
        for exercise in exercises_of(path.name[:2]):
            assert exercise.function not in names | imported, exercise.id

    def test_solutions_and_hints_are_folded(self) -> None:
        for number in NUMBERS:
            cells = section(number)
            assert cells[0].source.startswith("## Exercises\n")
            for exercise in exercises_of(number):
                task, code, solution = (c for c in cells if c.metadata.get("exercise") == exercise.id)
                assert task.source.count("<details>") == task.source.count("</details>") == 1
                assert solution.source.startswith("<details>\n<summary>")
                assert solution.source.endswith("\n\n</details>")
                assert code.metadata["tags"] == ["nbval-check-output"]
                assert dedent(exercise.solution).strip() not in code.source

    def test_syncing_mends_the_exercises_and_nothing_else(self, tmp_path: Path) -> None:
        path = Path(shutil.copy(notebooks(["05"])[0], tmp_path))
        before = path.read_bytes()
        assert not sync(path)
        notebook = nbformat.read(path, as_version=4)
        cell = next(c for c in notebook.cells if c.id == "exercise-05-1-code")
        cell.source += "\n# solved in the notebook by mistake"
        nbformat.write(notebook, path)
        assert "exercise-05-1-code" in differing(path)
        assert sync(path)
        assert path.read_bytes() == before

    def test_the_command_compares(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--check"]) == 0
        assert "all notebooks hold the exercises" in capsys.readouterr().out


class TestTheCheck:
    def test_it_never_raises(self, capsys: pytest.CaptureFixture[str]) -> None:
        check("99.9", print)
        check("01.1", None)
        check("01.3", lambda table: table["no such column"], prediction=1, on=None)
        said = capsys.readouterr().out
        assert "there is no exercise '99.9'" in said
        assert said.count("not right yet") == 2

    @pytest.mark.parametrize("number", ["01.3", "02.4", "04.3"])
    def test_a_guess_above_1_is_no_share(self, number: str) -> None:
        exercise = EXERCISES[number]
        said = outcome(number, exercise.defined(exercise.solution), prediction=30, on=given(exercise)).text
        assert said.endswith("a share lies between 0 and 1; did you mean 0.3?")
        said = outcome(number, exercise.defined(exercise.solution), prediction=-0.1, on=given(exercise)).text
        assert said.endswith("between 0 and 1.")

    def test_a_question_is_not_closed_with_a_full_stop(self) -> None:
        said = outcome("01.1", lambda answers: print(end="")).text
        assert "or nothing at all?" in said
        assert "?." not in said

    @pytest.mark.parametrize("guess", [-1, 0, "0.1", True, float("nan")])
    def test_a_guess_that_cannot_be_a_weight_is_told(self, guess: Any) -> None:
        exercise = EXERCISES["05.4"]
        found = outcome("05.4", exercise.defined(exercise.solution), prediction=guess, on=given(exercise))
        assert not found.passed
        assert found.text.startswith("05.4 not right yet: look at `prediction`: it is ")

    def test_the_task_of_the_judge_tells_both_faults(self) -> None:
        assert "{answer}" in EXERCISES["06.3"].statement

    def test_real_data_that_break_a_solution_are_told(self) -> None:
        exercise = EXERCISES["07.3"]
        text = outcome("07.3", exercise.defined(exercise.solution), prediction=0.5, on="no table").text
        assert "on the notebook's own it raises" in text

    @pytest.mark.parametrize(
        ("expected", "got", "words"),
        [
            (0.5, 50.0, "not per cent"),
            (0.5, -0.5, "the sign is reversed"),
            (0.5, float("nan"), "got NaN"),
            (0.5, None, "or nothing at all"),
            (0.5, "0.5", "which is a str"),
            (np.zeros(3), np.zeros((3, 1)), r"the shape \(3,\), got \(3, 1\)"),
            (np.zeros(3), np.array([0.0, np.nan, 0.0]), "NaN in 1 places"),
            ((0.1, 0.2), (0.1, 0.3), r"\(at 1\)"),
            ((0.1, 0.2), 0.1, "expected 2 values"),
            ([1, 2], [1, 2, 3], "got 3"),
            ("holds", "Holds", "expected 'holds'"),
            (True, 1.5, "of type"),
        ],
    )
    def test_differences_are_told_in_words(self, expected: Any, got: Any, words: str) -> None:
        assert re.search(words, difference(expected, got))

    @pytest.mark.parametrize(
        ("expected", "got"),
        [(1, 1.0), (0.5, np.float64(0.5)), ((1, 2), [1, 2]), (float("nan"), np.nan), (np.arange(2), np.arange(2.0))],
    )
    def test_what_means_the_same_is_the_same(self, expected: Any, got: Any) -> None:
        assert difference(expected, got) is None

    def test_long_values_are_cut(self) -> None:
        assert len(shown(list(range(1000)))) < 200
