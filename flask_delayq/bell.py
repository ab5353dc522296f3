"""A bell: one thread waits for it, any other rings it. It is one lock and nothing else.
Does not know why it is rung."""

from __future__ import annotations

import threading
from contextlib import suppress


class Bell:
    """One ring, or several, ends one wait: the current one or the next one.

    A ``threading.Event`` has an internal lock. A signal handler or a finalizer that sets the event while
    its own thread waits for it would deadlock. Here there is only one lock, so an asynchronous exception
    cannot leave an inconsistent state.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # locked until it is rung
        self._lock.acquire()

    def ring(self) -> None:
        """End the current wait, or the next one."""
        if self._lock.locked():
            with suppress(RuntimeError):  # another thread was first
                self._lock.release()

    def hush(self) -> None:
        """Forget the rings so far."""
        self._lock.acquire(blocking=False)

    def wait(self, timeout: float | None) -> bool:
        """Wait until it rings, at most ``timeout`` seconds (``None``: no limit); whether it rang."""
        if timeout is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=max(timeout, 0.0))
