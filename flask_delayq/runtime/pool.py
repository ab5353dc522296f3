"""Worker threads: counts the free ones, and calls ``work`` once for each item that it gets.
Knows nothing of jobs; an item is any argument of ``work``."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ..bell import Bell
from ..clock import machine_time
from .idle import IdleThreads, new_lock

T = TypeVar("T")

_log = logging.getLogger(__name__)

PREFETCH_SECONDS = 0.02
"""The items that wait in memory are work for all workers for about so many seconds. So short jobs do not
wait for the store, and long jobs do not wait behind others."""

PREFETCH_MOST = 1000
"""The most items that wait, however short they are."""

LOOK_EVERY = 0.01
"""Seconds between two checks whether a thread that cannot be joined has ended."""

COUNTS = 3
"""Consecutive counts that must agree before lost places are replaced: during a count a place may be on
its way from one thread to another."""


class WorkerPool(Generic[T]):
    """A fixed number of threads that call ``work(item)``.

    There is one place per worker, and some for items that wait (see :data:`PREFETCH_SECONDS`): more if
    the recent items were short. A caller reserves a place before it hands over an item.

    :param size: number of threads.
    :param work: must not raise; if it does, the thread is replaced.
    :param on_free: called after an item ends, while :attr:`hungry` is set, if a worker is now idle or
        at least half of the places are free.
    """

    def __init__(
        self, *, size: int, work: Callable[[T], None], on_free: Callable[[], None], name: str
    ) -> None:
        self.size = size
        self.hungry = False
        """Whether a caller has more work than there were places."""
        self.on_start: Callable[[], None] = lambda: None
        """Called by each thread before its first item."""
        self._work = work
        self._on_free = on_free
        self._name = name
        self._items: deque[T | None] = deque()
        self._idle = IdleThreads(self._items)
        self._free: deque[None] = deque([None] * size)  # a token for each free place
        self.free: Callable[[None], None] = self._free.append
        """Free the place of an item: ``free(None)``. A method of a C type, so that an async exception
        cannot interrupt it."""
        self._made_places = size  # the tokens that exist, taken or free
        self._places = size  # the tokens that should exist
        self._adjusting = threading.RLock()  # reentrant: a finalizer may run in the middle
        self._unknown: deque[int] = deque(maxlen=COUNTS)
        self._ended = 0
        self._average = 0.05  # seconds per item, exponentially smoothed
        self._threads: list[threading.Thread] = []
        self._made = 0
        self._stopping = False

    def start(self) -> None:
        """Start the threads."""
        for _ in range(self.size):
            self._add_thread()

    def reserve(self, wanted: int) -> int:
        """Reserve up to ``wanted`` places; returns how many it reserved."""
        granted = 0
        if not self._stopping:
            free = self._free
            try:
                while granted < wanted:
                    free.pop()
                    granted += 1
            except IndexError:
                pass
        return granted

    def give_back(self, places: int) -> None:
        """Free reserved places that were not used."""
        self._free.extend([None] * places)
        if self._made_places > self._places:
            self._adjust()

    def put(self, item: T | None) -> None:
        """Hand over an item whose place is reserved; ``None`` ends the threads."""
        self._items.append(item)
        if self._idle.locks:
            self._idle.wake_one()

    def settle(self, known: int) -> None:
        """Replace lost places: a thread that an async exception interrupts loses the place that it was
        passing on. Called about once a second, by one thread.

        :param known: the places that are known to be taken.
        """
        if self._items:
            self._idle.wake_one()  # the thread that put one may have been interrupted before this
        self._unknown.append(self.busy - known)
        lost, extra = min(self._unknown), -max(self._unknown)
        if len(self._unknown) < COUNTS or (lost <= 0 and extra <= 0):
            return
        self._unknown.clear()
        if lost > 0:
            _log.info("%d places for jobs were lost by threads that were cut off; made good", lost)
            self._free.extend([None] * lost)
        else:
            self.reserve(extra)  # a place that was replaced has come back after all

    @property
    def busy(self) -> int:
        """The number of taken places, workers and waiting items together."""
        return self._made_places - len(self._free)

    @property
    def places(self) -> int:
        """The number of places at the moment."""
        return self._places

    @property
    def threads(self) -> list[threading.Thread]:
        """The worker threads."""
        return list(self._threads)

    def living(self) -> list[threading.Thread]:
        """The threads that have not ended.

        ``is_alive`` is not reliable here: after an exception (Ctrl-C) in the middle of ``join`` or of
        ``is_alive`` itself, CPython up to 3.12 reports a running thread as ended.
        """
        running = threading.enumerate()  # also threads that never began: their start was interrupted
        return [thread for thread in self.threads if thread.ident is not None and thread in running]

    def account(self, seconds: float) -> None:
        """Note that an item took ``seconds`` and that its place is free again; called by ``work``."""
        # No lock: an update lost in a race hardly changes the estimate.
        self._average += (seconds - self._average) * 0.1
        self._ended += 1
        if self._ended % 8 == 0:
            waiting = PREFETCH_SECONDS * self.size / max(self._average, 1e-6)
            self._adjust(self.size + int(min(waiting, PREFETCH_MOST)))
        elif self._made_places > self._places:
            self._adjust()
        if self.hungry and (self.busy < self.size or self.busy * 2 <= self._places):
            self._on_free()

    def stop_prefetching(self) -> None:
        """Keep no items waiting until short ones come again; called when items waited too long."""
        self._average = max(self._average, PREFETCH_SECONDS * self.size * 4)
        self._adjust(self.size)

    def _adjust(self, places: int | None = None) -> None:
        """Add places, or remove free ones; a taken place is removed when it comes back."""
        with self._adjusting:
            if places is not None:
                self._places = places
            missing = self._places - self._made_places
            if missing > 0:
                self._made_places += missing
                self._free.extend([None] * missing)
            elif missing < 0:
                self._made_places -= self.reserve(-missing)

    def stop(self) -> None:
        """Let every thread end after its current item, and refuse further places. Idempotent."""
        with self._adjusting:
            if self._stopping:
                return
            self._stopping = True
        self.put(None)  # one is enough: each thread passes it on

    def join(self, seconds: float) -> bool:
        """Wait for the threads, at most so many seconds; True if all have ended."""
        end = machine_time() + seconds
        self.put(None)  # again: a thread that an async exception ended may have taken the first
        self._idle.wake_all()  # a thread that died may have left its lock, which hides the earlier ones
        for thread in self.threads:  # a copy: one may be replaced meanwhile
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(max(0.0, end - machine_time()))
        # `join` may report running threads as ended; see `living`.
        while (left := end - machine_time()) > 0 and set(self.living()) - {threading.current_thread()}:
            Bell().wait(min(left, LOOK_EVERY))
        return not self.living()

    def replace_dead(self) -> int:
        """Start a thread for each one that died; returns how many."""
        living = self.living()
        dead = [thread for thread in self._threads if thread not in living]
        if self._stopping or not dead:
            return 0
        self._idle.wake_all()
        for thread in dead:
            self._add_thread()  # may fail if there are too many threads; the dead one stays then
            self._threads.remove(thread)
        _log.error("%d worker threads died and were replaced", len(dead))
        return len(dead)

    def _add_thread(self) -> None:
        self._made += 1
        name = f"{self._name}-worker-{self._made}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._threads.append(thread)  # before it takes an item: a thread not in this list counts as dead
        try:
            thread.start()
        except RuntimeError:
            self._threads.remove(thread)
            raise

    def _run(self) -> None:
        self.on_start()
        items, idle, work = self._items, self._idle, self._work
        lock = new_lock()
        while True:
            try:
                item = items.popleft()
            except IndexError:
                idle.wait(lock)
                continue
            if item is None:
                self.put(None)
                return
            if items and idle.locks:
                idle.wake_one()
            work(item)
            del item  # an idle worker must not keep its last job in memory
