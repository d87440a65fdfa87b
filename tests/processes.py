"""Start a program as a person at a terminal would: with pipes to read from and Ctrl-C switched on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
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


def free_port() -> int:
    """A port of this machine that nobody listens on just now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for_port(port: int, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Return when somebody listens on a port; fail if the process that should has ended."""
    deadline = time.monotonic() + seconds
    while True:
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, f"nobody listens on port {port}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
