"""Bounded waiting for tests: polls until a condition is true, and names the one that never was.

It must not know what it waits for; a test that can wait for an event or a join should do that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from pace import quiet_seconds

T = TypeVar("T")

POLL_INTERVAL = 0.005


def wait_until(predicate: Callable[[], T], timeout: float = 5, what: str = "the condition") -> T:
    """Return the first true value of `predicate()`; call it once more at the deadline itself.

    :param timeout: seconds of a quiet machine: a busy machine gets more seconds of the clock.
    :param what: the awaited fact, for the message: "job 7 is completed".
    :raises AssertionError: naming `what` and the last value, when the time is over.
    """
    began = time.monotonic()
    deadline = began + timeout
    while True:
        expired = time.monotonic() >= deadline
        if expired and (left := timeout - quiet_seconds(began)) > 0:
            deadline, expired = time.monotonic() + left, False
        if value := predicate():
            return value
        if expired:
            raise AssertionError(f"after {timeout:g} s still not: {what} (last value {value!r})")
        time.sleep(POLL_INTERVAL)
