"""The drain of every app of this process when the interpreter ends.
Knows apps only as ``Stoppable``, not how they stop."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import Protocol

from .clock import Clock

OVER = (
    "the main thread of this process has ended, so the interpreter is ending and no jobs run here; "
    "let the main thread serve, or let it wait for the thread that serves"
)


class Stoppable(Protocol):
    """Something that runs jobs and can be stopped."""

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
    """Stop it at the end of the interpreter, while new threads can still start: running jobs may need
    thread pools or asyncio. ``atexit`` would be too late for them.

    :raises RuntimeError: the interpreter is ending, so nothing would stop it.
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


def is_over() -> bool:
    """Whether the interpreter is ending: its main thread has ended."""
    return _is_over


def all_running() -> list[Stoppable]:
    """Everything that was started and still exists."""
    with _lock:  # the set must not grow during the iteration
        return list(_running)


def _end() -> None:
    global _is_over
    with _lock:  # a start is before this, and will be stopped, or it is refused
        _is_over = True
    _stop_all()


def _stop_all() -> None:
    """Stop everything, within the longest drain timeout of all apps. Ctrl-C meanwhile ends the wait:
    running jobs are marked as interrupted, so that they run again, uncharged."""
    running = all_running()
    if not running:
        return
    clock = running[0].clock
    deadline = clock.monotonic() + max(one.drain_timeout for one in running)
    for one in running:
        one.begin_no_more()  # first in all apps, so that no job begins while the first one drains
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
