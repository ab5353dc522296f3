"""What a backend may be able to do besides carrying jobs: answer questions, keep periodic rules.
A part of the contract in ``base``, by which everybody reaches it; the same rules hold."""

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
    """A backend that can be asked about single jobs and told what to do with them."""

    @abstractmethod
    def get(self, job_id: str) -> JobRecord | None:
        """The job as stored, or ``None``."""

    @abstractmethod
    def queues(self, *, now: float) -> list[QueueInfo]:
        """Every queue that holds or held jobs or is paused, by name, until :meth:`forget_queues`."""

    @abstractmethod
    def forget_queues(self) -> int:
        """Forget the queues that hold no job in any state and are not paused, and return how many. It
        reads all jobs: now and then, not at every turn."""

    @abstractmethod
    def list(self, query: JobQuery, *, now: float) -> list[JobRecord]:
        """Jobs that match, the last one that came first (:func:`~flask_delayq.ids.age_key`), at most
        ``query.limit``; ``payload``, ``result`` and ``error`` may be left empty.

        :raises JobNotFoundError: there is no job ``query.before`` (any more), and its id does not tell
            when it came.
        """

    @abstractmethod
    def counts(self, *, now: float) -> dict[str, int]:
        """How many jobs are in each of the six states, by name; all six are present."""

    @abstractmethod
    def cancel(self, job_id: str, *, now: float, reason: str = "") -> StoredState | None:
        """Cancel a job; atomic. Returns its state afterwards, ``None`` if there is no such job.

        A waiting one is cancelled at once, in time independent of how many there are. Of a running one
        only ``cancel_requested`` is set: the task may look at it. Final ones stay as they are.

        :param reason: kept as the error's message, where the job is cancelled at once.
        """

    @abstractmethod
    def revive(self, job_id: str, *, run_at: float) -> StoredState | None:
        """Make a failed or cancelled job wait again, by a person's request; atomic. Returns its state
        *before*, ``None`` if there is no such job; other states are left alone.

        Changes: ``run_at`` and ``enqueued_at`` are that moment, as if it were enqueued then to run at
        once; ``attempt`` and ``rescues`` 0, ``finished_at`` and ``cancel_requested`` cleared, the
        ``error`` kept for reading; ``claim_no`` goes on counting.
        """

    @abstractmethod
    def waiting_tasks(self, *, besides: Collection[str] = ()) -> Sequence[TaskInfo]:
        """The tasks of waiting jobs, by name, without those named in ``besides``. Its cost may grow
        with the number of waiting jobs."""

    @abstractmethod
    def audit(self) -> Sequence[str]:
        """What does not add up in the store, one line each; empty while all is well. It reads the whole
        store: for tests and for a person who asks."""

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

        If one of this name exists: with ``replace=False`` it stays. Otherwise task, payload, queue,
        priority and the other settings are taken over, ``last_due`` and ``paused`` stay as they are.
        Where the rule is unchanged, ``next_due`` stays as well; where it changed, ``generation + 1``
        and the new ``next_due``.
        """

    @abstractmethod
    def schedules(self) -> list[ScheduleRecord]:
        """All schedules, by name."""

    @abstractmethod
    def remove_schedule(self, name: str) -> bool:
        """Delete a schedule; jobs already enqueued stay. False if there was none."""

    @abstractmethod
    def pause_schedule(self, name: str, paused: bool, *, next_due: float | None = None) -> bool:
        """Pause a schedule, or let it go on from ``next_due``. False if there is none."""

    @abstractmethod
    def next_occurrence(self) -> float | None:
        """The earliest ``next_due`` of a schedule that is not paused, or ``None``."""

    @abstractmethod
    def fire(self, schedule: ScheduleRecord, job: NewJob | None, *, next_due: float) -> Enqueued | None:
        """Enqueue one occurrence and move the schedule on; one transaction.

        Happens only if the stored schedule is not paused and still has the ``generation`` and the
        ``next_due`` of ``schedule`` (compare-and-set); otherwise returns ``None`` and changes nothing.
        So of N processes one enqueues, and pruning the job later cannot bring the occurrence back.
        Sets ``last_due`` to the old ``next_due``. With ``job=None`` the occurrence is skipped and
        ``None`` is returned.
        """
