"""Threads that wait for items, woken in reverse order: the latest to wait still has its stack in the
caches of a processor. Knows nothing of the items but whether there are any.

Any thread may wake another, also from a signal handler or a finalizer in the middle of a wake-up, and an
exception from outside may cut a wake-up off. So there is no state but a lock for each thread: it is in
the list while the thread waits, and whoever wakes the thread releases it.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections import deque
from contextlib import suppress
from typing import Any


def new_lock() -> Any:
    """What a thread waits for; locked."""
    lock = allocate_lock()
    lock.acquire()
    return lock


class IdleThreads:
    """The threads that wait until there is an item in ``items``.

    One thread is woken at a time, and wakes the next one if it finds a second item: else a burst of
    short items would make all threads compete for the interpreter. No item is forgotten: it is put
    before :meth:`wake_one` looks for a thread, and a thread in the list looks for items once it has
    left the list.
    """

    def __init__(self, items: deque[Any]) -> None:
        self._items = items
        self.locks: list[Any] = []
        """What the waiting threads wait for, the latest last."""

    def wait(self, lock: Any) -> None:
        """Wait until somebody wakes this thread, unless there are items; it may return without any.

        :param lock: its own, from :func:`new_lock`.
        """
        self.locks.append(lock)
        try:
            if not self._items:
                lock.acquire()
        finally:
            try:
                self.locks.remove(lock)
            except ValueError:
                pass  # all were woken

    def wake_one(self) -> None:
        """Wake the latest thread to wait, if it is not on its way already.

        To be called after an item was put, and by a thread that took one and leaves others.
        """
        try:
            lock = self.locks[-1]
        except IndexError:
            return
        if lock.locked():
            try:
                lock.release()
            except RuntimeError:
                pass  # somebody else was first

    def wake_all(self) -> None:
        """Begin anew, after the death of threads that may have left their locks behind."""
        for lock in self.locks.copy():
            # In this order: a thread that is woken may wait again at once, by the same lock.
            with suppress(ValueError):
                self.locks.remove(lock)
            with suppress(RuntimeError):
                lock.release()
