"""Schedules: stores the declared ones, and enqueues a job for each occurrence that is due.
Knows the backend's verbs for schedules; when it is called is up to maintenance or a drain."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..backends.base import Backend, Schedulable
from ..errors import RuleError
from ..ids import new_id
from ..job import NewJob, ScheduleRecord
from ..serializer import decode_rule, encode_rule
from ..signals import job_enqueued
from ..task import TaskRegistry

_log = logging.getLogger(__name__)

CLOCK_WAS_WRONG = 3 * 3600.0
"""Seconds by which a schedule is too far ahead for a small correction of the clock."""


class Periodic:
    """The schedules of one store, as one process treats them. On a backend without schedules it does
    nothing.

    :param registry: the tasks of this process; schedules of other tasks are left to other processes.
    """

    def __init__(self, backend: Backend, registry: TaskRegistry) -> None:
        self._backend = backend if isinstance(backend, Schedulable) else None
        self._registry = registry
        self._unusable: set[str] = set()  # names of schedules whose bad rule was logged

    def declare(self, now: float) -> None:
        """Bring the stored schedules in line with the tasks that are periodic by their decorator.

        A schedule whose task is registered here without a rule any more is removed; one whose task is
        unknown here may belong to other code on the same store and is left alone.

        :param now: wall moment, epoch seconds.
        """
        if self._backend is None:
            return
        for task in self._registry:
            rule = task.declared.rule
            if rule is None:
                continue
            payload, _ = task.arguments.encode((), {})
            self._backend.put_schedule(
                ScheduleRecord(
                    name=task.name,
                    task=task.name,
                    payload=payload,
                    rule=encode_rule(rule),
                    queue=task.declared.queue,
                    priority=int(task.declared.priority),
                    next_due=rule.next_after(now),
                    fail_on_crash=task.declared.fail_on_crash,
                )
            )
        for schedule in self._backend.schedules():
            if not schedule.from_code:
                continue
            known = self._registry.find(schedule.name)
            if known is not None and (known.declared.rule is None or known.name != schedule.name):
                self._backend.remove_schedule(schedule.name)

    def pull_back(self, now: float) -> None:
        """Pull schedules back to the present that a clock years ahead has sent into the future.

        Only those further ahead than :data:`CLOCK_WAS_WRONG`: after a smaller step back the occurrences
        up to the old present have run, and time catches up with them (the rule of Vixie cron).

        :param now: wall moment, epoch seconds.
        """
        if self._backend is None:
            return
        for schedule in self._backend.schedules():
            due = self._next_due(schedule, now)
            # Moved on without a job: of several processes that see it, one does it.
            if due is not None and schedule.next_due - due > CLOCK_WAS_WRONG and not schedule.paused:
                self._backend.fire(schedule, None, next_due=due)
                _log.warning("schedule %r lay too far ahead; was the clock wrong?", schedule.name)

    def fire_due(self, now: float, tell: Callable[..., None]) -> int:
        """Enqueue one job for each schedule that is due; returns how many.

        However many occurrences were missed, one job is enqueued and the schedule goes on from now: its
        cost does not grow with the gap. An occurrence is taken once, whoever else tries.

        :param now: wall moment, epoch seconds.
        :param tell: sends a signal, called with it and its keywords.
        """
        if self._backend is None:
            return 0
        first = self._backend.next_occurrence()
        if first is None or first > now:
            return 0
        fired = 0
        for schedule in self._backend.schedules():
            unknown = self._registry.find(schedule.task) is None
            if schedule.paused or schedule.next_due > now or unknown:
                continue
            next_due = self._next_due(schedule, now)
            if next_due is None:
                continue
            job = _occurrence(schedule, now)
            if self._backend.fire(schedule, job, next_due=next_due) is not None:
                fired += 1
                tell(job_enqueued, job=job)
        return fired

    def _next_due(self, schedule: ScheduleRecord, now: float) -> float | None:
        """The next occurrence; ``None``, which is logged once, if the rule cannot be used here."""
        try:
            due = decode_rule(schedule.rule).next_after(now)
        except RuleError as error:
            if schedule.name not in self._unusable:
                self._unusable.add(schedule.name)
                _log.error(
                    "schedule %r enqueues nothing here, its rule cannot be used: %s",
                    schedule.name,
                    error,
                )
            return None
        self._unusable.discard(schedule.name)
        return due


def _occurrence(schedule: ScheduleRecord, now: float) -> NewJob:
    """The job of a schedule's due moment."""
    return NewJob(
        id=new_id(),
        task=schedule.task,
        queue=schedule.queue,
        priority=schedule.priority,
        run_at=schedule.next_due,
        enqueued_at=now,
        payload=schedule.payload,
        max_attempts=schedule.max_attempts,
        fail_on_crash=schedule.fail_on_crash,
        schedule=schedule.name,
    )
