"""A clock that moves only when a test moves it.
Must not know who reads it; it starts no thread and never sleeps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

_NANO = 1_000_000_000


class FakeClock:
    """Wall clock and monotonic clock, set by a test; thread-safe.

    It wakes nobody: code that waits for a time adds a listener.

    :param now: the wall time at the start: epoch seconds, or an aware datetime.
    :ivar listeners: called without arguments, in the caller's thread, after each change.
    """

    def __init__(self, now: float | datetime = 1_800_000_000.0) -> None:
        if isinstance(now, datetime):
            if now.utcoffset() is None:
                raise ValueError(f"{now!r} has no time zone (it is naive); add one")
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
        """Move both clocks forward.

        :param seconds: how far; not negative.
        :raises ValueError: ``seconds`` is negative: only the wall clock can step back.
        """
        step = _nanoseconds(seconds)
        if step < 0:
            raise ValueError(f"seconds must not be negative, not {seconds!r}; use step_wall() instead")
        self._move(wall=step, monotonic=step)

    def step_wall(self, seconds: float) -> None:
        """Set only the wall clock forward or back, as an administrator or NTP does.

        :param seconds: how far; negative: back.
        """
        self._move(wall=_nanoseconds(seconds), monotonic=0)

    def _move(self, *, wall: int, monotonic: int) -> None:
        with self._lock:
            self._wall += wall
            self._monotonic += monotonic
        for listener in list(self.listeners):
            listener()


def _nanoseconds(seconds: float) -> int:
    return round(seconds * _NANO)
