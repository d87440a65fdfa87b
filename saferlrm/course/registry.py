"""All exercises by number, in the order of the walk."""

from __future__ import annotations

from importlib import import_module

from saferlrm.course.exercise import Exercise

NUMBERS = tuple(f"{number:02d}" for number in range(12))
_modules = {number: import_module(f"saferlrm.course.nb{number}") for number in NUMBERS}

EXERCISES: dict[str, Exercise] = {one.id: one for module in _modules.values() for one in module.EXERCISES}
FURTHER: dict[str, str] = {number: module.FURTHER for number, module in _modules.items()}


def exercises_of(number: str) -> list[Exercise]:
    """The exercises of one notebook."""
    return [one for one in EXERCISES.values() if one.id.startswith(f"{number}.")]
