"""The thread of each loop: started, waited for, replaced if it died.
Knows no turn; which loops there are, and in which order they end, is the supervisor's."""

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

        :raises RuntimeError: one cannot be had; those before it run.
        """
        threads = [self._make(loop) for loop in loops]
        for thread in threads:  # all are known before the first one runs
            thread.start()

    def replace_if_dead(self, loop: Loop) -> None:
        """Give a loop another thread, if its own has died and it is not to end.

        :raises RuntimeError: none can be had; the next call tries again.
        """
        thread = self.by_name.get(loop.name)
        began = thread is not None and thread.ident is not None
        if thread is not None and began and not thread.is_alive() and not loop.is_stopping:
            _log.error("the thread of the %s died and is replaced", loop.name)
            try:
                self._make(loop).start()
            except RuntimeError:
                self.by_name[loop.name] = thread
                raise

    def join(self, *loops: Loop, until: float) -> None:
        """Wait for the end of their threads, at most until a monotonic moment."""
        for loop in loops:
            thread = self.by_name.get(loop.name)
            # One that has not begun yet will find that there is nothing to do.
            if thread and thread.ident and thread is not threading.current_thread():
                thread.join(max(0.0, until - self._clock.monotonic()))

    def roles(self) -> dict[int, str]:
        """The names of the loops, by the idents of their threads."""
        threads = self.by_name.copy()
        return {thread.ident: name for name, thread in threads.items() if thread.ident is not None}

    def _make(self, loop: Loop) -> threading.Thread:
        thread = threading.Thread(target=loop.run, name=f"delayq-{loop.name}", daemon=True)
        self.by_name[loop.name] = thread
        return thread
