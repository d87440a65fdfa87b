"""Start a program as a person at a terminal would: with pipes to read from and Ctrl-C switched on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def start_python(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """A Python process with these arguments and additions to the environment."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hear_ctrl_c,
    )


def wait_for(path: Path, seconds: float = 120) -> str:
    """The text of a file that another process is about to write."""
    deadline = time.monotonic() + seconds
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.1)
    return path.read_text()


def _hear_ctrl_c() -> None:
    # Programs started in the background inherit that SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
