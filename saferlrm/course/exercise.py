"""What an exercise is: all that a notebook shows of it, and all that its check needs."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["implement", "find the bug", "measure"]
BLANK = "return None  # your code"


@dataclass(frozen=True)
class Case:
    """Arguments that an attempt is tried on, and what is special about them, in a few words."""

    args: tuple[Any, ...]
    about: str = ""


@dataclass(frozen=True)
class Mistake:
    """A typical wrong answer: ``code`` defines the exercise's function, ``says`` tells its author what is wrong.

    An attempt that gives the same results as ``code`` in every case is told so. Where a property is checked instead of
    cases, ``says`` is what the property's complaint about ``code`` must contain.
    """

    code: str
    says: str


@dataclass(frozen=True)
class Exercise:
    """One exercise of one notebook; texts are Markdown, code is dedented.

    Attributes:
        id: number of the notebook and of the exercise, e.g. ``05.1``.
        kind: *implement* a function; *find the bug* in the starter; *measure*: predict a number, then write the
            function that reads it off the notebook's own results.
        stars: difficulty, 1 to 3.
        function: name of the function that is checked; starter and solution define it.
        learned: what is worth keeping; shown by a check that passes, and beside the solution.
        imports: third-party imports of the cell.
        cases: makes the inputs; a function, so that nothing is built before it is needed.
        reference: right answers; by default the solution's.
        property: for what has no single right answer: gives a complaint about a function, or ``None``.
        tolerance: relative and absolute, of numbers.
        overflow: a floating-point overflow in an attempt is an error.
        guess: of a measure exercise: what to predict, in a few words.
        guessed: what is wrong with a guess, or ``None``.
        on: of a measure exercise: the notebook's variables that are the function's arguments.
    """

    id: str
    kind: Kind
    title: str
    stars: int
    minutes: int
    function: str
    statement: str
    hint: str
    starter: str
    solution: str
    learned: str
    imports: tuple[str, ...] = ()
    cases: Callable[[], list[Case]] = field(default=list)
    mistakes: tuple[Mistake, ...] = ()
    reference: Callable[..., Any] | None = None
    property: Callable[[Callable[..., Any]], str | None] | None = None
    tolerance: float = 1e-6
    overflow: bool = False
    guess: str = ""
    guessed: Callable[[Any], str | None] | None = None
    on: tuple[str, ...] = ()

    def defined(self, code: str) -> Callable[..., Any]:
        """The exercise's function as ``code`` defines it (the starter, the solution or a mistake)."""
        names: dict[str, Any] = {}
        # Apart, as a notebook compiles them: code that stands beside its imports is compiled a little differently.
        exec("\n".join(self.imports), names)
        exec(f"from __future__ import annotations\n{dedent(code)}", names)
        return names[self.function]

    def call(self) -> str:
        """The last line of its cell."""
        if self.kind != "measure":
            return f'check("{self.id}", {self.function})'
        given = self.on[0] if len(self.on) == 1 else f"({', '.join(self.on)})"
        return f'check("{self.id}", {self.function}, prediction=prediction, on={given})'

    def cell(self, body: str | None = None, prediction: str = "None") -> str:
        """The code cell with the starter, or with another body in its place."""
        lines = [*self.imports, *[""] * bool(self.imports), "from saferlrm.course import check", ""]
        lines += [f"prediction = {prediction}  # {self.guess}", ""] if self.kind == "measure" else [""]
        return "\n".join([*lines, dedent(body or self.starter), "", self.call()])


def dedent(text: str) -> str:
    """Text of an indented literal, without the blank lines around it."""
    return textwrap.dedent(text).strip("\n").rstrip()
