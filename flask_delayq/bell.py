"""What one thread waits for and any other rings: a lock, and nothing beside it.
Knows nothing of what it is rung for."""

from __future__ import annotations

import threading
from contextlib import suppress


class Bell:
    """Rung once or often, it ends one wait, also one that begins later.

    A ``threading.Event`` takes a lock of its own meanwhile, so a signal handler or a finalizer that sets
    it in the middle of a wait of its own thread stands still for ever. And an exception thrown into a
    thread that rings cannot leave two things here that contradict each other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # locked until somebody rings
        self._lock.acquire()

    def ring(self) -> None:
        """End the wait under way, or the next one."""
        if self._lock.locked():
            with suppress(RuntimeError):  # somebody else was first
                self._lock.release()

    def hush(self) -> None:
        """Forget the rings so far."""
        self._lock.acquire(blocking=False)

    def wait(self, timeout: float | None) -> bool:
        """Wait until it rings, at most ``timeout`` seconds (``None``: for ever); whether it did."""
        if timeout is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=max(timeout, 0.0))
