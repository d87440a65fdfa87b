"""Whether two answers are the same, and if not, why, in words that somebody who learns can use."""

from __future__ import annotations

import math
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd

_LONGEST = 160


def difference(expected: Any, got: Any, tolerance: float = 1e-6) -> str | None:
    """What is wrong with ``got``, or ``None`` if it is right.

    Numbers, arrays and tensors are compared within the tolerance, NaN equals NaN; lists and tuples are alike, and so
    are the number types of Python, numpy and torch.
    """
    if got is None and expected is not None:
        return f"expected {shown(expected)}, got None; was `None` returned, or nothing at all?"
    if _numeric(expected):
        return _numbers(expected, got, tolerance)
    if isinstance(expected, list | tuple):
        return _sequences(expected, got, tolerance)
    if isinstance(expected, dict):
        if not isinstance(got, dict) or set(got) != set(expected):
            return f"expected a dict with the keys {', '.join(map(str, expected))}, got {shown(got)}"
        wrong = {key: difference(value, got[key], tolerance) for key, value in expected.items()}
        return next((f"[{key!r}]: {why}" for key, why in wrong.items() if why), None)
    if type(got) is not type(expected) or got != expected:
        return f"expected {shown(expected)}, got {shown(got)}"
    return None


def shown(value: Any) -> str:
    """A value for one line of a message: rounded, with the shape of arrays, and cut where it is long."""
    if isinstance(value, float | np.floating):
        text = f"{value:.4g}"
    elif isinstance(value, pd.DataFrame):
        text = f"a table of {len(value)} rows with {', '.join(map(str, value.columns))}"
    elif _is_array(value):
        array = _array(value)
        body = np.array2string(array, precision=3, separator=", ", threshold=24).replace("\n", "")
        name = "tensor" if hasattr(value, "detach") else "array"
        text = body if array.ndim == 0 else f"{name} of shape {array.shape}: {' '.join(body.split())}"
    elif isinstance(value, list | tuple):
        inside = ", ".join(map(shown, value))
        text = f"[{inside}]" if isinstance(value, list) else f"({inside})"
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{key!r}: {shown(one)}" for key, one in value.items()) + "}"
    else:
        text = repr(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + " …"


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | pd.Series) or hasattr(value, "detach")


def _numeric(value: Any) -> bool:
    return _is_array(value) or isinstance(value, Number | np.generic)


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _numbers(expected: Any, got: Any, tolerance: float) -> str | None:
    right = _array(expected)
    if not _numeric(got) and not (isinstance(got, list) and right.ndim):
        return f"expected {shown(expected)}, got {shown(got)}, which is a {type(got).__name__}"
    found = _array(got)
    if right.shape != found.shape:
        one, other = (array.shape or "() (a single number)" for array in (right, found))
        return f"expected the shape {one}, got {other}"
    if found.dtype == object or (right.dtype == bool) != (found.dtype == bool):
        return f"expected {shown(expected)} of type {right.dtype}, got {shown(got)} of type {found.dtype}"
    missing = np.isnan(found.astype(float)) & ~np.isnan(right.astype(float))
    if missing.any():
        return f"expected {shown(expected)}, got NaN" + (f" in {int(missing.sum())} places" if found.ndim else "")
    if np.allclose(right.astype(float), found.astype(float), rtol=tolerance, atol=tolerance, equal_nan=True):
        return None
    return f"expected {shown(expected)}, got {shown(got)}{_hint(right, found)}"


def _hint(right: np.ndarray, found: np.ndarray) -> str:
    """Two slips that the numbers alone give away."""
    if right.ndim == 0 and found != 0 and right != 0:
        if math.isclose(float(found), -float(right), rel_tol=1e-6):
            return " (the sign is reversed)"
        if math.isclose(float(found), 100 * float(right), rel_tol=1e-6):
            return " (a share is asked for, not per cent)"
    return ""


def _sequences(expected: list | tuple, got: Any, tolerance: float) -> str | None:
    if isinstance(got, np.ndarray):
        got = list(got)
    if not isinstance(got, list | tuple):
        return f"expected {len(expected)} values, {shown(expected)}, got {shown(got)}"
    if len(got) != len(expected):
        return f"expected {len(expected)} values, {shown(expected)}, got {len(got)}: {shown(got)}"
    for at, (one, other) in enumerate(zip(expected, got, strict=True)):
        if why := difference(one, other, tolerance):
            return why if len(shown(expected)) > _LONGEST else f"expected {shown(expected)}, got {shown(got)} (at {at})"
    return None
