"""Requests to an OpenAI-compatible server: repeated where that can help, refused in one line where it cannot.

A request is repeated after a time-out, a dropped connection, an answer that is not what was asked for, and the
statuses 408, 425, 429 and 5xx. The wait doubles each time with some jitter, so that many clients do not come back
at once; a ``Retry-After`` of the server is honoured.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_any,
    stop_when_event_set,
    wait_exponential,
    wait_random,
)

from saferlrm.errors import SaferlrmError

T = TypeVar("T")
KEY = "SAFERLRM_SERVER_KEY"
LONGEST_WAIT = 60.0  # seconds between two tries, unless the server asks for more
_REPEATED = (408, 425, 429)


class UnansweredError(SaferlrmError):
    """No usable answer after all repetitions; another request may well succeed."""


class RefusedError(SaferlrmError):
    """The server answered that the request is wrong (status 3xx or 4xx); repeating it cannot help.

    Attributes:
        status: of the answer.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _AgainError(Exception):
    """One try failed in a way that may pass; ``seconds`` is what the server asks us to wait."""

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Endpoint:
    """One server. Safe to use from several threads.

    Args:
        url: address up to and including ``/v1``.
        timeout: seconds that one try may take.
        retries: how often a failed request is repeated.
        parallel: most connections at once.
        first_wait: seconds before the first repetition.
    """

    def __init__(
        self, url: str, timeout: float = 600.0, retries: int = 5, parallel: int = 16, first_wait: float = 1.0
    ) -> None:
        self.url, self.timeout, self.retries = url.rstrip("/"), timeout, retries
        self._backoff = wait_exponential(first_wait, LONGEST_WAIT) + wait_random(0, first_wait / 2)
        self.stopped = threading.Event()  # set: nobody waits for a repetition any more
        key = os.environ.get(KEY)
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(timeout, 30.0), pool=None),
            limits=httpx.Limits(max_connections=parallel, max_keepalive_connections=parallel),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            # A proxy of the environment cannot reach this machine's own ports.
            trust_env=urlsplit(url).hostname not in ("localhost", "127.0.0.1", "::1"),
        )

    def get(self, path: str, read: Callable[[Any], T]) -> T:
        """``read`` of the JSON at a path; see :meth:`post`."""
        return self._ask("GET", path, None, read)

    def post(self, path: str, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        """Send JSON and return ``read`` of the answer's JSON; ``read`` may fail on an answer of another shape.

        Raises:
            RefusedError: the server says that the request is wrong.
            UnansweredError: no usable answer after all repetitions.
        """
        return self._ask("POST", path, body, read)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, read: Callable[[Any], T]) -> T:
        tries = Retrying(
            stop=stop_any(stop_after_attempt(self.retries + 1), stop_when_event_set(self.stopped)),
            sleep=sleep_using_event(self.stopped),
            wait=self._wait,
            retry=retry_if_exception_type(_AgainError),
            reraise=True,
        )
        try:
            return tries(self._once, method, path, body, read)
        except _AgainError as problem:
            n = tries.statistics["attempt_number"]
            raise UnansweredError(f"{self.url} {problem} ({n} {'try' if n == 1 else 'tries'})") from problem

    def _wait(self, state: RetryCallState) -> float:
        backoff = self._backoff(state)
        problem = state.outcome.exception() if state.outcome is not None else None
        return max(backoff, min(getattr(problem, "seconds", 0.0), self.timeout))

    def _once(self, method: str, path: str, body: dict[str, Any] | None, read: Callable[[Any], T]) -> T:
        try:
            response = self._client.request(method, self.url + path, json=body)
        except httpx.TimeoutException as problem:
            raise _AgainError(f"gave no answer within {self.timeout:g} s (server.timeout)") from problem
        except httpx.TransportError as problem:
            reason = " ".join(str(problem).split()) or type(problem).__name__
            raise _AgainError(f"cannot be reached or broke off ({reason})") from problem
        except httpx.InvalidURL as problem:
            raise SaferlrmError(f"server.url {self.url!r} is no address ({problem})") from problem
        status = response.status_code
        if status in _REPEATED or status >= 500:
            reason = f"answered with status {status}: {_message(response)}"
            raise _AgainError(reason, _retry_after(response.headers.get("retry-after")))
        if status >= 300:
            raise RefusedError(f"{self.url}{path} refuses the request (status {status}): {_message(response)}", status)
        try:
            return read(response.json())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as problem:
            raise _AgainError(f"answered with something else than was asked for: {_message(response)}") from problem


def _retry_after(value: str | None) -> float:
    """Seconds of a ``Retry-After`` header, which holds seconds or a date; 0 if there is none to be read."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, ((when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())


def _message(response: httpx.Response) -> str:
    """What the server says, on one short line: the message in its JSON, or the start of its text."""
    try:
        found = response.json()
        for name in ("error", "message", "detail"):
            if isinstance(found, dict) and found.get(name):
                found = found[name]
    except ValueError:
        found = response.text
    text = " ".join(str(found).split()) or response.reason_phrase or "nothing"
    return text if len(text) <= 200 else text[:197] + "..."
