"""The verbs by which people inspect and control jobs.
Must not know how workers claim and end jobs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...job import JobQuery, JobRecord, QueueInfo, StoredState, TaskInfo
from ..base import Inspectable
from . import changes, inspection
from .store import Store


class Inspection(Inspectable):
    """The inspecting half of the memory backend."""

    _store: Store

    def get(self, job_id: str) -> JobRecord | None:
        return inspection.get(self._store, job_id)

    def counts(self, *, now: float) -> dict[str, int]:
        return inspection.counts(self._store, now=now)

    def queues(self, *, now: float) -> list[QueueInfo]:
        return inspection.queues(self._store, now=now)

    def forget_queues(self) -> int:
        return changes.forget_queues(self._store)

    def waiting_tasks(self, *, besides: Collection[str] = ()) -> Sequence[TaskInfo]:
        return inspection.waiting_tasks(self._store, besides=besides)

    def audit(self) -> Sequence[str]:
        return inspection.audit(self._store)

    def cancel(self, job_id: str, *, now: float, reason: str = "") -> StoredState | None:
        return changes.cancel(self._store, job_id, now=now, reason=reason)

    def revive(self, job_id: str, *, run_at: float) -> StoredState | None:
        return changes.revive(self._store, job_id, run_at=run_at)

    def pause(self, queue: str) -> None:
        changes.pause(self._store, queue)

    def resume(self, queue: str) -> None:
        changes.resume(self._store, queue)

    def purge(self, queue: str, *, now: float, limit: int = 1000) -> int:
        return changes.purge(self._store, queue, now=now, limit=limit)

    # Last, because below it the name would hide the type.
    def list(self, query: JobQuery, *, now: float) -> list[JobRecord]:
        return inspection.select(self._store, query, now=now)
