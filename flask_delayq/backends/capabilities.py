"""Optional capabilities of a backend: inspection and control of jobs, and schedules.
A part of the contract in ``base``, which exports it; the same rules hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from ..job import (
    Enqueued,
    JobQuery,
    JobRecord,
    NewJob,
    QueueInfo,
    ScheduleRecord,
    StoredState,
    TaskInfo,
)


class Inspectable(ABC):
    """A backend that can show and control single jobs and queues."""

    @abstractmethod
    def get(self, job_id: str) -> JobRecord | None:
        """The job as stored, or ``None``."""

    @abstractmethod
    def queues(self, *, now: float) -> list[QueueInfo]:
        """Every queue that has or had jobs or is paused, by name, until :meth:`forget_queues`."""

    @abstractmethod
    def forget_queues(self) -> int:
        """Forget the queues that have no job in any state and are not paused, and return how many. It
        reads all jobs, so call it rarely."""

    @abstractmethod
    def list(self, query: JobQuery, *, now: float) -> list[JobRecord]:
        """Jobs that match, the last enqueued first (:func:`~flask_delayq.ids.age_key`), at most
        ``query.limit``; ``payload``, ``result`` and ``error`` may be empty.

        :raises JobNotFoundError: the job ``query.before`` does not exist, and its id does not begin with
            its time.
        """

    @abstractmethod
    def counts(self, *, now: float) -> dict[str, int]:
        """The number of jobs in each of the six states, by name; all six are keys."""

    @abstractmethod
    def cancel(self, job_id: str, *, now: float, reason: str = "") -> StoredState | None:
        """Cancel a job; atomic. Returns its state afterwards, ``None`` if there is no such job.

        A waiting job is cancelled at once, in time independent of their number. For a running job
        only ``cancel_requested`` is set: the task may check it. Final jobs are not changed.

        :param now: the current time, epoch seconds.
        :param reason: stored as the error's message, if the job is cancelled at once.
        """

    @abstractmethod
    def revive(self, job_id: str, *, run_at: float) -> StoredState | None:
        """Make a failed or cancelled job wait again, because a person asked for it; atomic. Returns its
        state *before*, ``None`` if there is no such job; jobs in other states are not changed.

        Changes: ``enqueued_at = run_at``, as if it were enqueued then to run at once; ``attempt`` and
        ``rescues`` 0; ``finished_at`` and ``cancel_requested`` cleared. ``error`` is kept for people;
        ``claim_no`` is kept.

        :param run_at: when it is due, epoch seconds.
        """

    @abstractmethod
    def waiting_tasks(self, *, besides: Collection[str] = ()) -> Sequence[TaskInfo]:
        """The tasks of waiting jobs, by name, without those named in ``besides``. Its cost may grow
        with the number of waiting jobs."""

    @abstractmethod
    def audit(self) -> Sequence[str]:
        """Inconsistencies in the store, one line each; empty if there are none. It reads the whole
        store: for tests and for ``flask delayq check``."""

    @abstractmethod
    def pause(self, queue: str) -> None:
        """Claim nothing more from the queue, in every process; running jobs go on."""

    @abstractmethod
    def resume(self, queue: str) -> None:
        """Undo :meth:`pause`."""

    @abstractmethod
    def purge(self, queue: str, *, now: float, limit: int = 1000) -> int:
        """Cancel up to ``limit`` waiting jobs of the queue and return how many."""


class Schedulable(ABC):
    """A backend that keeps periodic rules."""

    @abstractmethod
    def put_schedule(self, schedule: ScheduleRecord, *, replace: bool = True) -> ScheduleRecord:
        """Store a schedule by name and return what is stored now; atomic.

        If one of this name exists: with ``replace=False`` it is not changed. Otherwise task, payload,
        queue, priority and the other settings are replaced; ``last_due`` and ``paused`` are kept.
        If the rule is unchanged, ``next_due`` is kept as well; if it changed, the stored schedule gets
        ``generation + 1`` and the new ``next_due``.
        """

    @abstractmethod
    def schedules(self) -> list[ScheduleRecord]:
        """All schedules, by name."""

    @abstractmethod
    def remove_schedule(self, name: str) -> bool:
        """Delete a schedule; jobs already enqueued stay. False if there was none."""

    @abstractmethod
    def pause_schedule(self, name: str, paused: bool, *, next_due: float | None = None) -> bool:
        """Pause a schedule, or resume it from ``next_due`` (epoch seconds). False if there is none."""

    @abstractmethod
    def next_occurrence(self) -> float | None:
        """The earliest ``next_due`` of a schedule that is not paused, or ``None``."""

    @abstractmethod
    def fire(self, schedule: ScheduleRecord, job: NewJob | None, *, next_due: float) -> Enqueued | None:
        """Enqueue one occurrence and set the schedule to the next one; one transaction.

        This happens only if the stored schedule is not paused and still has the ``generation`` and the
        ``next_due`` of ``schedule`` (compare-and-set); otherwise it returns ``None`` and changes
        nothing. So only one of N processes enqueues it, and it is not enqueued again after its job
        was pruned. Sets ``last_due`` to the old ``next_due``. With ``job=None`` the occurrence is
        skipped and ``None`` is returned.
        """
