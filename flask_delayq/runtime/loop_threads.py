"""Starts, joins and replaces the thread of each loop.
Knows no turn. The supervisor decides which loops there are, and in which order they end."""

from __future__ import annotations

import logging
import threading

from ..clock import Clock
from .loop import Loop

_log = logging.getLogger(__name__)


class LoopThreads:
    """At most one living thread for each loop; loops are known by their names."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.by_name: dict[str, threading.Thread] = {}
        """Each thread by the name of its loop."""

    def start(self, *loops: Loop) -> None:
        """Give each loop a thread.

        :raises RuntimeError: a thread cannot be started; those before it run.
        """
        threads = [self._make(loop) for loop in loops]
        for thread in threads:  # all are in `by_name` before the first one runs
            thread.start()

    def replace_if_dead(self, loop: Loop) -> None:
        """Give a loop a new thread, if its thread has died and the loop is not stopping.

        :raises RuntimeError: no thread can be started; the next call tries again.
        """
        thread = self.by_name.get(loop.name)
        if thread is None or thread.ident is None:
            return
        # `is_alive` says no of a thread that is just beginning: two would run one loop. Whether the
        # loop is stopping is asked last: its thread may end in between.
        if thread not in threading.enumerate() and not loop.is_stopping:
            _log.error("the thread of the %s died and is replaced", loop.name)
            try:
                self._make(loop).start()
            except RuntimeError:
                self.by_name[loop.name] = thread
                raise

    def join(self, *loops: Loop, until: float) -> None:
        """Wait until the threads of these loops end, at most until a monotonic moment."""
        for loop in loops:
            thread = self.by_name.get(loop.name)
            # A thread that has not begun yet will find nothing to do, and `join` would raise.
            if thread and thread.is_alive() and thread is not threading.current_thread():
                thread.join(max(0.0, until - self._clock.monotonic()))

    def roles(self) -> dict[int, str]:
        """The names of the loops, by the idents of their threads."""
        threads = self.by_name.copy()
        return {thread.ident: name for name, thread in threads.items() if thread.ident is not None}

    def _make(self, loop: Loop) -> threading.Thread:
        thread = threading.Thread(target=loop.run, name=f"delayq-{loop.name}", daemon=True)
        self.by_name[loop.name] = thread
        return thread
