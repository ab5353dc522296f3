"""Schedules: stores the declared ones, and enqueues a job for each occurrence that is due.
Knows the backend's verbs for schedules; maintenance or a drain calls it."""

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
"""A schedule that is more than this many seconds too far ahead comes from a wrong clock."""


class Periodic:
    """Handles the schedules of one store in one process. On a backend without schedules it does nothing.

    :param registry: the tasks of this process; schedules of other tasks are left to other processes.
    """

    def __init__(self, backend: Backend, registry: TaskRegistry) -> None:
        self._backend = backend if isinstance(backend, Schedulable) else None
        self._registry = registry
        self._unusable: set[str] = set()  # names of schedules whose bad rule was logged

    def declare(self, now: float) -> None:
        """Store the schedules that decorators of tasks declare.

        A declared schedule is removed if its task is registered here without a rule. A schedule whose
        task is unknown here may belong to other code on the same store and is not changed.

        :param now: the current time, epoch seconds.
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
        """Set schedules back that a wrong clock has moved far into the future.

        Only those further ahead than :data:`CLOCK_WAS_WRONG`: after a smaller step back of the clock the
        next occurrences have run already, and the schedule waits until the clock has caught up (the rule
        of Vixie cron).

        :param now: the current time, epoch seconds.
        """
        if self._backend is None:
            return
        for schedule in self._backend.schedules():
            due = self._next_due(schedule, now)
            # Set without a job; of several processes one succeeds.
            if due is not None and schedule.next_due - due > CLOCK_WAS_WRONG and not schedule.paused:
                self._backend.fire(schedule, None, next_due=due)
                _log.warning("schedule %r was too far ahead; was the clock wrong?", schedule.name)

    def fire_due(self, now: float, tell: Callable[..., None]) -> int:
        """Enqueue one job for each schedule that is due; returns how many.

        For any number of missed occurrences one job is enqueued, and the schedule goes on from now: the
        cost does not grow with the gap. Of several processes one enqueues an occurrence.

        :param now: the current time, epoch seconds.
        :param tell: sends a signal; called with the signal and its keywords.
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
        """The next occurrence (epoch seconds). ``None`` if the rule cannot be used here; logged once."""
        try:
            due = decode_rule(schedule.rule).next_after(now)
        except RuleError as error:
            if schedule.name not in self._unusable:
                self._unusable.add(schedule.name)
                _log.error(
                    "schedule %r enqueues nothing here, because its rule cannot be used: %s",
                    schedule.name,
                    error,
                )
            return None
        self._unusable.discard(schedule.name)
        return due


def _occurrence(schedule: ScheduleRecord, now: float) -> NewJob:
    """The job of a due occurrence."""
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
