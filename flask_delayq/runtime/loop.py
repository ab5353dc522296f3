"""Repeats a turn until told to stop: waits as long as the turn says, survives what it raises.
Knows no job and no store; the supervisor gives it a thread."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..bell import Bell
from ..clock import Clock
from ..errors import BackendError

_log = logging.getLogger(__name__)

LONGEST_PAUSE = 5.0
"""Seconds at most between two tries of a turn that fails."""

HURRIED_PAUSE = 0.25
"""The same once somebody waits for it."""

REMIND_EVERY = 60.0
"""Seconds between two log lines about turns that fail the same way, whether or not some end well."""


class Loop:
    """One loop of the runtime.

    :param name: what it does, for log lines, thread names and pages.
    :param turn: one turn at a wall moment; returns the seconds to wait for the next one, ``None`` for
        "until woken".
    :param longest_pause: seconds at most between two tries of a turn that fails.
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
        """When the last turn ended well (monotonic)."""
        self.failing: str | None = None
        """Why the last turn failed, while it does."""
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
        """Let the next turn begin now."""
        self._bell.ring()

    def hurry(self) -> None:
        """Somebody waits for what it does: from now on pause at most :data:`HURRIED_PAUSE` after a
        failure, the pause under way included."""
        self._longest_pause = min(self._longest_pause, HURRIED_PAUSE)
        self.wake()

    def stop(self) -> None:
        """End the loop after the turn under way."""
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
            if pause is None or not self._failures:
                self._bell.wait(pause)
                continue
            # While turns fail, being asked for does not bring the store back sooner.
            began = self._clock.monotonic()
            while self._bell.wait(began + pause - self._clock.monotonic()):
                if self._stopping:
                    break
                pause = min(pause, self._longest_pause)  # it may have become shorter

    def _one_turn(self) -> float | None:
        try:
            self._bell.hush()  # whatever asked for a turn until now gets this one
            pause = self._turn(self._clock.now())
        except BaseException as error:  # a thread's top: the loop must outlive whatever a turn meets
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
        # The words of one trouble vary; and on a full disk some turns end well and others do not.
        kind = f"{type(error).__name__}: {getattr(error, 'reason', error)}"
        now = self._clock.monotonic()
        if kind != self._logged or now - self._logged_at >= REMIND_EVERY:
            self._logged, self._logged_at, self._recovery_is_news = kind, now, True
            # A store that is away is a state of the world; anything else is our own mistake.
            ours = not isinstance(error, BackendError)
            _log.error("%s failed: %s", self.name, self.failing, exc_info=error if ours else None)
        return float(min(self._longest_pause, 0.05 * 2 ** min(self._failures, 10)))
