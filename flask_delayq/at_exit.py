"""The drain of every app of this process when the interpreter ends.
Knows apps only as ``Stoppable``; how one stops is its own affair."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import Protocol

from .clock import Clock

OVER = (
    "the main thread of this process has ended, and with it the interpreter begins to end: no jobs are "
    "run here any more; let the main thread serve, or wait for the thread that does"
)


class Stoppable(Protocol):
    """What runs jobs and is to be stopped."""

    clock: Clock

    @property
    def drain_timeout(self) -> float: ...
    def runs_jobs_of(self, url: str) -> bool: ...
    def begin_no_more(self) -> None: ...
    def stop(self, timeout: float) -> bool: ...


_running: weakref.WeakSet[Stoppable] = weakref.WeakSet()
_lock = threading.RLock()
_is_registered = False
_is_over = False


def drain_at_exit(what: Stoppable) -> None:
    """Stop it before the interpreter refuses new threads: jobs that use thread pools or asyncio keep
    working meanwhile. ``atexit`` would be too late for them.

    :raises RuntimeError: the end has come, so nothing would stop what is started now.
    """
    global _is_registered
    with _lock:
        if _is_over:
            raise RuntimeError(OVER)
        _running.add(what)
        if not _is_registered:
            register = getattr(threading, "_register_atexit", atexit.register)
            try:
                register(_end)
            except RuntimeError as error:
                raise RuntimeError(OVER) from error
            _is_registered = True


def all_running() -> list[Stoppable]:
    """Everything that was started and is still there."""
    with _lock:  # who goes through the set must not find it growing
        return list(_running)


def _end() -> None:
    global _is_over
    with _lock:  # whoever starts comes before, and is stopped, or is refused
        _is_over = True
    _stop_all()


def _stop_all() -> None:
    """Stop everything; together they get as long as the most patient one. Ctrl-C meanwhile ends the
    wait: what still runs is marked as interrupted, so that it runs again uncharged."""
    running = all_running()
    if not running:
        return
    clock = running[0].clock
    deadline = clock.monotonic() + max(one.drain_timeout for one in running)
    for one in running:
        one.begin_no_more()  # before the first one drains: no job begins in the others meanwhile
    try:
        for one in running:
            one.stop(max(0.0, deadline - clock.monotonic()))
    except BaseException:
        for one in running:
            one.stop(0.0)
        raise


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
