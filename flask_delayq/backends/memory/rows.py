"""A stored job, and the lines in which jobs stand: waiting for their moment, or for their end.
Must not know locks, claims or verbs; everything here is called under the store's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import chain
from math import inf, nextafter
from typing import TypeAlias

from msgspec import Struct

from ...job import JobRecord, JobState, NewJob, Stored

_WAITING = Stored.WAITING


class Row(Struct, eq=False, gc=False):
    """One job. Mutable, and never seen outside: :meth:`record` makes what callers get.

    ``gc=False`` because it refers to nothing that could refer back, so the collector need not look.
    """

    new: NewJob
    run_at: float
    stored: Stored = _WAITING
    place: int = 0
    """The number of its entry in a line; entries with another number are stale."""
    attempt: int = 0
    claim_no: int = 0
    owner: str | None = None
    leased_at: float = 0.0
    """Monotonic moment of the latest claim or renewal."""
    lease_end: float = 0.0
    rescues: int = 0
    interrupted: bool = False
    cancel_requested: bool = False
    started_at: float | None = None
    finished_at: float | None = None
    result: bytes | None = None
    error: bytes | None = None
    progress: bytes | None = None

    def record(self) -> JobRecord:
        new = self.new
        return JobRecord(
            id=new.id,
            task=new.task,
            queue=new.queue,
            priority=new.priority,
            stored=self.stored,
            run_at=self.run_at,
            enqueued_at=new.enqueued_at,
            payload=new.payload,
            attempt=self.attempt,
            max_attempts=new.max_attempts,
            fail_on_crash=new.fail_on_crash,
            schedule=new.schedule,
            claim_no=self.claim_no,
            owner=self.owner,
            rescues=self.rescues,
            interrupted=self.interrupted,
            cancel_requested=self.cancel_requested,
            started_at=self.started_at,
            finished_at=self.finished_at,
            result=self.result,
            error=self.error,
            progress=self.progress,
        )

    def state_at(self, now: float) -> JobState:
        if self.stored is _WAITING:
            return JobState.READY if self.run_at <= now else JobState.SCHEDULED
        return JobState[self.stored.name]


Entry: TypeAlias = tuple[float, str, int, Row]
"""(moment, job id, place, row). The place is unique, so that sorting never compares rows."""


class Line:
    """Jobs by (moment, id). One that leaves is dropped when it comes up, or once half of them left.

    Most jobs come in order, so they stand in a queue; a heap keeps those that came out of turn.
    """

    __slots__ = ("_heap", "_left", "_queue")

    def __init__(self) -> None:
        self._queue: deque[Entry] = deque()  # in order
        self._heap: list[Entry] = []
        self._left = 0

    def __len__(self) -> int:
        return len(self._queue) + len(self._heap) - self._left

    def __iter__(self) -> Iterator[Entry]:
        """Those that stand in it, in no order."""
        return (entry for entry in chain(self._queue, self._heap) if entry[3].place == entry[2])

    def join(self, moment: float, row: Row, place: int) -> None:
        row.place = place
        entry = (moment, row.new.id, place, row)
        queue = self._queue
        if not queue or queue[-1] <= entry:
            queue.append(entry)
        else:
            heappush(self._heap, entry)

    def put_back(self, entry: Entry) -> None:
        """Let one that was taken out stand at its old place again; of several the last one first."""
        queue = self._queue
        if not queue or entry <= queue[0]:
            queue.appendleft(entry)
        else:
            heappush(self._heap, entry)

    def leave(self, row: Row) -> None:
        row.place = 0
        self._left += 1
        if self._left > 64 and self._left > len(self):
            entries = sorted(self)
            self._queue, self._heap, self._left = deque(entries), [], 0

    def first(self) -> Entry | None:
        while (entry := self._head()) is not None:
            if entry[3].place == entry[2]:
                return entry
            self._drop_head(entry)
            self._left -= 1
        return None

    def take_before(self, moment: float, limit: int) -> list[Entry]:
        """Remove and return the first entries earlier than a moment, in order."""
        return self.take_until(nextafter(moment, -inf), limit)

    def take_until(self, until: float, limit: int) -> list[Entry]:
        """Remove and return the first entries up to a moment, in order."""
        taken: list[Entry] = []
        queue, heap = self._queue, self._heap
        while len(taken) < limit:
            if queue and not heap:
                entry = queue[0]
                if entry[0] > until:
                    break
                queue.popleft()
            else:
                head = self._head()
                if head is None or head[0] > until:
                    break
                entry = head
                self._drop_head(entry)
            if entry[3].place == entry[2]:
                taken.append(entry)
            else:
                self._left -= 1
        return taken

    def _head(self) -> Entry | None:
        queue, heap = self._queue, self._heap
        if not heap:
            return queue[0] if queue else None
        return queue[0] if queue and queue[0] < heap[0] else heap[0]

    def _drop_head(self, head: Entry) -> None:
        if self._heap and self._heap[0] is head:
            heappop(self._heap)
        else:
            self._queue.popleft()


class Queue:
    """The waiting jobs of one queue, by priority; those that were rescued stand apart, because only
    one of them may run at a time."""

    __slots__ = ("lines", "name", "paused", "rescued", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = False
        self.waiting = 0
        self.lines = (Line(), Line(), Line())
        self.rescued = (Line(), Line(), Line())

    def line_of(self, row: Row) -> Line:
        return (self.rescued if row.rescues else self.lines)[row.new.priority]

    def take_due(self, now: float, limit: int) -> list[list[Entry]]:
        """Remove and return the first due jobs of each priority, rescued ones left aside."""
        return [line.take_until(now, limit) for line in self.lines]

    def all_lines(self) -> tuple[Line, ...]:
        return self.lines + self.rescued

    def entries(self) -> list[Entry]:
        """All waiting jobs, in no order."""
        return [entry for line in self.all_lines() for entry in line]

    def first_due(self, *, with_rescued: bool) -> float | None:
        """The earliest moment of a waiting job."""
        firsts = (line.first() for line in (self.all_lines() if with_rescued else self.lines))
        return min((entry[0] for entry in firsts if entry is not None), default=None)
