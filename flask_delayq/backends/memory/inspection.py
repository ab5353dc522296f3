"""Asking about stored jobs and queues: reading only.
Must not know how jobs are claimed and ended by workers; each function takes the lock itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from heapq import nlargest

from ...errors import JobNotFoundError
from ...ids import age_key, has_moment
from ...job import JobQuery, JobRecord, JobState, QueueInfo, StoredState, TaskInfo
from .rows import Queue, Row
from .store import Store

_WAITING = StoredState.WAITING


def get(store: Store, job_id: str) -> JobRecord | None:
    with store.lock:
        row = store.rows.get(job_id)
        return None if row is None else row.record()


def queues(store: Store, *, now: float) -> list[QueueInfo]:
    with store.lock:
        running: dict[str, int] = {}
        for row in store.running.values():
            running[row.new.queue] = running.get(row.new.queue, 0) + 1
        return [
            _describe(store.queues[name], now, running.get(name, 0)) for name in sorted(store.queues)
        ]


def select(store: Store, query: JobQuery, *, now: float) -> list[JobRecord]:
    with store.lock:
        rows = list(store.rows.values())
        mark = None if query.before is None else _age_of(store, query.before)
    # Sifted without the lock, so that nobody waits behind a long list; then read as they are.
    matches = _filter(query, mark, now)
    chosen = nlargest(query.limit, filter(matches, rows), key=_age)
    with store.lock:
        return [row.record() for row in chosen]


def counts(store: Store, *, now: float) -> dict[str, int]:
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


def waiting_tasks(store: Store, *, besides: Collection[str] = ()) -> Sequence[TaskInfo]:
    with store.lock:
        waiting = [row for row in store.rows.values() if row.stored is _WAITING]
    moments: dict[str, list[float]] = {}
    for row in waiting:
        if row.new.task not in besides:
            moments.setdefault(row.new.task, []).append(row.run_at)
    return [TaskInfo(name, len(some), min(some)) for name, some in sorted(moments.items())]


def audit(store: Store) -> Sequence[str]:
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


def _age(row: Row) -> str:
    return age_key(row.new.id, row.new.enqueued_at)


def _age_of(store: Store, job_id: str) -> str:
    if has_moment(job_id):
        return job_id
    row = store.rows.get(job_id)
    if row is None:
        raise JobNotFoundError(job_id)
    return _age(row)


def _filter(query: JobQuery, before: str | None, now: float) -> Callable[[Row], bool]:
    def matches(row: Row) -> bool:
        new = row.new
        return (
            (before is None or _age(row) < before)
            and (query.queue is None or new.queue == query.queue)
            and (query.task is None or new.task == query.task)
            and (not query.states or row.state_at(now) in query.states)
        )

    return matches
