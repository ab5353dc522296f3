"""What must be done again and again: announce this process, rescue, prune, and start what is periodic.
Knows the backend's verbs for these; runs no job."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..backends.base import Backend, Inspectable, Schedulable
from ..clock import Clock
from ..config import Settings
from ..errors import RuleError
from ..ids import new_id
from ..job import NewJob, ProcessRecord, ScheduleRecord, Stored
from ..serializer import decode_rule, encode_rule
from ..signals import job_cancelled, job_enqueued, job_failed, job_rescued
from ..task import TaskRegistry
from .setback import SetBack

_log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two turns."""

SOON = 0.1
"""Seconds until the next turn while the backend wants its upkeep often."""

ANNOUNCE_EVERY = 10.0
"""Seconds between two refreshes of the process record."""

PRUNE_EVERY = 60.0
"""Seconds between two rounds of pruning."""

FORGET_EVERY = 3600.0
"""Seconds between two rounds of forgetting queues without jobs."""

CLOCK_WAS_WRONG = 3 * 3600.0
"""Seconds by which a schedule is too far ahead for a small correction of the clock."""

PRUNE_BATCH = 200
"""Jobs deleted in one step, so that no caller waits long behind it."""

RESCUE_BATCH = 100
"""Jobs taken back in one step, likewise."""


class Maintenance:
    """The upkeep of one runtime.

    :param tell: sends a signal, called with it and its keywords.
    :param judges_as_of: the monotonic moment as of which leases may be judged, ``None``: not now; see
        :class:`~flask_delayq.runtime.renewer.Renewer`.
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
        tell: Callable[..., None],
        owner: str,
        judges_as_of: Callable[[], float | None],
        describe: Callable[[], ProcessRecord],
        on_ready: Callable[[], None],
        on_waiting: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._registry = registry
        self._settings = settings
        self._clock = clock
        self._tell = tell
        self._owner = owner
        self._judges_as_of = judges_as_of
        self._describe = describe
        self._on_ready = on_ready
        self._on_waiting = on_waiting
        self._set_back = SetBack(backend, clock)
        self._unusable: set[str] = set()  # schedules of which that was said
        self._ready = False
        self._announce_at = self._prune_at = self._forget_at = float("-inf")

    def turn(self, now: float) -> float:
        """One turn at a wall moment; returns the seconds to wait for the next one."""
        mono = self._clock.monotonic()
        if mono >= self._announce_at:
            self._backend.announce(self._describe())
            self._announce_at = mono + ANNOUNCE_EVERY
        if not self._ready:
            declare_schedules(self._backend, self._registry, now)
            set_schedules_right(self._backend, now, self._unusable)
            self._prune_at = mono + PRUNE_EVERY
            self._on_ready()
            self._ready = True  # only now: if any of this failed, the next turn tries again
        if self._set_back.turn():
            self._on_waiting()
        all_rescued = self._rescue(now)
        fired = fire_due(self._backend, self._registry, now, self._tell, self._unusable)
        if fired:
            self._on_waiting()
        hurries = self._backend.maintain()
        all_pruned = self._prune(now, mono)
        if not (all_rescued and all_pruned):
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

    def _rescue(self, now: float) -> bool:
        """Take one batch back; True when no more is to be taken back now."""
        as_of = self._judges_as_of()
        rescued = self._backend.rescue(
            now=now,
            max_rescues=self._settings.max_rescues,
            limit=RESCUE_BATCH,
            judge=self._owner,
            leases=as_of is not None,
            asked_at=as_of,
        )
        for one in rescued:
            if one.charged:
                _log.warning(
                    "job %s (%s) was taken back from %s, which died or hung; it is %s now (rescue %d)",
                    one.id,
                    one.task,
                    one.owner,
                    one.state.name.lower(),
                    one.rescues,
                )
            else:
                _log.info("job %s (%s) of %s waits again, uncharged", one.id, one.task, one.owner)
            self._tell(job_rescued, job=one)
            if one.state is Stored.FAILED:
                self._tell(job_failed, job=one, error=None)
            elif one.state is Stored.CANCELLED:
                self._tell(job_cancelled, job=one, reason="")
        if rescued:
            self._on_waiting()
        return len(rescued) < RESCUE_BATCH

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
        set_schedules_right(self._backend, now, self._unusable)
        self._prune_at = mono + PRUNE_EVERY
        if mono >= self._forget_at and isinstance(self._backend, Inspectable):
            self._backend.forget_queues()
            self._forget_at = mono + FORGET_EVERY
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


def set_schedules_right(backend: Backend, now: float, unusable: set[str]) -> None:
    """Take schedules back to the present that a clock years ahead has sent into the future.

    Only those further ahead than :data:`CLOCK_WAS_WRONG`: after a smaller step back the occurrences up
    to the old present have run, and time catches up with them (the rule of Vixie cron).

    :param unusable: the schedules of which it was said that their rule cannot be used.
    """
    if not isinstance(backend, Schedulable):
        return
    for schedule in backend.schedules():
        due = _next_due(schedule, now, unusable)
        # Moved on without a job: of several processes that see it, one does it.
        if due is not None and schedule.next_due - due > CLOCK_WAS_WRONG and not schedule.paused:
            backend.fire(schedule, None, next_due=due)
            _log.warning("schedule %r lay too far ahead; was the clock wrong?", schedule.name)


def _next_due(schedule: ScheduleRecord, now: float, unusable: set[str]) -> float | None:
    """The next occurrence; ``None``, which is said once, if the rule cannot be used here."""
    try:
        due = decode_rule(schedule.rule).next_after(now)
    except RuleError as error:
        if schedule.name not in unusable:
            unusable.add(schedule.name)
            _log.error(
                "schedule %r enqueues nothing here, its rule cannot be used: %s", schedule.name, error
            )
        return None
    unusable.discard(schedule.name)
    return due


def fire_due(
    backend: Backend,
    registry: TaskRegistry,
    now: float,
    tell: Callable[..., None],
    unusable: set[str],
) -> int:
    """Enqueue one job for each schedule that is due; returns how many.

    However many occurrences were missed, one job is enqueued and the schedule goes on from now: its
    cost does not grow with the gap.

    :param unusable: the schedules of which it was said that their rule cannot be used.
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
        next_due = _next_due(schedule, now, unusable)
        if next_due is None:
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
            tell(job_enqueued, job=job)
    return fired
