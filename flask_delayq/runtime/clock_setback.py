"""Detects a wall clock that was set back, and makes jobs due that would wait until it has caught up.
Knows the backend's verb for it and the clock; runs no job."""

from __future__ import annotations

import logging

from ..backends.base import Backend
from ..clock import Clock

_log = logging.getLogger(__name__)

TOLERANCE = 1.0
"""Seconds by which wall time may fall behind monotonic time between two checks: less is slewing."""

AGAIN = 60.0
"""Seconds between two queries for such jobs, until the clock has caught up: a job that was claimed
during the first query may wait again."""


class ClockSetBack:
    """Compares the two clocks at each turn.

    A job enqueued "now" has that time as ``run_at``. If the clock is set back by an hour, this time is
    an hour ahead: such jobs are made due at once. Jobs that were enqueued for later keep their
    ``run_at``, because a job never runs before it. A step forward needs no action.
    """

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._ahead: float | None = None  # how far wall time is ahead of monotonic time
        self._latest = float("-inf")  # the latest wall time seen
        self._owed = True  # a query is needed; the first one is for steps before this process began
        self._look_at = float("-inf")

    def turn(self) -> int:
        """Compare both clocks; returns how many jobs were made due."""
        now, mono = self._read()
        before, self._ahead = self._ahead, now - mono
        if before is not None and before - self._ahead > TOLERANCE:
            self._owed = True
            self._latest = max(self._latest, now + before - self._ahead)
            _log.warning(
                "the wall clock was set back by %.1f s: jobs that were to run at once run now, "
                "delayed jobs run at their time by the new clock",
                before - self._ahead,
            )
        self._latest = max(self._latest, now)
        if not self._owed and (now >= self._latest or mono < self._look_at):
            return 0
        # If it fails, the next turn tries again. Jobs that others enqueue right now may be a little
        # ahead.
        brought = self._backend.bring_forward(now=self._clock.now(), ahead=TOLERANCE)
        self._owed = False
        self._look_at = mono + AGAIN
        if brought and before is None:
            _log.warning("%d jobs were made due at once, because the wall clock was set back", brought)
        return brought

    def _read(self) -> tuple[float, float]:
        """Wall and monotonic time of the same moment: this thread may be suspended between two reads."""
        while True:
            mono = self._clock.monotonic()
            now = self._clock.now()
            if self._clock.monotonic() - mono < TOLERANCE / 2:
                return now, mono
