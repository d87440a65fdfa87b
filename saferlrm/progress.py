"""One progress line for loops that take more than a moment: a terminal, a notebook, or nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from tqdm.std import tqdm

T = TypeVar("T")
DELAY_SECONDS = 0.5  # shorter loops show nothing at all
REFRESH_SECONDS = 0.5
LOG_SECONDS = 10.0


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield the items and show how far the loop is.

    A terminal gets a tqdm bar that disappears at the end. A Jupyter kernel gets one updating line that is
    emptied at the end, so that a saved notebook carries neither timings nor widgets. Everything else (output to
    a file, ``SAFERLRM_PROGRESS=0``) stays silent, which keeps compared outputs the same on every machine. Where
    ``SAFERLRM_PROGRESS`` is the path of a file, a line is appended to it now and then instead.

    Args:
        total: number of items where ``iterable`` has no length.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    wanted = os.environ.get("SAFERLRM_PROGRESS", "")
    if wanted == "0":
        yield from iterable
    elif os.sep in wanted:
        yield from _logged(iterable, description, total, Path(wanted))
    elif _in_notebook():
        yield from _notebook_line(iterable, description, total)
    else:
        # tqdm.std, not tqdm.auto: the latter leaves a frozen widget in saved notebooks.
        yield from tqdm(
            iterable,
            description,
            total,
            leave=False,
            disable=not sys.stderr.isatty(),
            delay=DELAY_SECONDS,
            mininterval=REFRESH_SECONDS,
            dynamic_ncols=True,
        )


def _logged(iterable: Iterable[T], description: str, total: int | None, path: Path) -> Iterator[T]:
    start = shown = time.monotonic()
    for done, item in enumerate(iterable):
        now = time.monotonic()
        if now - shown > LOG_SECONDS:
            line = tqdm.format_meter(done, total, now - start, prefix=description, ncols=88, ascii=" #")
            try:
                with path.open("a", encoding="utf-8") as file:
                    file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")
            except OSError:
                pass  # a full disk is told by who writes what matters
            shown = now
        yield item


def _in_notebook() -> bool:
    """Whether this process is a Jupyter kernel (not an IPython terminal)."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def _notebook_line(iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    from IPython.display import display

    handle = None
    start = shown = time.monotonic()
    try:
        for done, item in enumerate(iterable):
            now = time.monotonic()
            if now - start > DELAY_SECONDS and now - shown > REFRESH_SECONDS:
                line = tqdm.format_meter(done, total, now - start, prefix=description, ncols=88, ascii=" #")
                if handle is None:
                    handle = display({"text/plain": line}, raw=True, display_id=True)
                else:
                    handle.update({"text/plain": line}, raw=True)
                shown = now
            yield item
    finally:
        if handle is not None:
            handle.update({}, raw=True)
