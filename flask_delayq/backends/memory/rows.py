"""A stored job, and the ordered lines of jobs: waiting ones by due time, finished ones by end.
Must not know locks, claims or verbs; everything here is called under the store's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from heapq import heappop, heappush
from itertools import chain
from math import inf, nextafter
from typing import TypeAlias

from msgspec import Struct

from ...job import JobRecord, JobState, NewJob, StoredState

_WAITING = StoredState.WAITING


class Row(Struct, eq=False, gc=False):
    """One job. Mutable and private: callers get a :meth:`record`.

    ``gc=False`` because it cannot be part of a reference cycle.
    """

    new: NewJob
    run_at: float
    stored: StoredState = _WAITING
    place: int = 0
    """The number of its entry in a line; entries with another number are stale."""
    attempt: int = 0
    claim_no: int = 0
    owner: str | None = None
    leased_at: float = 0.0
    """Monotonic time of the latest claim or renewal."""
    lease_end: float = 0.0
    rescues: int = 0
    suspect: bool = False
    interrupted: bool = False
    later: bool = False
    """Whether a retry or snooze has set its ``run_at``."""
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
    """Jobs ordered by (time, id). A removed job is dropped when it is the first one, or when half of all
    entries are removed.

    Most jobs are added in order, so they are in a queue; a heap has those that came out of order.
    """

    __slots__ = ("_heap", "_queue", "_standing")

    def __init__(self) -> None:
        self._queue: deque[Entry] = deque()  # in order
        self._heap: list[Entry] = []
        self._standing = 0

    def __len__(self) -> int:
        return self._standing

    def __iter__(self) -> Iterator[Entry]:
        """Its entries, in no order."""
        return (entry for entry in chain(self._queue, self._heap) if entry[3].place == entry[2])

    def join(self, moment: float, row: Row, place: int) -> None:
        row.place = place
        self._standing += 1
        entry = (moment, row.new.id, place, row)
        queue = self._queue
        if not queue or queue[-1] <= entry:
            queue.append(entry)
        else:
            heappush(self._heap, entry)

    def put_back(self, entry: Entry) -> None:
        """Put an entry back at its old place; of several ones the last one first."""
        self._standing += 1
        queue = self._queue
        if not queue or entry <= queue[0]:
            queue.appendleft(entry)
        else:
            heappush(self._heap, entry)

    def leave(self, row: Row) -> None:
        row.place = 0
        self._standing -= 1
        left = len(self._queue) + len(self._heap) - self._standing
        if left > 64 and left > self._standing:
            self._queue, self._heap = deque(sorted(self)), []

    def first(self) -> Entry | None:
        while (entry := self._head()) is not None:
            if entry[3].place == entry[2]:
                return entry
            self._drop_head(entry)
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
        self._standing -= len(taken)
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


Lines: TypeAlias = tuple[Line, Line, Line]
"""One line for each priority."""


class Queue:
    """The waiting jobs of one queue, by priority; suspects stand apart, because an owner may run only
    one of them at a time. Once somebody has asked for some tasks only, so do the jobs of each task."""

    __slots__ = ("_is_by_task", "_lines", "_suspects", "name", "paused", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = False
        self.waiting = 0
        self._is_by_task = False
        # By task; all under "" until that matters.
        self._lines: dict[str, Lines] = {}
        self._suspects: dict[str, Lines] = {}

    def line_of(self, row: Row) -> Line:
        lines = self._suspects if row.suspect else self._lines
        key = row.new.task if self._is_by_task else ""
        found = lines.get(key)
        if found is None:
            found = lines[key] = (Line(), Line(), Line())
        return found[row.new.priority]

    def order_by_task(self) -> None:
        if self._is_by_task:
            return
        ordered = Queue(self.name)
        ordered._is_by_task = True
        for line in self.all_lines():
            for moment, _, place, row in sorted(line):
                ordered.line_of(row).join(moment, row, place)
        # In one step, because an asynchronous exception may come at any call.
        self._lines, self._suspects, self._is_by_task = ordered._lines, ordered._suspects, True

    def clear(self) -> None:
        """Remove all jobs."""
        self._lines, self._suspects, self.waiting = {}, {}, 0

    def take_due(self, now: float, limit: int, tasks: Collection[str] | None) -> list[list[Entry]]:
        """Remove and return the first due jobs of each priority, suspects left aside. There may be more
        than ``limit`` of them where tasks stand apart."""
        found = self._of(self._lines, tasks)
        if len(found) == 1:
            return [line.take_until(now, limit) for line in found[0]]
        return [
            sorted(chain(*(line.take_until(now, limit) for line in level)))
            for level in zip(*found, strict=True)
        ]

    def suspects(self, tasks: Collection[str] | None) -> list[tuple[int, Line]]:
        """The lines of suspects, each with its priority."""
        return [
            (priority, line)
            for lines in self._of(self._suspects, tasks)
            for priority, line in enumerate(lines)
        ]

    @staticmethod
    def _of(lines: dict[str, Lines], tasks: Collection[str] | None) -> list[Lines]:
        """The lines of these tasks; all tasks have one set while they do not stand apart."""
        return [found for task, found in lines.items() if tasks is None or task in tasks]

    def all_lines(self) -> list[Line]:
        return [
            line for kind in (self._lines, self._suspects) for lines in kind.values() for line in lines
        ]

    def count(self) -> int:
        """The jobs in all lines."""
        return sum(len(line) for line in self.all_lines())

    def entries(self) -> list[Entry]:
        """All waiting jobs, in no order."""
        return [entry for line in self.all_lines() for entry in line]

    def first_due(self, *, with_suspects: bool, tasks: Collection[str] | None = None) -> float | None:
        """The earliest moment of a waiting job."""
        kinds = (self._lines, self._suspects) if with_suspects else (self._lines,)
        firsts = (line.first() for kind in kinds for lines in self._of(kind, tasks) for line in lines)
        return min((entry[0] for entry in firsts if entry is not None), default=None)
