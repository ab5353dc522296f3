"""Forks: every connection is closed before a fork, and opened again in parent and child.
Must not know what the connections are used for.

SQLite keeps a table of the POSIX locks of its process. A child inherits the table but not the locks, so
even a connection that the child opens itself would rely on locks that nobody holds, and its commits
would be lost (SQLite: howtocorrupt, 2.6). Closing all connections empties the table.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

from ...nesting import is_held_here

TIMEOUT = 5.0
"""Seconds that a fork waits for operations under way; a child that came sooner refuses the store."""


class Forkable(Protocol):
    """Something with hooks for forks."""

    def before_fork(self, timeout: float) -> None:
        """Close what must not be inherited, and prevent that it is opened again."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Go on without the parent's threads, locks and descriptors."""


_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()
_told: list[Forkable] = []
"""Who was told that a fork comes (in a child: all), and not yet that it is over."""
_depth = 0
"""Forks under way in the thread that holds the lock: a signal handler may fork in the middle of one."""
_one_at_a_time = threading.RLock()


def watch(what: Forkable) -> None:
    """Call its hooks at every fork, as long as it exists."""
    with _one_at_a_time:  # a fork that goes through the set must not find it growing
        _watched.add(what)


def _before() -> None:
    global _depth
    _one_at_a_time.acquire()
    _depth += 1
    for what in list(_watched):
        if what not in _told:  # by a fork around this one
            _told.append(what)
            what.before_fork(TIMEOUT)


def _after_in_parent() -> None:
    # An exception from outside may cut off each step, so each may be repeated.
    depth = _depth
    try:
        try:
            _go_on(depth)
        finally:
            _go_on(depth)
    finally:
        try:
            _let_go(depth)
        finally:
            _let_go(depth)


def _go_on(depth: int) -> None:
    if depth > 1 or not is_held_here(_one_at_a_time):
        return  # the fork around this one is still to come, or one of another thread
    while _told:
        _told[-1].after_fork_in_parent()
        _told.pop()


def _let_go(depth: int) -> None:
    global _depth
    if is_held_here(_one_at_a_time) and _depth == depth:
        _depth = max(depth - 1, 0)
        _one_at_a_time.release()


def _after_in_child() -> None:
    global _one_at_a_time, _depth
    _one_at_a_time = threading.RLock()
    _depth = 0
    _told[:] = list(_watched)
    try:
        _begin_anew()
    finally:
        _begin_anew()


def _begin_anew() -> None:
    while _told:
        _told[-1].after_fork_in_child()
        _told.pop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
