"""Recurring work: announce this process, rescue, prune, and enqueue occurrences of schedules.
Knows the backend's verbs for these; runs no job."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..backends.base import Backend, Inspectable, Schedulable
from ..clock import Clock
from ..config import Settings
from ..errors import JobFailedError
from ..job import ProcessRecord, StoredState
from ..signals import job_cancelled, job_failed, job_rescued
from ..task import TaskRegistry
from .clock_setback import ClockSetBack
from .foreign_tasks import ForeignTasks
from .periodic import Periodic
from .unknown import UnknownTasks

_log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two turns."""

SOON = 0.1
"""Seconds until the next turn while the backend needs its maintenance often."""

ANNOUNCE_EVERY = 10.0
"""Seconds between two refreshes of the process record."""

PRUNE_EVERY = 60.0
"""Seconds between two rounds of pruning."""

FORGET_EVERY = 3600.0
"""Seconds between two rounds of forgetting queues without jobs."""

PRUNE_BATCH = 200
"""Jobs deleted in one transaction, so that other writers do not wait long."""

RESCUE_BATCH = 100
"""Jobs taken back in one transaction, for the same reason."""


class Maintenance:
    """The maintenance of one runtime.

    :param foreign_tasks: the tasks that this process leaves to others.
    :param tell: sends a signal; called with the signal and its keywords.
    :param judges_as_of: returns the monotonic time for which leases may be judged, ``None``: they may
        not be judged now; see :class:`~flask_delayq.runtime.renewer.Renewer`.
    :param describe: returns the current record of this process.
    :param on_ready: called once, when the process is announced and its schedules are stored.
    :param on_waiting: called when jobs wait of which no dispatcher was told.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        registry: TaskRegistry,
        settings: Settings,
        clock: Clock,
        foreign_tasks: ForeignTasks,
        tell: Callable[..., None],
        owner: str,
        judges_as_of: Callable[[], float | None],
        describe: Callable[[], ProcessRecord],
        on_ready: Callable[[], None],
        on_waiting: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._clock = clock
        self._tell = tell
        self._owner = owner
        self._judges_as_of = judges_as_of
        self._describe = describe
        self._on_ready = on_ready
        self._on_waiting = on_waiting
        self._set_back = ClockSetBack(backend, clock)
        self._periodic = Periodic(backend, registry)
        self._unknown = UnknownTasks(
            backend=backend,
            foreign_tasks=foreign_tasks,
            settings=settings,
            clock=clock,
            owner=owner,
            tell=tell,
        )
        self._ready = False
        self._announce_at = self._prune_at = self._forget_at = float("-inf")

    def turn(self, now: float) -> float:
        """One turn at a wall moment; returns the seconds to wait for the next one."""
        mono = self._clock.monotonic()
        if mono >= self._announce_at:
            self._backend.announce(self._describe())
            self._announce_at = mono + ANNOUNCE_EVERY
        if not self._ready:
            self._periodic.declare(now)
            self._periodic.pull_back(now)
            self._prune_at = mono + PRUNE_EVERY
            self._on_ready()
            self._ready = True  # only now: if any of this failed, the next turn tries again
        if self._set_back.turn():
            self._on_waiting()
        all_rescued = self._rescue(now)
        if self._periodic.fire_due(now, self._tell):
            self._on_waiting()
        hurries = self._backend.maintain()
        all_pruned = self._prune(now, mono)
        self._unknown.turn(now)
        if not (all_rescued and all_pruned):
            return 0.02
        return min(self._pause(now), SOON) if hurries else self._pause(now)

    def _pause(self, now: float) -> float:
        if not isinstance(self._backend, Schedulable):
            return EVERY
        due = self._backend.next_occurrence()
        if due is None:
            return EVERY
        # An occurrence in the past is not ours: its task is unknown here.
        return min(EVERY, due - self._clock.now()) if due > now else EVERY

    def _rescue(self, now: float) -> bool:
        """Take one batch back; True if there is no more to take back now."""
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
            if one.state is StoredState.FAILED:
                why = str(one.failure) if one.failure is not None else None
                self._tell(job_failed, job=one, error=JobFailedError(one.id, "failed", why))
            elif one.state is StoredState.CANCELLED:
                self._tell(job_cancelled, job=one, reason="")
        if rescued:
            self._on_waiting()
        return len(rescued) < RESCUE_BATCH

    def _prune(self, now: float, mono: float) -> bool:
        """Delete one batch if it is time; True if there is no more to delete now."""
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
        self._periodic.pull_back(now)
        self._prune_at = mono + PRUNE_EVERY
        if mono >= self._forget_at and isinstance(self._backend, Inspectable):
            self._backend.forget_queues()
            self._forget_at = mono + FORGET_EVERY
        return True
