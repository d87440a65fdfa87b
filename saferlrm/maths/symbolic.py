"""Are two mathematical expressions in LaTeX equal? Asked of math-verify, in a process of its own.

math-verify stops long computations by an alarm signal, which works in a main thread only and cannot interrupt
arithmetic on huge integers (9^{9^9}). Here the library runs in one helper process for each process that asks: its
computing time and memory are limited, it is killed when it does not answer, and the next question starts a new one.
Expressions are read by the library's LaTeX grammar alone; its reader of plain text, which ends in Python's ``eval``,
is not used.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from typing import Any

from saferlrm.errors import SaferlrmError

LIMIT_SECONDS = 5.0  # of computing time for one comparison; most take a few hundredths
PATIENCE = 4.0  # times that on the clock, so that a busy machine decides nothing
START_SECONDS = 120.0  # to import sympy, which a busy machine makes slow
LIMIT_BYTES = 4 * 2**30  # of address space
LIMIT_CHARACTERS = 400
ROUNDED = 1e-3  # relative difference up to which a decimal may be the other value, rounded


_TOO_LONG = "the comparison takes too long or too much memory"


def equal(answer: str, gold: str, seconds: float = LIMIT_SECONDS) -> tuple[bool | None, str]:
    """Whether two expressions are equal, and why not if that is not known.

    Args:
        answer, gold: LaTeX without dollar signs. Not symmetric: ``x = 5`` is a right answer to ``5``.
        seconds: computing time for the comparison.

    Returns:
        True, False or None (unsure), and the reason for None.

    Raises:
        SaferlrmError: the library cannot be started.
    """
    if max(len(answer), len(gold)) > LIMIT_CHARACTERS:
        return None, "too long to compare"
    with _lock:
        return _helper().ask(answer, gold, seconds)


class _Helper:
    """The helper process: one line of JSON in, one line out."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.replies: queue.Queue[str] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "saferlrm.maths.symbolic"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"},
        )
        threading.Thread(target=self._read, args=(self.process, self.replies), daemon=True).start()
        self.started = False

    def ask(self, answer: str, gold: str, seconds: float) -> tuple[bool | None, str]:
        try:
            if not self.started:
                if self._reply(START_SECONDS) is None:
                    self._lost("")
                    raise SaferlrmError("math-verify does not start; install it again: pip install math-verify")
                self.started = True
            self.process.stdin.write(json.dumps([answer, gold, seconds]) + "\n")
            self.process.stdin.flush()
        except OSError:
            return self._lost("the comparison ended the helper process")
        reply = self._reply(PATIENCE * seconds)
        if reply is None:
            return self._lost(_TOO_LONG)
        return reply[0], reply[1]

    def stop(self) -> None:
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()

    def _reply(self, seconds: float) -> Any:
        try:
            line = self.replies.get(timeout=seconds)
        except queue.Empty:
            return None
        return json.loads(line) if line else None

    def _lost(self, why: str) -> tuple[None, str]:
        global _shared
        self.stop()
        _shared = None
        return None, why

    @staticmethod
    def _read(process: subprocess.Popen[str], replies: queue.Queue[str]) -> None:
        with contextlib.suppress(ValueError, OSError):  # the pipe is closed by stop()
            for line in process.stdout:
                replies.put(line)
        replies.put("")


_shared: _Helper | None = None
_lock = threading.Lock()


def _helper() -> _Helper:
    global _shared
    if _shared is None or _shared.owner != os.getpid():  # a forked process must not share its parent's pipe
        _shared = _Helper()
    return _shared


def _after_fork() -> None:
    global _lock, _shared
    _lock, _shared = threading.Lock(), None  # the lock may be held by a thread that the child does not have


@atexit.register
def _stop() -> None:
    if _shared is not None:
        _shared.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _compare(answer: str, gold: str) -> tuple[bool | None, str]:
    """The comparison itself, in the helper process."""
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Eq, simplify

    found = []
    for what, text in (("answer", answer), ("gold answer", gold)):
        values = parse(
            f"${text}$",
            extraction_config=[LatexExtractionConfig(boxed_match_priority=-1)],
            fallback_mode="no_fallback",
            parsing_timeout=None,
            raise_on_error=True,
        )
        if not values:
            return None, f"the {what} cannot be parsed"
        found.append(values[0])
    mine, theirs = found
    if isinstance(mine, Eq) and isinstance(theirs, Eq):
        # By the library's solver 6x - 7y = 0 equals 5x - 7y = 0; the same equation is a multiple of the other.
        ratio = simplify((mine.lhs - mine.rhs) / (theirs.lhs - theirs.rhs))
        return bool(ratio.is_number and ratio.is_finite and not ratio.is_zero), ""
    # Twelve decimals and not the library's six, by which 0.0000672 and 0.0000674 are the same.
    if verify(theirs, mine, float_rounding=12, timeout_seconds=None, raise_on_error=True):
        return True, ""
    with contextlib.suppress(Exception):  # not two numbers
        one, other = complex(mine.evalf()), complex(theirs.evalf())
        if abs(one - other) <= ROUNDED * abs(other) and (mine.is_Float or theirs.is_Float):
            return None, "one is the other, rounded"
    return False, ""


class _OutOfTime(BaseException):
    """Not an Exception: sympy and math-verify catch those."""


_stopped = False  # an alarm that rings inside a finaliser is lost, and what comes out after it is no verdict


def _stop_computing(*_: object) -> None:
    global _stopped
    _stopped = True
    raise _OutOfTime


def _serve() -> None:
    import logging
    import signal

    global _stopped

    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    logging.disable(logging.CRITICAL)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is not a reply
    try:
        _compare("1", "1")
        print(json.dumps([True, "ready"]), file=replies, flush=True)
        for line in sys.stdin:
            answer, gold, seconds = json.loads(line)
            _stopped = False
            try:
                if hasattr(signal, "setitimer"):
                    signal.signal(signal.SIGVTALRM, _stop_computing)
                    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
                reply = _compare(answer, gold)
            except MemoryError:
                raise
            except _OutOfTime:
                reply = None, _TOO_LONG
            except Exception as problem:
                reply = None, f"cannot be compared ({type(problem).__name__})"
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            if _stopped:
                reply = None, _TOO_LONG
            print(json.dumps(reply), file=replies, flush=True)
    except MemoryError:
        os._exit(1)


if __name__ == "__main__":
    _serve()
