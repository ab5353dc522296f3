"""Notices a wall clock that was set back, and keeps jobs from waiting until it has caught up.
Knows the backend's verb for it and the clock; runs no job."""

from __future__ import annotations

import logging

from ..backends.base import Backend
from ..clock import Clock

_log = logging.getLogger(__name__)

TOLERANCE = 1.0
"""Seconds by which wall time may fall behind monotonic time between two looks: less is slewing."""

AGAIN = 60.0
"""Seconds between two looks for more such jobs, until the clock has caught up: one may have been claimed
at the first look, and waits again."""


class ClockSetBack:
    """Compares the two clocks, turn by turn.

    A job enqueued "now" bears the moment of that now. If the clock is set back by an hour, that moment
    lies an hour ahead: such jobs are made due at once. Those that were enqueued for later keep their
    moment, since a job never runs before it. A step forward needs no care.
    """

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._ahead: float | None = None  # how far wall time is ahead of monotonic time
        self._latest = float("-inf")  # the latest wall time seen
        self._owed = True  # a look; the first one is for what happened before this process
        self._look_at = float("-inf")

    def turn(self) -> int:
        """Look at both clocks; returns how many jobs were made due."""
        now, mono = self._read()
        before, self._ahead = self._ahead, now - mono
        if before is not None and before - self._ahead > TOLERANCE:
            self._owed = True
            self._latest = max(self._latest, now + before - self._ahead)
            _log.warning(
                "the wall clock was set back by %.1f s: jobs that were to run at once run now, "
                "delayed ones when it has come to their moment again",
                before - self._ahead,
            )
        self._latest = max(self._latest, now)
        if not self._owed and (now >= self._latest or mono < self._look_at):
            return 0
        # If it fails, the next turn tries again. What others enqueue just now is a little ahead.
        brought = self._backend.bring_forward(now=self._clock.now(), ahead=TOLERANCE)
        self._owed = False
        self._look_at = mono + AGAIN
        if brought and before is None:
            _log.warning("%d jobs bore a moment in the future: the wall clock was set back", brought)
        return brought

    def _read(self) -> tuple[float, float]:
        """Wall and monotonic time of one moment: this thread may stand still between two reads."""
        while True:
            mono = self._clock.monotonic()
            now = self._clock.now()
            if self._clock.monotonic() - mono < TOLERANCE / 2:
                return now, mono
