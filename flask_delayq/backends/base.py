"""The contract of every backend: what is eligible, what is atomic, which fields change, which errors.
The docstrings are the specification and ``tests/backends/conformance.py`` is its executable form;
nothing here knows an engine, a thread or Flask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from ..job import (
    Claim,
    ClaimFor,
    Enqueued,
    Health,
    JobQuery,
    JobRecord,
    NewJob,
    Outcome,
    ProcessRecord,
    QueueInfo,
    Renewal,
    Rescue,
    ScheduleRecord,
    Stored,
)

TURN_OF_THE_OLDEST = 8
"""Every so many claims from a queue, the oldest due job goes first whatever its level."""


class Backend(ABC):
    """Where jobs live: the truth about every job, shared by all processes that open the same store.

    Units: moments are epoch seconds (wall time, UTC) and are passed in, durations are seconds. Lease
    ends are the backend's own affair, on a clock that does not step.

    Construction does no I/O; the first verb opens the store. Every verb may be called from any thread
    at any time, also after a fork in the child (which gets connections of its own). Every verb may
    raise :class:`~flask_delayq.errors.BackendUnavailableError` (nothing was done, try again later),
    :class:`~flask_delayq.errors.StoreCorruptError` or
    :class:`~flask_delayq.errors.StoreMismatchError` (a person has to look).
    """

    @abstractmethod
    def enqueue(
        self,
        jobs: Sequence[NewJob],
        *,
        now: float,
        timeout: float,
        max_pending: int | None = None,
        claim_for: ClaimFor | None = None,
    ) -> list[Enqueued]:
        """Store jobs; durable when it returns. One answer per job, in order.

        Atomic: all of them or none. A job whose id is known already with the same task and payload is
        not stored again (``created=False``), so repeating a call is safe; with another task or payload
        the whole call fails. The same rule holds between the jobs of one call.

        :param timeout: seconds within which it returns or raises. An operation that was not begun by
            then is withdrawn.
        :param max_pending: most waiting jobs that one queue may hold, counted exactly and within the
            same transaction; jobs that exist already count once. A job that is claimed in the same
            step counts as well, so that the answer does not depend on who is idle.
        :param claim_for: claim, in the same transaction, up to ``slots`` of the jobs, in the order in
            which :meth:`claim` would take them. A job is claimed only if it was created by this call,
            is due, its queue is not paused and held no other due waiting job before; otherwise it
            waits for any process.
        :raises JobConflictError: an id is taken by another task or payload; nothing was stored.
        :raises QueueFullError: ``max_pending`` would be exceeded; nothing was stored.
        :raises BackendUnavailableError: nothing was stored.
        :raises EnqueueUncertainError: the commit's outcome is unknown.
        """

    @abstractmethod
    def claim(
        self,
        queues: Sequence[str] | None,
        *,
        now: float,
        limit: int,
        owner: str,
        lease: float,
        strict: bool = False,
    ) -> list[Claim]:
        """Take up to ``limit`` due jobs to run them; one transaction.

        Eligible: waiting, ``run_at <= now``, in one of ``queues`` (``None``: any queue) and that queue
        not paused. A job with ``rescues > 0`` is eligible only while no other such job runs anywhere
        in the store, so at most one of them is taken.

        Order within a queue: (priority, run_at, id); every 8th job that this backend object hands out
        from a queue is its oldest due one (run_at, id) whatever the level, unless ``strict``. Queues
        take turns, one job each.

        Changes: state running, ``owner``, lease end, ``claim_no + 1``, ``started_at = now``,
        ``interrupted`` and ``progress`` cleared. ``attempt`` of the claim is the stored one + 1.
        """

    @abstractmethod
    def record(self, outcomes: Sequence[Outcome], *, now: float) -> list[bool]:
        """Write how runs ended; one answer per outcome: whether it was still ours to write.

        Each is a compare-and-set on (running, ``claim.owner``, ``claim.claim_no``): where that does
        not hold the stored job stays as it is and the answer is False. All that hold are committed
        together; one that cannot be stored fails alone (False), never its batch. Durable on return if
        any of them is final.

        Changes by verb (see :data:`~flask_delayq.job.TRANSITIONS`): COMPLETE, FAIL, CANCEL set
        ``attempt``, ``finished_at``, ``result`` or ``error``; RETRY sets ``attempt``, ``run_at``,
        ``error``; SNOOZE sets ``run_at``; RELEASE changes nothing else; all of these clear ``owner``.
        COMPLETE also clears an older ``error``. INTERRUPT sets ``interrupted`` and keeps the job
        running in the owner's name until the owner is gone or writes its end after all. RETRY, SNOOZE
        and RELEASE of a job whose cancel was requested end it as cancelled.
        """

    @abstractmethod
    def renew(self, owner: str, held: Collection[Claim], *, lease: float) -> Renewal:
        """Extend the leases of the claims that this owner still holds in memory; one transaction.

        A running job in the owner's name that is not in ``held`` (same id and ``claim_no``) and was
        claimed or renewed at least a sixth of a lease ago is released in the same turn: it waits
        again, uncharged. (Younger ones may be on their way from the store into memory.)
        """

    @abstractmethod
    def rescue(self, *, now: float, max_rescues: int, limit: int = 100) -> list[Rescue]:
        """Take back up to ``limit`` running jobs whose owner is dead or whose lease has ended.

        The lease ends when its end is reached (``lease end <= clock``). An owner of this host is also
        dead as soon as its process is gone, where the backend can tell.

        Changes: interrupted ones wait again, uncharged. The others get ``rescues + 1`` and wait again
        with ``run_at`` unchanged; if that exceeds ``max_rescues`` it ends as failed with an error that
        says so. A job that says ``fail_on_crash`` fails in either case: its run was cut off, and it
        must not be repeated. If its cancel was requested it is cancelled.
        ``attempt`` is never changed, ``owner`` is cleared. Final states are never touched.
        """

    @abstractmethod
    def next_due(self, queues: Sequence[str] | None) -> float | None:
        """The earliest ``run_at`` of a waiting job in these queues, or ``None``; an index seek.

        Paused queues do not count, nor do jobs that :meth:`claim` would refuse because another
        rescued job runs, so that a caller who finds a moment in the past can claim something.
        """

    @abstractmethod
    def upcoming(
        self, queues: Sequence[str] | None, *, after: float, until: float, limit: int
    ) -> list[tuple[float, str]]:
        """A page of waiting jobs, ``after < run_at <= until``, ordered by (run_at, id): their moments
        and ids. A page never ends inside a moment that it began, so it may be longer than ``limit``."""

    @abstractmethod
    def progress(self, claim: Claim, data: bytes) -> bool:
        """Store what a running job tells of its progress; False if the claim is not ours any more.

        It need not be durable.
        """

    @abstractmethod
    def cancel_requested(self, claim: Claim) -> bool:
        """Whether the running job should stop: its cancel was requested, or the claim is lost."""

    @abstractmethod
    def prune(
        self, *, finished_before: float, failed_before: float, keep: int | None, limit: int = 500
    ) -> int:
        """Delete up to ``limit`` finished jobs and return how many.

        :param finished_before: completed and cancelled ones that finished earlier go.
        :param failed_before: failed ones that finished earlier go.
        :param keep: beyond so many finished jobs of all kinds, the earliest finished completed and
            cancelled ones go first, then failed ones; ``None``: no such bound.
        """

    # --- processes -----------------------------------------------------------------------------

    @abstractmethod
    def announce(self, process: ProcessRecord) -> None:
        """Store or refresh the record of a runtime in this process, and keep a sign of life for it
        that ends with the process, where the backend can."""

    @abstractmethod
    def withdraw(self, owner: str) -> None:
        """Remove the record and the sign of life; a running job still in its name can be rescued at
        once."""

    @abstractmethod
    def processes(self) -> list[ProcessRecord]:
        """All records, oldest first; ``alive`` says whether the process is still there. Records of dead
        processes are dropped by :meth:`rescue` once none of their jobs is running."""

    # --- care ----------------------------------------------------------------------------------

    def open_doorbell(self, owner: str) -> Doorbell | None:
        """The doorbell at which other processes ring for this runtime, or ``None`` where only this
        process can enqueue."""
        return None

    def maintain(self) -> bool:
        """The engine's own upkeep (checkpoints and the like), about once a second; must not hold a
        writer up. True if it should be called again soon, because much is being written."""
        return False

    @abstractmethod
    def health(self) -> Health:
        """Whether the store can be written now; never raises for a store in trouble."""

    @abstractmethod
    def close(self) -> None:
        """Close everything this process has open. Idempotent; a later verb opens the store again."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it is, fit for logs and pages: without password."""


