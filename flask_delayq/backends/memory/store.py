"""The data of one memory store, and the moves of a job between its lines.
Must not know the verbs: they take the lock and decide; the store only keeps its data consistent."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from ...job import Claim, ProcessRecord, ScheduleRecord, StoredState
from ..nesting import nested
from .rows import Line, Queue, Row

_WAITING, _RUNNING = StoredState.WAITING, StoredState.RUNNING
_FAILED, _CANCELLED = StoredState.FAILED, StoredState.CANCELLED


class _SafeLock(type(threading.RLock())):  # type: ignore[misc]
    """A reentrant lock that stays consistent with asynchronous exceptions, for CPython 3.14.

    CPython 3.14 can deliver a signal between ``__enter__`` and the block, if ``__enter__`` is in C.
    ``__exit__`` must be in C: in a Python method the signal could come before the release.
    """

    def __enter__(self) -> bool:
        try:
            return bool(self.acquire())
        except BaseException:
            if self._is_owned():
                self.release()
            raise


_Lock: Callable[[], Any] = _SafeLock if sys.version_info >= (3, 14) else threading.RLock


class _Whole:
    """A block after which the store is consistent, also if an exception interrupts it."""

    __slots__ = ("_store",)

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> None:
        """Nothing is to be done yet."""

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self._store.stand_anew()


class Store:
    """Jobs, queues, schedules and processes behind one lock.

    Every method expects the caller to hold ``lock``.
    """

    def __init__(self) -> None:
        self.whole = _Whole(self)
        """Use it in a ``with``, under the lock, around moves of jobs."""
        self.clear()
        _all.add(self)

    def clear(self) -> None:
        """Reset everything, with a new lock."""
        self._lock = _Lock()
        self.rows: dict[str, Row] = {}
        self.running: dict[str, Row] = {}
        self.suspect_of: dict[str, str] = {}
        """By owner, the id of its running suspect."""
        self.queues: dict[str, Queue] = {}
        self.waiting = 0
        """The number of waiting jobs in all queues together."""
        self.finished = Line()
        """Completed and cancelled jobs by the time of their end."""
        self.failed = Line()
        self.cancelled = 0
        self.schedules: dict[str, ScheduleRecord] = {}
        self.processes: dict[str, ProcessRecord] = {}
        self.claim_no_more: set[str] = set()
        """Owners that stop or have stopped."""
        self.places = count(1)

    @property
    def lock(self) -> Any:
        """The lock, for a ``with``.

        :raises BackendUnavailableError: this thread holds it: a finalizer or a signal handler has
            interrupted another verb.
        """
        if self._lock._is_owned():
            raise nested()
        return self._lock

    def queue(self, name: str) -> Queue:
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(name)
        return queue

    def named(self, names: Sequence[str] | None) -> list[Queue]:
        """The existing ones of these queues, each once; ``None``: all."""
        if names is None:
            return list(self.queues.values())
        return [self.queues[name] for name in dict.fromkeys(names) if name in self.queues]

    # --- moves ---------------------------------------------------------------------------------

    def add(self, row: Row) -> None:
        """Add a new waiting job."""
        self.rows[row.new.id] = row
        self.stand(row, self.queue(row.new.queue))

    def stand(self, row: Row, queue: Queue) -> None:
        """Put a row that is marked as waiting into its line."""
        queue.waiting += 1
        self.waiting += 1
        queue.line_of(row).join(row.run_at, row, next(self.places))

    def wait(self, row: Row) -> None:
        """Put a job that ran, and is in no line, into its waiting line."""
        row.stored = _WAITING
        row.owner = None
        self.stand(row, self.queue(row.new.queue))

    def run(self, row: Row, owner: str, lease: float, mono: float, now: float) -> Claim:
        """Make a job that is in no line a running one."""
        new = row.new
        row.stored = _RUNNING
        row.owner = owner
        row.claim_no = claim_no = row.claim_no + 1
        row.leased_at = mono
        row.lease_end = mono + lease
        row.started_at = now
        row.interrupted = row.later = False
        row.progress = None
        self.running[new.id] = row
        if row.suspect:
            self.suspect_of[owner] = new.id
        return Claim(
            new.id,
            new.task,
            new.queue,
            new.payload,
            owner,
            claim_no,
            row.attempt + 1,
            row.run_at,
            row.rescues,
            new.max_attempts,
            new.enqueued_at,
            new.priority,
            mono,
        )

    def halt(self, row: Row) -> None:
        """Remove a running job from the running ones; the caller moves it on."""
        del self.running[row.new.id]
        if row.suspect and row.owner is not None:
            del self.suspect_of[row.owner]

    def held(self, claim: Claim) -> Row | None:
        """The job of a claim if the claim is current, else ``None``."""
        row = self.running.get(claim.id)
        if row is None or row.claim_no != claim.claim_no or row.owner != claim.owner:
            return None
        return row

    def finish(self, row: Row, state: StoredState, at: float) -> None:
        """End a job that is in no line."""
        row.stored = state
        row.owner = None
        row.finished_at = at
        if state is _CANCELLED:
            self.cancelled += 1
        (self.failed if state is _FAILED else self.finished).join(at, row, next(self.places))

    def wait_or_cancel(self, row: Row, at: float) -> None:
        """Put a job that did not end back into its line, or cancel it if that was requested."""
        if row.cancel_requested:
            self.finish(row, _CANCELLED, at)
        else:
            self.wait(row)

    def leave_waiting(self, row: Row) -> None:
        queue = self.queues[row.new.queue]
        queue.line_of(row).leave(row)
        queue.waiting -= 1
        self.waiting -= 1

    def leave_final(self, row: Row) -> None:
        (self.failed if row.stored is _FAILED else self.finished).leave(row)
        if row.stored is _CANCELLED:
            self.cancelled -= 1

    def take_out(self, rows: Iterable[Row]) -> None:
        """Undo an enqueue that an exception interrupted: remove its rows from all lines."""
        for row in rows:
            new = row.new
            if self.rows.get(new.id) is row:
                del self.rows[new.id]
            if self.running.get(new.id) is row:
                del self.running[new.id]
            queue = self.queues.get(new.queue)
            if queue is None:
                continue
            if row.place and row.stored is _WAITING:
                queue.line_of(row).leave(row)
            # Counted again, because it is unknown whether it was counted. Both change in one step.
            missing = queue.count() - queue.waiting
            queue.waiting += missing
            self.waiting += missing

    def stand_anew(self) -> None:
        """Rebuild the lines from the rows, after an exception interrupted a verb."""
        for queue in self.queues.values():
            queue.clear()
        self.running, self.suspect_of = {}, {}
        self.finished, self.failed = Line(), Line()
        self.waiting = self.cancelled = 0
        for row in self.rows.values():
            if row.stored is _WAITING:
                self.stand(row, self.queue(row.new.queue))
            elif row.finished_at is not None:
                self.finish(row, row.stored, row.finished_at)
            else:
                self.running[row.new.id] = row
                if row.suspect and row.owner is not None:
                    self.suspect_of[row.owner] = row.new.id

    def forget(self, row: Row) -> None:
        """Delete a final job that was taken out of its line."""
        if row.stored is _CANCELLED:
            self.cancelled -= 1
        del self.rows[row.new.id]


_all: WeakSet[Store] = WeakSet()
_shared: WeakValueDictionary[str, Store] = WeakValueDictionary()
_shared_lock = threading.RLock()


def shared_store(name: str) -> Store:
    """The store of this name in this process; it exists as long as a backend uses it."""
    with _shared_lock:
        store = _shared.get(name)
        if store is None:
            store = _shared[name] = Store()
        return store


def _empty_in_child() -> None:
    # The threads that hold the claims (or a lock) exist only in the parent, and the parent goes on
    # running these jobs.
    global _shared_lock
    _shared_lock = threading.RLock()
    for store in list(_all):
        store.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_empty_in_child)
