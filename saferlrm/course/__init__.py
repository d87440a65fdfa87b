"""The course's exercises: statement, starter, hint, solution and check of each in one place.

A notebook's cells are generated from here (``python -m saferlrm.course``), and a reader's cell calls :func:`check`.
"""

from __future__ import annotations

from saferlrm.course.checking import check
from saferlrm.course.exercise import Exercise

__all__ = ["Exercise", "check"]
