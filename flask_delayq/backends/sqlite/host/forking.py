"""Forks: every connection is closed while a process divides, and opened again on both sides.
Must not know what the connections are used for.

SQLite keeps a table of the POSIX locks that its process holds. A child inherits the table but not the
locks, so even a connection that the child opens itself would believe in locks that nobody holds, and
what it commits would vanish (SQLite: howtocorrupt, 2.6). Closing all connections empties the table.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

TIMEOUT = 5.0
"""Seconds that a fork waits for operations under way; a child that came sooner refuses the store."""


class Forkable(Protocol):
    """What is told of forks."""

    def before_fork(self, timeout: float) -> None:
        """Close what must not be inherited and let nobody open it again."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Go on without the parent's threads, locks and descriptors."""


_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()
_forking: list[Forkable] = []
_one_at_a_time = threading.RLock()


def watch(what: Forkable) -> None:
    """Tell it of every fork, as long as it exists."""
    with _one_at_a_time:  # a fork that goes through the set must not find it growing
        _watched.add(what)


def _before() -> None:
    _one_at_a_time.acquire()
    if _forking:
        return  # a signal handler forks in the middle of a fork; what is prepared by now is
    _forking[:] = list(_watched)
    for what in _forking:
        what.before_fork(TIMEOUT)


def _after_in_parent() -> None:
    for what in _forking:
        what.after_fork_in_parent()
    _forking.clear()
    _one_at_a_time.release()


def _after_in_child() -> None:
    global _one_at_a_time
    _one_at_a_time = threading.RLock()
    for what in _forking:
        what.after_fork_in_child()
    _forking.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
