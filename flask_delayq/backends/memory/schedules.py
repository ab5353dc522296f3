"""Schedules in memory, each with its next occurrence; an occurrence is enqueued once.
Must not know how a rule computes its next occurrence."""

from __future__ import annotations

from msgspec.structs import replace as changed

from ...errors import JobConflictError
from ...job import Enqueued, NewJob, ScheduleRecord
from ..base import Schedulable
from .rows import Row
from .store import Store


class MemorySchedules(Schedulable):
    """The periodic half of the memory backend."""

    _store: Store

    def put_schedule(self, schedule: ScheduleRecord, *, replace: bool = True) -> ScheduleRecord:
        store = self._store
        with store.lock:
            known = store.schedules.get(schedule.name)
            if known is None:
                stored = schedule
            elif not replace:
                return known
            elif known.rule == schedule.rule:
                stored = _kept(schedule, known, known.next_due, known.generation)
            else:
                stored = _kept(schedule, known, schedule.next_due, known.generation + 1)
            store.schedules[schedule.name] = stored
            return stored

    def schedules(self) -> list[ScheduleRecord]:
        with self._store.lock:
            return [schedule for _, schedule in sorted(self._store.schedules.items())]

    def remove_schedule(self, name: str) -> bool:
        with self._store.lock:
            return self._store.schedules.pop(name, None) is not None

    def pause_schedule(self, name: str, paused: bool, *, next_due: float | None = None) -> bool:
        store = self._store
        with store.lock:
            known = store.schedules.get(name)
            if known is None:
                return False
            due = known.next_due if next_due is None else next_due
            store.schedules[name] = changed(known, paused=paused, next_due=due)
            return True

    def next_occurrence(self) -> float | None:
        with self._store.lock:
            schedules = self._store.schedules.values()
            return min((s.next_due for s in schedules if not s.paused), default=None)

    def fire(self, schedule: ScheduleRecord, job: NewJob | None, *, next_due: float) -> Enqueued | None:
        store = self._store
        with store.lock, store.whole:
            known = store.schedules.get(schedule.name)
            if known is None or known.paused:
                return None
            if (known.generation, known.next_due) != (schedule.generation, schedule.next_due):
                return None
            moved = changed(known, last_due=known.next_due, next_due=next_due)
            store.schedules[known.name] = moved
            try:
                return None if job is None else _enqueue(store, job)
            except BaseException as error:
                # If Ctrl-C comes here, the schedule moves on only if the job is stored.
                if isinstance(error, JobConflictError) or job is None or job.id not in store.rows:
                    store.schedules[known.name] = known
                raise


def _kept(
    new: ScheduleRecord, known: ScheduleRecord, next_due: float, generation: int
) -> ScheduleRecord:
    """The new settings with the standing of the known schedule."""
    return changed(
        new,
        next_due=next_due,
        generation=generation,
        last_due=known.last_due,
        paused=known.paused,
    )


def _enqueue(store: Store, job: NewJob) -> Enqueued:
    row = store.rows.get(job.id)
    if row is None:
        store.add(Row(job, job.run_at))
    elif (row.new.task, row.new.payload) != (job.task, job.payload):
        raise JobConflictError(job.id)
    return Enqueued(job.id, row is None)
