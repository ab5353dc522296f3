"""Jobs whose task is not registered here: logs them once, and fails them after a long time.
Knows the backend's verbs and the records of other processes; runs no job."""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec.structs import replace

from ..backends.base import Backend, Inspectable
from ..clock import Clock
from ..config import Settings
from ..errors import JobFailedError
from ..job import Failure, Outcome, TaskInfo, Verb
from ..serializer import encode_failure
from ..signals import job_failed
from ..texts import visible
from .foreign_tasks import ForeignTasks
from .peers import Peer, living

_log = logging.getLogger(__name__)

LOOK_EVERY = 60.0
"""Seconds between two queries, after the first unknown task came."""

GRACE = 3600.0
"""Seconds for which a process looks for one that knows the task before it fails jobs: after a long
outage that process may be the last one to start."""

REMEDY = "import its module where the app is made, or restart what runs jobs if it came with a deploy"
"""What a person can do about such a task."""

BATCH = 100
"""Jobs failed in one step."""


class UnknownTasks:
    """Handles the jobs that this process leaves to others.

    They never fail because *this* process does not know their task. They fail when they have been
    due for ``DELAYQ_UNKNOWN_TASK_TIMEOUT`` and no living process knows the task.

    :param tell: sends a signal, after the change is stored.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        foreign_tasks: ForeignTasks,
        settings: Settings,
        clock: Clock,
        owner: str,
        tell: Callable[..., None],
    ) -> None:
        self._backend = backend
        self._foreign_tasks = foreign_tasks
        self._settings = settings
        self._timeout = settings.unknown_task_timeout
        self._clock = clock
        self._owner = owner
        self._tell_of = tell
        self._look_at = float("-inf")
        self._since: float | None = None
        self._logged: dict[str, bool] = {}

    def turn(self, now: float) -> None:
        """Check these jobs, if it is time.

        :param now: the current time, epoch seconds.
        """
        tasks = self._foreign_tasks.tasks
        mono = self._clock.monotonic()
        if tasks is None or mono < self._look_at or not isinstance(self._backend, Inspectable):
            return
        self._look_at = mono + min(LOOK_EVERY, self._timeout)
        if self._since is None:
            self._since = mono
        patient = mono - self._since < min(GRACE, self._timeout)
        waiting = self._backend.waiting_tasks(besides=tasks)
        if not waiting:
            return
        others = [peer for peer in living(self._backend.processes()) if peer.owner != self._owner]
        for task in waiting:
            knowing = [peer for peer in others if peer.may_know(task.name)]
            self._tell(task, knowing)
            if not knowing and not patient and task.oldest <= now - self._timeout:
                self._give_up(task.name, now)

    def _tell(self, task: TaskInfo, knowing: list[Peer]) -> None:
        """Log one line per task, and another one when a process that knows it starts or ends."""
        known = bool(knowing)
        if self._logged.get(task.name) is known:
            return
        self._logged[task.name] = known
        if known:
            _log.info("jobs of task %r are left to %s", task.name, visible(str(knowing[0])))
        else:
            _log.warning(
                "no process knows task %r: neither this one nor another one that runs jobs of this "
                "store has it registered; %s. %d of its jobs wait, and fail %.0f s after they were due",
                task.name,
                REMEDY,
                task.waiting,
                self._timeout,
            )

    def _give_up(self, task: str, now: float) -> None:
        """Fail the jobs of a task that have been due for too long."""
        told = f"no process knows task {task!r}; the job had been due for {self._timeout:.0f} s"
        failure = Failure("TaskNotFoundError", told)
        error = encode_failure(failure)
        while True:
            claims = self._backend.claim(
                self._settings.queues,
                now=now - self._timeout,
                limit=BATCH,
                owner=self._owner,
                lease=self._settings.lease,
                tasks=(task,),
            )
            # A run that did not happen does not count.
            unrun = [replace(claim, attempt=claim.attempt - 1) for claim in claims]
            outcomes = [Outcome(claim, Verb.FAIL, now, error=error) for claim in unrun]
            written = self._backend.record(outcomes, now=now)
            given_up = [claim for claim, done in zip(claims, written, strict=True) if done]
            if given_up:
                _log.error("%d jobs failed: no process knows their task %r", len(given_up), task)
            for claim in given_up:
                why = JobFailedError(claim.id, "failed", str(failure))
                self._tell_of(job_failed, job=claim, error=why)
            if len(claims) < BATCH:
                return
