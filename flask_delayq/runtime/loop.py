"""Repeats a turn until it is stopped: waits as long as the turn says, survives its exceptions.
Knows no job and no store; the supervisor runs it in a thread."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..bell import Bell
from ..clock import Clock
from ..errors import BackendError

_log = logging.getLogger(__name__)

LONGEST_PAUSE = 5.0
"""Maximum seconds between two tries of a turn that fails."""

HURRIED_PAUSE = 0.25
"""The same when a stop waits for the loop."""

REMIND_EVERY = 60.0
"""Seconds between two log lines about turns that fail in the same way, even if some turns succeed."""


class Loop:
    """One loop of the runtime.

    :param name: what it does, for log lines, thread names and pages.
    :param turn: one turn, called with the wall time; returns the seconds until the next one, ``None``
        for "until woken".
    :param longest_pause: maximum seconds between two tries of a turn that fails.
    """

    def __init__(
        self,
        name: str,
        turn: Callable[[float], float | None],
        clock: Clock,
        *,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        self.name = name
        self.turned_at = clock.monotonic()
        """When a turn last succeeded (monotonic)."""
        self.failing: str | None = None
        """Why the last turn failed; ``None`` if it did not."""
        self._turn = turn
        self._clock = clock
        self._longest_pause = longest_pause
        self._bell = Bell()
        self._stopping = False
        self._failures = 0
        self._logged = ""
        self._logged_at = float("-inf")
        self._recovery_is_news = False

    def wake(self) -> None:
        """Begin the next turn now."""
        self._bell.ring()

    def hurry(self) -> None:
        """A stop waits for this loop: from now on pause at most :data:`HURRIED_PAUSE` after a
        failure, also in the current pause."""
        self._longest_pause = min(self._longest_pause, HURRIED_PAUSE)
        self.wake()

    def stop(self) -> None:
        """End the loop after the current turn."""
        self._stopping = True
        self.wake()

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to end."""
        return self._stopping

    def run(self) -> None:
        """Repeat turns until :meth:`stop`."""
        while not self._stopping:
            pause = self._one_turn()
            if self._stopping:
                return  # its wake-up may have come right before the turn, which then forgot it
            if pause is None or not self._failures:
                self._bell.wait(pause)
                continue
            # While turns fail, wake-ups are ignored: they do not bring the store back sooner.
            began = self._clock.monotonic()
            while self._bell.wait(began + pause - self._clock.monotonic()):
                if self._stopping:
                    break
                pause = min(pause, self._longest_pause)  # it may have become shorter

    def _one_turn(self) -> float | None:
        try:
            self._bell.hush()  # this turn serves all wake-ups until now
            pause = self._turn(self._clock.now())
        except BaseException as error:  # a thread's top: the loop must survive every exception of a turn
            return self._failed(error)
        self.turned_at = self._clock.monotonic()
        if self._failures:
            if self._recovery_is_news:
                _log.warning("%s works again after %d failed turns", self.name, self._failures)
                self._recovery_is_news = False
            self._failures = 0
            self.failing = None
        return pause

    def _failed(self, error: BaseException) -> float:
        self._failures += 1
        self.failing = f"{type(error).__name__}: {error}"
        # The messages of one problem vary; and on a full disk some turns succeed and others do not.
        kind = f"{type(error).__name__}: {getattr(error, 'reason', error)}"
        now = self._clock.monotonic()
        if kind != self._logged or now - self._logged_at >= REMIND_EVERY:
            self._logged, self._logged_at, self._recovery_is_news = kind, now, True
            # An unavailable store is an external problem; any other exception is a bug of ours.
            ours = not isinstance(error, BackendError)
            _log.error("%s failed: %s", self.name, self.failing, exc_info=error if ours else None)
        return float(min(self._longest_pause, 0.05 * 2 ** min(self._failures, 10)))
