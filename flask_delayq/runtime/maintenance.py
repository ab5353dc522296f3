"""What must be done again and again: announce this process, rescue, prune, and start what is periodic.
Knows the backend's verbs for these; runs no job."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from ..backends.base import Backend, Schedulable
from ..clock import Clock
from ..config import Settings
from ..ids import new_id
from ..job import NewJob, ProcessRecord, ScheduleRecord, Stored
from ..serializer import decode_rule, encode_rule
from ..signals import emit, job_cancelled, job_enqueued, job_failed, job_rescued
from ..task import TaskRegistry

_log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two turns."""

SOON = 0.1
"""Seconds until the next turn while the backend wants its upkeep often."""

ANNOUNCE_EVERY = 10.0
"""Seconds between two refreshes of the process record."""

PRUNE_EVERY = 60.0
"""Seconds between two rounds of pruning."""

CLOCK_WAS_WRONG = 3 * 3600.0
"""Seconds by which a schedule is too far ahead for a small correction of the clock."""

PRUNE_BATCH = 200
"""Jobs deleted in one step, so that no caller waits long behind it."""


class Maintenance:
    """The upkeep of one runtime.

    :param describe: this process's record as of now.
    :param on_ready: called once, when the process is announced and its schedules are stored.
    :param on_waiting: called when jobs wait that nobody was told of.
    """

    def __init__(
        self,
        backend: Backend,
        registry: TaskRegistry,
        settings: Settings,
        clock: Clock,
        sender: object,
        describe: Callable[[], ProcessRecord],
        on_ready: Callable[[], None],
        on_waiting: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._registry = registry
        self._settings = settings
        self._clock = clock
        self._sender = sender
        self._describe = describe
        self._on_ready = on_ready
        self._on_waiting = on_waiting
        self._ready = False
        self._announce_at = self._prune_at = float("-inf")

    def turn(self, now: float) -> float:
        """One turn at a wall moment; returns the seconds to wait for the next one."""
        mono = self._clock.monotonic()
        if mono >= self._announce_at:
            self._backend.announce(self._describe())
            self._announce_at = mono + ANNOUNCE_EVERY
        if not self._ready:
            declare_schedules(self._backend, self._registry, now)
            set_schedules_right(self._backend, now)
            self._prune_at = mono + PRUNE_EVERY
            self._on_ready()
            self._ready = True  # only now: if any of this failed, the next turn tries again
        self._rescue(now)
        fired = fire_due(self._backend, self._registry, now, self._sender)
        if fired:
            self._on_waiting()
        hurries = self._backend.maintain()
        if not self._prune(now, mono):
            return 0.02
        return min(self._pause(now), SOON) if hurries else self._pause(now)

    def _pause(self, now: float) -> float:
        if not isinstance(self._backend, Schedulable):
            return EVERY
        due = self._backend.next_occurrence()
        if due is None:
            return EVERY
        # One that is past is not ours to start (its task is unknown here).
        return min(EVERY, due - self._clock.now()) if due > now else EVERY

    def _rescue(self, now: float) -> None:
        rescued = self._backend.rescue(now=now, max_rescues=self._settings.max_rescues)
        for one in rescued:
            if one.rescues:
                _log.warning(
                    "job %s (%s) was taken back from %s, which died or hung; it is %s now (rescue %d)",
                    one.id,
                    one.task,
                    one.owner,
                    one.state.name.lower(),
                    one.rescues,
                )
            else:
                _log.info("job %s (%s) was interrupted by a stop and waits again", one.id, one.task)
            emit(job_rescued, self._sender, job=one)
            if one.state is Stored.FAILED:
                emit(job_failed, self._sender, job=one, error=None)
            elif one.state is Stored.CANCELLED:
                emit(job_cancelled, self._sender, job=one, reason="")
        if rescued:
            self._on_waiting()

    def _prune(self, now: float, mono: float) -> bool:
        """Delete one batch if it is time; True when nothing more is to be deleted now."""
        if mono < self._prune_at:
            return True
        settings = self._settings
        deleted = self._backend.prune(
            finished_before=now - settings.retention,
            failed_before=now - settings.retention_failed,
            keep=settings.retention_count,
            limit=PRUNE_BATCH,
        )
        if deleted >= PRUNE_BATCH:
            return False
        set_schedules_right(self._backend, now)
        self._prune_at = mono + PRUNE_EVERY
        return True


def declare_schedules(backend: Backend, registry: TaskRegistry, now: float) -> None:
    """Bring the stored schedules in line with the tasks that are periodic by their decorator.

    A schedule whose task is registered here without a rule any more is removed; one whose task is
    unknown here may belong to other code on the same store and is left alone.
    """
    if not isinstance(backend, Schedulable):
        return
    for task in registry:
        rule = task.declared.rule
        if rule is None:
            continue
        payload, _ = task.arguments.encode((), {})
        backend.put_schedule(
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
    for schedule in backend.schedules():
        if not schedule.from_code:
            continue
        known = registry.find(schedule.name)
        if known is not None and (known.declared.rule is None or known.name != schedule.name):
            backend.remove_schedule(schedule.name)


def set_schedules_right(backend: Backend, now: float) -> None:
    """Take schedules back to the present that a clock years ahead has sent into the future.

    Only those further ahead than :data:`CLOCK_WAS_WRONG`: after a smaller step back the occurrences up
    to the old present have run, and time catches up with them (the rule of Vixie cron).
    """
    if not isinstance(backend, Schedulable):
        return
    for schedule in backend.schedules():
        try:
            due = decode_rule(schedule.rule).next_after(now)
        except (msgspec.MsgspecError, ValueError):
            continue
        # Moved on without a job: of several processes that see it, one does it.
        if schedule.next_due - due > CLOCK_WAS_WRONG and not schedule.paused:
            backend.fire(schedule, None, next_due=due)
            _log.warning("schedule %r lay too far ahead; was the clock wrong?", schedule.name)


def fire_due(backend: Backend, registry: TaskRegistry, now: float, sender: object) -> int:
    """Enqueue one job for each schedule that is due; returns how many.

    However many occurrences were missed, one job is enqueued and the schedule goes on from now: its
    cost does not grow with the gap.
    """
    if not isinstance(backend, Schedulable):
        return 0
    first = backend.next_occurrence()
    if first is None or first > now:
        return 0
    fired = 0
    for schedule in backend.schedules():
        if schedule.paused or schedule.next_due > now or registry.find(schedule.task) is None:
            continue
        try:
            next_due = decode_rule(schedule.rule).next_after(now)
        except (msgspec.MsgspecError, ValueError):
            _log.exception("the rule of schedule %r cannot be read", schedule.name)
            continue
        job = NewJob(
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
        if backend.fire(schedule, job, next_due=next_due) is not None:
            fired += 1
            emit(job_enqueued, sender, job=job)
    return fired
