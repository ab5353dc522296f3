"""Looking at single jobs and telling them what to do: the verbs for people.
Must not know how jobs are claimed and ended by workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from heapq import nlargest
from math import inf

from ...job import Failure, JobQuery, JobRecord, JobState, QueueInfo, Stored, TaskInfo
from ...serializer import encode_failure
from ..base import Inspectable
from .rows import Entry, Queue, Row
from .store import Store

_WAITING, _RUNNING = Stored.WAITING, Stored.RUNNING
_FAILED, _CANCELLED = Stored.FAILED, Stored.CANCELLED


class Inspection(Inspectable):
    """The inspecting half of the memory backend."""

    _store: Store

    def get(self, job_id: str) -> JobRecord | None:
        with self._store.lock:
            row = self._store.rows.get(job_id)
            return None if row is None else row.record()

    def queues(self, *, now: float) -> list[QueueInfo]:
        store = self._store
        with store.lock:
            running: dict[str, int] = {}
            for row in store.running.values():
                running[row.new.queue] = running.get(row.new.queue, 0) + 1
            return [
                _describe(store.queues[name], now, running.get(name, 0)) for name in sorted(store.queues)
            ]

    def list(self, query: JobQuery, *, now: float) -> list[JobRecord]:
        store = self._store
        with store.lock:
            rows = list(store.rows.values())
        # Sifted without the lock, so that nobody waits behind a long list; then read as they are.
        matches = _filter(query, now)
        chosen = nlargest(query.limit, filter(matches, rows), key=lambda row: row.new.id)
        with store.lock:
            return [row.record() for row in chosen]

    def counts(self, *, now: float) -> dict[str, int]:
        store = self._store
        with store.lock:
            waiting = store.waiting
            running, failed, cancelled = len(store.running), len(store.failed), store.cancelled
            completed = len(store.finished) - cancelled
            moments = [entry[0] for queue in store.queues.values() for entry in queue.entries()]
        ready = sum(moment <= now for moment in moments)
        return {
            JobState.SCHEDULED.value: waiting - ready,
            JobState.READY.value: ready,
            JobState.RUNNING.value: running,
            JobState.COMPLETED.value: completed,
            JobState.FAILED.value: failed,
            JobState.CANCELLED.value: cancelled,
        }

    def forget_queues(self) -> int:
        store = self._store
        with store.lock:
            used = {row.new.queue for row in store.rows.values()}
            empty = [
                name for name, queue in store.queues.items() if name not in used and not queue.paused
            ]
            for name in empty:
                del store.queues[name]
            return len(empty)

    def waiting_tasks(self, *, besides: Collection[str] = ()) -> Sequence[TaskInfo]:
        store = self._store
        with store.lock:
            waiting = [row for row in store.rows.values() if row.stored is _WAITING]
        moments: dict[str, list[float]] = {}
        for row in waiting:
            if row.new.task not in besides:
                moments.setdefault(row.new.task, []).append(row.run_at)
        return [TaskInfo(name, len(some), min(some)) for name, some in sorted(moments.items())]

    def audit(self) -> Sequence[str]:
        store = self._store
        with store.lock:
            waiting = Counter(row.new.queue for row in store.rows.values() if row.stored is _WAITING)
            wrong = []
            for name in {*waiting, *store.queues}:
                queue = store.queues.get(name) or Queue(name)
                found, in_line = waiting[name], len(queue.entries())
                if not found == queue.waiting == in_line:
                    wrong.append(
                        f"queue {name!r}: {found} jobs wait, {queue.waiting} are counted, "
                        f"{in_line} are in line"
                    )
            if store.waiting != waiting.total():
                wrong.append(f"{waiting.total()} jobs wait in all, {store.waiting} are counted")
            return wrong

    def cancel(self, job_id: str, *, now: float, reason: str = "") -> Stored | None:
        store = self._store
        with store.lock:
            row = store.rows.get(job_id)
            if row is None:
                return None
            if row.stored is _WAITING:
                store.leave_waiting(row)
                store.finish(row, _CANCELLED, now)
                if reason:
                    row.error = encode_failure(Failure("Cancel", reason))
            elif row.stored is _RUNNING:
                row.cancel_requested = True
            return row.stored

    def revive(self, job_id: str, *, run_at: float) -> Stored | None:
        store = self._store
        with store.lock:
            row = store.rows.get(job_id)
            if row is None:
                return None
            before = row.stored
            if before is _FAILED or before is _CANCELLED:
                store.leave_final(row)
                row.attempt = row.rescues = 0
                row.suspect = row.later = False
                row.finished_at = None
                row.cancel_requested = False
                row.run_at = run_at
                store.wait(row)
            return before

    def pause(self, queue: str) -> None:
        with self._store.lock:
            self._store.queue(queue).paused = True

    def resume(self, queue: str) -> None:
        with self._store.lock:
            found = self._store.queues.get(queue)
            if found is not None:
                found.paused = False

    def purge(self, queue: str, *, now: float, limit: int = 1000) -> int:
        store = self._store
        with store.lock:
            found = store.queues.get(queue)
            if found is None:
                return 0
            taken: list[Entry] = []
            for line in found.all_lines():
                taken += line.take_until(inf, limit - len(taken))
            found.waiting -= len(taken)
            store.waiting -= len(taken)
            for entry in taken:
                store.finish(entry[3], _CANCELLED, now)
            return len(taken)


def _describe(queue: Queue, now: float, running: int) -> QueueInfo:
    due = [entry[0] for entry in queue.entries() if entry[0] <= now]
    return QueueInfo(
        name=queue.name,
        paused=queue.paused,
        scheduled=queue.waiting - len(due),
        ready=len(due),
        running=running,
        oldest_due=min(due, default=None),
    )


def _filter(query: JobQuery, now: float) -> Callable[[Row], bool]:
    def matches(row: Row) -> bool:
        new = row.new
        return (
            (query.before is None or new.id < query.before)
            and (query.queue is None or new.queue == query.queue)
            and (query.task is None or new.task == query.task)
            and (not query.states or row.state_at(now) in query.states)
        )

    return matches
