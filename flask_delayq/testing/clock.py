"""A clock that stands still until a test moves it.
Must not know who reads it; it starts no thread and never sleeps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

_NANO = 1_000_000_000


class FakeClock:
    """Wall and monotonic time in a test's hands; thread-safe.

    It wakes nobody by itself: whoever waits for a moment adds a listener.

    :param now: the wall time at the start: epoch seconds, or an aware datetime.
    :ivar listeners: called without arguments, in the caller's thread, after each change.
    """

    def __init__(self, now: float | datetime = 1_800_000_000.0) -> None:
        if isinstance(now, datetime):
            if now.utcoffset() is None:
                raise ValueError(f"{now!r} is naive, so it names no moment")
            now = now.timestamp()
        # Whole nanoseconds: many small steps end exactly where one large step does.
        self._wall = _nanoseconds(now)
        self._monotonic = 1_000 * _NANO
        self._lock = threading.Lock()
        self.listeners: list[Callable[[], object]] = []

    def now(self) -> float:
        """Wall time: epoch seconds, UTC."""
        return self._wall / _NANO

    def monotonic(self) -> float:
        """Seconds that only :meth:`advance` moves."""
        return self._monotonic / _NANO

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks.

        :raises ValueError: ``seconds`` is negative: only the wall clock can step back.
        """
        step = _nanoseconds(seconds)
        if step < 0:
            raise ValueError(f"time does not go back ({seconds!r}); step_wall() moves the wall clock")
        self._move(wall=step, monotonic=step)

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator or NTP does."""
        self._move(wall=_nanoseconds(seconds), monotonic=0)

    def _move(self, *, wall: int, monotonic: int) -> None:
        with self._lock:
            self._wall += wall
            self._monotonic += monotonic
        for listener in list(self.listeners):
            listener()


def _nanoseconds(seconds: float) -> int:
    return round(seconds * _NANO)