class Inspectable(ABC):
    """A backend that can be asked about single jobs and told what to do with them."""

    @abstractmethod
    def get(self, job_id: str) -> JobRecord | None:
        """The job as stored, or ``None``."""

    @abstractmethod
    def queues(self, *, now: float) -> list[QueueInfo]:
        """Every queue that holds or held jobs or is paused, by name."""

    @abstractmethod
    def list(self, query: JobQuery, *, now: float) -> list[JobRecord]:
        """Jobs that match, newest id first, at most ``query.limit``; ``payload``, ``result`` and
        ``error`` may be left empty."""

    @abstractmethod
    def counts(self, *, now: float) -> dict[str, int]:
        """How many jobs are in each of the six states, by name; all six are present."""

    @abstractmethod
    def cancel(self, job_id: str, *, now: float, reason: str = "") -> Stored | None:
        """Cancel a job; atomic. Returns its state afterwards, ``None`` if there is no such job.

        A waiting one is cancelled at once, in time independent of how many there are. Of a running one
        only ``cancel_requested`` is set: the task may look at it. Final ones stay as they are.

        :param reason: kept as the error's message, where the job is cancelled at once.
        """

    @abstractmethod
    def revive(self, job_id: str, *, run_at: float) -> Stored | None:
        """Make a failed or cancelled job wait again, by a person's wish; atomic. Returns its state
        *before*, ``None`` if there is no such job; other states are left alone.

        Changes: ``attempt`` and ``rescues`` 0, ``finished_at`` and ``cancel_requested`` cleared, the
        ``error`` kept for reading; ``claim_no`` goes on counting.
        """

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


class Doorbell(ABC):
    """Where other processes announce that there may be something to claim. A ring is only a hint."""

    @abstractmethod
    def wait(self, timeout: float | None) -> bool:
        """Block until somebody rings (True), ``timeout`` seconds pass or :meth:`close` is called
        (False). Rings that arrive meanwhile are answered together."""

    @abstractmethod
    def close(self) -> None:
        """Stop listening; a :meth:`wait` under way returns at once. Idempotent."""
