"""``check("05.1", auxiliary_loss)``: the last line of every exercise's cell.

It never raises. It prints one of three things: *passed* and what is worth keeping, *not solved yet* for a starter that
nobody has touched, or *not right yet* with an input, what was expected, what came, and, where the results are those of
a typical mistake, its name.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Number, Real
from types import CodeType
from typing import Any

import numpy as np

from saferlrm.course.compare import difference, shown
from saferlrm.course.exercise import BLANK, Case, Exercise
from saferlrm.course.registry import EXERCISES


@dataclass(frozen=True)
class Outcome:
    """Whether an attempt passed, and the sentence that is printed."""

    passed: bool
    text: str


def check(number: str, attempt: Any, *, prediction: Any = None, on: Any = None) -> None:
    """Checks the solution of an exercise and prints what it finds.

    Args:
        number: the exercise, e.g. ``"05.1"``.
        attempt: the function that solves it.
        prediction: of a measure exercise, the guess that was made before.
        on: of a measure exercise, the results of the notebook to measure on; a tuple where there are several.
    """
    print(outcome(number, attempt, prediction=prediction, on=on).text)


def outcome(number: str, attempt: Any, *, prediction: Any = None, on: Any = None) -> Outcome:
    """What :func:`check` prints, as a value."""
    if number not in EXERCISES:
        return Outcome(False, f"there is no exercise {number!r}; the last line of its cell has the number")
    exercise = EXERCISES[number]
    try:
        return _outcome(exercise, attempt, prediction, on)
    except Exception as problem:  # a check explains, whatever it was given
        return Outcome(False, f"{number} not right yet: the check could not read the result ({_told(problem)})")


def _outcome(exercise: Exercise, attempt: Any, prediction: Any, on: Any) -> Outcome:
    name = exercise.function
    if exercise.kind == "measure" and prediction is None:
        return Outcome(False, f"{exercise.id} not solved yet: put your guess into `prediction`, then write `{name}`.")
    if exercise.kind == "measure" and (doubt := _doubt(exercise, prediction)):
        return Outcome(False, f"{exercise.id} not right yet: {doubt}")
    if exercise.guessed is not None and (wrong := exercise.guessed(prediction)):
        return Outcome(False, f"{exercise.id} not right yet: look at `prediction`: {wrong}.")
    if not callable(attempt):
        what = f"the check needs the function itself, not its result: {exercise.call()}"
        return Outcome(False, f"{exercise.id} not right yet: {what}")
    untouched = _same_code(attempt, exercise.defined(exercise.starter))
    if untouched and exercise.kind != "find the bug":
        return Outcome(False, f"{exercise.id} not solved yet: `{name}` returns None; put your code in place of "
                              f"`{BLANK}` and run the cell again.")  # fmt: skip
    if complaint := _complaint(exercise, attempt, name_mistakes=not untouched):
        return Outcome(False, f"{exercise.id} not {'solved' if untouched else 'right'} yet: {complaint}")
    told = f"{exercise.id} passed: {exercise.learned}"
    if exercise.kind == "measure":
        measured = _run(attempt, on if isinstance(on, tuple) else (on,))
        if isinstance(measured, Exception):
            raised = f"`{name}` passes on small tables, but on the notebook's own it raises {_told(measured)}"
            return Outcome(False, f"{exercise.id} not right yet: {raised}")
        if complaint := _no_guess(prediction, measured, on):
            return Outcome(False, f"{exercise.id} not solved yet: `{name}` is right; but {complaint}")
        told += f"\nYou predicted {shown(prediction)}; measured here: {shown(measured)}."
    return Outcome(True, told)


def _doubt(exercise: Exercise, prediction: Any) -> str | None:
    """What is wrong with a guess at a share or at a difference of two, or ``None``."""
    if not exercise.guess.endswith("0 to 1") or not isinstance(prediction, Real) or 0 <= prediction <= 1:
        return None
    meant = f"; did you mean {prediction / 100:.4g}?" if 1 < prediction <= 100 else "."
    return f"your guess is {shown(prediction)}, but a share lies between 0 and 1{meant}"


def _no_guess(prediction: Any, measured: Any, on: Any) -> str | None:
    """Why a prediction cannot be one of what was measured: a word for a number, or a label that no table has."""
    if isinstance(measured, str):
        tables = [table for table in (on if isinstance(on, tuple) else (on,)) if hasattr(table, "columns")]
        labels = [label for table in tables if "label" in table.columns for label in dict.fromkeys(table["label"])]
        if not isinstance(prediction, str) or (labels and prediction not in labels):
            return f"{prediction!r} is no guess; predict one of {', '.join(labels) or 'the words it can return'}."
    elif isinstance(measured, Number) and (not isinstance(prediction, Number) or isinstance(prediction, str | bool)):
        return f"{prediction!r} is no guess; predict a number."
    return None


def _complaint(exercise: Exercise, attempt: Callable[..., Any], name_mistakes: bool = True) -> str | None:
    """What is wrong with an attempt, or ``None``; finding the bug of an untouched starter is left to the reader."""
    right = exercise.reference or exercise.defined(exercise.solution)
    cases = exercise.cases()
    got = [_run(attempt, case.args, exercise.overflow) for case in cases]
    for case, found in zip(cases, got, strict=True):
        if isinstance(found, Exception):
            why = f"it raises {_told(found)}"
        else:
            why = difference(right(*copy.deepcopy(case.args)), found, exercise.tolerance)
        if why:
            named = _mistake(exercise, cases, got) if name_mistakes else None
            end = "" if why.endswith("?") else "."
            return f"{_where(exercise, case)}, {why}{end}" + (f" {named}" if named else "")
    if exercise.property is None:
        return None
    with _quiet():
        try:
            return exercise.property(attempt)
        except Exception as problem:
            return f"`{exercise.function}` raises {_told(problem)}"


def _mistake(exercise: Exercise, cases: list[Case], got: list[Any]) -> str | None:
    """The typical mistake that gives these very results, in words."""
    for mistake in exercise.mistakes:
        wrong = exercise.defined(mistake.code)
        results = [_run(wrong, case.args, exercise.overflow) for case in cases]
        if all(_alike(one, found, exercise.tolerance) for one, found in zip(results, got, strict=True)):
            return mistake.says
    return None


def _alike(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, Exception) or isinstance(other, Exception):
        return type(one) is type(other)
    return difference(one, other, tolerance) is None


def _run(function: Callable[..., Any], args: tuple[Any, ...], overflow: bool = False) -> Any:
    """The function's result on copies of the arguments, or what it raised; an overflow raises if asked to."""
    with _quiet(), np.errstate(over="raise" if overflow else "ignore"):
        try:
            return function(*copy.deepcopy(args))
        except Exception as problem:
            return problem


@contextlib.contextmanager
def _quiet():
    """No warnings of half-finished code: what is wrong is told by the check."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _where(exercise: Exercise, case: Case) -> str:
    names = exercise.defined(exercise.solution).__code__.co_varnames
    given = ", ".join(f"{name} = {shown(value)}" for name, value in zip(names, case.args, strict=False))
    return f"for {given}" + (f" ({case.about})" if case.about else "")


def _told(problem: Exception) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"


def _same_code(one: Any, other: Any) -> bool:
    """Whether two functions were compiled from the same text, wherever it stood."""
    return hasattr(one, "__code__") and _bare(one.__code__) == _bare(other.__code__)


def _bare(code: CodeType) -> tuple[Any, ...]:
    constants = tuple(_bare(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts)
    return code.co_code, code.co_names, code.co_varnames, constants
