"""Threads that wait for items, woken in LIFO order: the latest one still has its stack in a CPU cache.
Knows nothing of the items except whether there are any.

Any thread may wake another, also from a signal handler or a finalizer in the middle of a wake-up. An
async exception may interrupt a wake-up. So the only state is one lock for each thread. It is in the list
while its thread waits; releasing it wakes the thread.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections import deque
from contextlib import suppress
from typing import Any


def new_lock() -> Any:
    """A lock for a thread to wait for; it is locked."""
    lock = allocate_lock()
    lock.acquire()
    return lock


class IdleThreads:
    """The threads that wait until there is an item in ``items``.

    One thread is woken at a time. It wakes the next one if it finds a second item. Otherwise a burst of
    short items would make all threads compete for the GIL. No item is forgotten: it is put before
    :meth:`wake_one` looks for a thread, and a thread looks for items again after it has left the list.
    """

    def __init__(self, items: deque[Any]) -> None:
        self._items = items
        self.locks: list[Any] = []
        """The locks of the waiting threads, the latest last."""

    def wait(self, lock: Any) -> None:
        """Wait until this thread is woken, unless there are items. It may return when there are none.

        :param lock: the thread's own, from :func:`new_lock`.
        """
        self.locks.append(lock)
        try:
            if not self._items:
                lock.acquire()
        finally:
            try:
                self.locks.remove(lock)
            except ValueError:
                pass  # `wake_all` has removed it

    def wake_one(self) -> None:
        """Wake the thread that began to wait last, unless it is already woken.

        Call it after an item was put, and in a thread that took one item and leaves others.
        """
        try:
            lock = self.locks[-1]
        except IndexError:
            return
        if lock.locked():
            try:
                lock.release()
            except RuntimeError:
                pass  # another thread has released it

    def wake_all(self) -> None:
        """Wake all threads and empty the list: threads that died may have left their locks in it."""
        for lock in self.locks.copy():
            # The order matters: a woken thread may wait again at once, with the same lock.
            with suppress(ValueError):
                self.locks.remove(lock)
            with suppress(RuntimeError):
                lock.release()
