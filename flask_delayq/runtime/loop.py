"""Repeats a turn until told to stop: waits as long as the turn says, survives what it raises.
Knows no job and no store; the supervisor gives it a thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ..clock import Clock
from ..errors import BackendError

_log = logging.getLogger(__name__)

LONGEST_PAUSE = 5.0
"""Seconds at most between two tries of a turn that fails."""

REMIND_EVERY = 60.0
"""Seconds between two log lines about a turn that goes on failing the same way."""


class Loop:
    """One loop of the runtime.

    :param name: what it does, for log lines, thread names and pages.
    :param turn: one turn at a wall moment; returns the seconds to wait for the next one, ``None`` for
        "until woken".
    """

    def __init__(self, name: str, turn: Callable[[float], float | None], clock: Clock) -> None:
        self.name = name
        self.turned_at = clock.monotonic()
        """When the last turn ended well (monotonic)."""
        self.failing: str | None = None
        """Why the last turn failed, while it does."""
        self._turn = turn
        self._clock = clock
        self._changed = threading.Condition(threading.Lock())
        self._woken = False
        self._stopping = False
        self._failures = 0
        self._reminded_at = float("-inf")

    def wake(self) -> None:
        """Let the next turn begin now."""
        with self._changed:
            if not self._woken:
                self._woken = True
                self._changed.notify()

    def stop(self) -> None:
        """End the loop after the turn under way."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def run(self) -> None:
        """Repeat turns until :meth:`stop`."""
        while not self._stopping:
            pause = self._one_turn()
            with self._changed:
                # While turns fail, being asked for does not bring the store back sooner.
                self._changed.wait_for(self._is_due, pause)
                self._woken = False

    def _is_due(self) -> bool:
        return self._stopping or (self._woken and not self._failures)

    def _one_turn(self) -> float | None:
        try:
            pause = self._turn(self._clock.now())
        except Exception as error:  # a thread's top: the loop must outlive whatever a turn meets
            return self._failed(error)
        self.turned_at = self._clock.monotonic()
        if self._failures:
            _log.warning("%s works again after %d failed turns", self.name, self._failures)
            self._failures = 0
            self.failing = None
        return pause

    def _failed(self, error: Exception) -> float:
        self._failures += 1
        reason = f"{type(error).__name__}: {error}"
        now = self._clock.monotonic()
        if reason != self.failing or now - self._reminded_at >= REMIND_EVERY:
            self._reminded_at = now
            # A store that is away is a state of the world; anything else is our own mistake.
            ours = not isinstance(error, BackendError)
            _log.error("%s failed: %s", self.name, reason, exc_info=error if ours else None)
        self.failing = reason
        return float(min(LONGEST_PAUSE, 0.05 * 2 ** min(self._failures, 10)))
