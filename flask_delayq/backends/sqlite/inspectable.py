"""The verbs by which people inspect and control jobs; they pass functions to the store.
Must not know SQL, or how workers claim and end jobs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...job import JobQuery, JobRecord, QueueInfo, StoredState, TaskInfo
from ..base import Inspectable
from .file.store import Store
from .host.doorbell import Bells
from .verbs import by_task, changes, inspection, pending


class Inspection(Inspectable):
    """The inspecting half of the sqlite backend."""

    _store: Store
    _bells: Bells

    def get(self, job_id: str) -> JobRecord | None:
        return self._store.read(lambda sql: inspection.get(sql, job_id))

    def counts(self, *, now: float) -> dict[str, int]:
        return self._store.read(lambda sql: inspection.counts(sql, now))

    def queues(self, *, now: float) -> list[QueueInfo]:
        return self._store.read(lambda sql: inspection.queues(sql, now))

    def forget_queues(self) -> int:
        empty, unlisted = self._store.read(changes.unused_queues)
        if not empty and not unlisted:
            return 0
        return self._store.write(lambda sql: changes.forget_queues(sql, empty, unlisted))

    def waiting_tasks(self, *, besides: Collection[str] = ()) -> Sequence[TaskInfo]:
        rows = self._store.read(by_task.waiting)
        return [TaskInfo(*row) for row in rows if row[0] not in besides]

    def audit(self) -> Sequence[str]:
        return self._store.read(lambda sql: pending.audit(sql) + inspection.audit(sql))

    def cancel(self, job_id: str, *, now: float, reason: str = "") -> StoredState | None:
        return self._store.write(
            lambda sql: changes.cancel(sql, job_id, now=now, reason=reason), durable=True
        )

    def revive(self, job_id: str, *, run_at: float) -> StoredState | None:
        before = self._store.write(lambda sql: changes.revive(sql, job_id, run_at=run_at), durable=True)
        self._bells.ring()
        return before

    def pause(self, queue: str) -> None:
        self._store.write(lambda sql: changes.pause(sql, queue), durable=True)

    def resume(self, queue: str) -> None:
        self._store.write(lambda sql: changes.resume(sql, queue), durable=True)
        self._bells.ring()

    def purge(self, queue: str, *, now: float, limit: int = 1000) -> int:
        return self._store.write(
            lambda sql: changes.purge(sql, queue, now=now, limit=limit), durable=True
        )

    # Last, because below it the name would hide the type.
    def list(self, query: JobQuery, *, now: float) -> list[JobRecord]:
        return self._store.read(lambda sql: inspection.select(sql, query, now))
