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
    NewJob,
    Outcome,
    ProcessRecord,
    Renewal,
    Rescue,
)
from .capabilities import Inspectable, Schedulable

__all__ = ["LONGEST_WAIT", "TURN_OF_THE_OLDEST", "Backend", "Doorbell", "Inspectable", "Schedulable"]

LONGEST_WAIT = 5.0
"""Seconds that a verb without a ``timeout`` parameter waits at most for other writers."""

TURN_OF_THE_OLDEST = 8
"""Every this-many-th job of a queue is its oldest due one, whatever its level."""


class Backend(ABC):
    """Stores jobs. It is the truth about every job, shared by all processes that open the same store.

    Units: times are epoch seconds (wall time, UTC) and are passed in; durations are seconds. The
    backend keeps lease ends on its own clock, which does not step.

    Construction does no I/O; the first verb opens the store. Every verb may be called from any thread
    at any time, also after a fork in the child (which gets its own connections). Every verb may
    raise :class:`~flask_delayq.errors.BackendUnavailableError` (nothing was done, try again later),
    :class:`~flask_delayq.errors.StoreCorruptError` or
    :class:`~flask_delayq.errors.StoreMismatchError` (a person must repair it).
    """

    @abstractmethod
    def enqueue(
        self,
        jobs: Sequence[NewJob],
        *,
        now: float,
        timeout: float,
        max_pending: int | None = None,
        max_pending_total: int | None = None,
        claim_for: ClaimFor | None = None,
    ) -> list[Enqueued]:
        """Store jobs; durable when it returns. Returns one result per job, in order.

        Atomic: all of them or none. Idempotent: if a job with the same id, task and payload exists,
        it is not stored again (``created=False``). If the task or payload differs, the whole call
        fails. The same rule holds between the jobs of one call.

        :param jobs: at least one, each with its id, times and encoded arguments.
        :param now: the current time, epoch seconds.
        :param timeout: seconds within which it returns or raises. An operation that was not begun by
            then is withdrawn. A stored one may take longer if this process must copy an engine's log
            that has become much too long.
        :param max_pending: maximum number of waiting jobs in one queue, counted exactly and in the
            same transaction; jobs that exist already count once. A job that this call also claims
            counts as well, so that the result does not depend on idle workers. The cost does not
            depend on the number of waiting jobs, except for the first call with a limit on a store.
        :param max_pending_total: the same for all queues together.
        :param claim_for: also claim up to ``slots`` of the jobs, in the same transaction, in the order
            of :meth:`claim`. A job is claimed only if this call created it, it is due, its queue is not
            paused and had no other due waiting job (not counting suspects, see :meth:`rescue`), and
            its owner may still claim (:meth:`end_claims`). Otherwise it waits for any process.
        :raises JobConflictError: an id belongs to another task or payload; nothing was stored.
        :raises QueueFullError: ``max_pending`` (then it names the queue) or ``max_pending_total`` would
            be exceeded; nothing was stored.
        :raises BackendUnavailableError: nothing was stored.
        :raises EnqueueUncertainError: it is unknown whether the commit succeeded.
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
        tasks: Collection[str] | None = None,
    ) -> list[Claim]:
        """Take up to ``limit`` due jobs to run them; one transaction.

        Eligible: waiting, ``run_at <= now``, in one of ``queues`` (``None``: any queue) and that queue
        not paused, its task one of ``tasks`` (``None``: any task). The cost does not depend on
        the number of waiting jobs of other tasks, except for the first call with ``tasks``: then an
        engine may order the jobs by task. A suspect (see :meth:`rescue`) is eligible only while
        ``owner`` runs no other suspect, so a call takes at most one.

        Order within a queue: (priority, run_at, id). Every 8th job that this backend object returns
        from a queue is its oldest due one (run_at, id) whatever the level, unless ``strict``. Queues
        take turns, one job each.

        Changes: state running, ``owner``, lease end, ``claim_no + 1``, ``started_at = now``,
        ``interrupted`` and ``progress`` cleared. ``attempt`` of the claim is the stored one + 1.

        The lease begins inside the transaction, after the jobs were chosen (see ``Claim.leased_at``), so
        waiting for the store does not shorten it.

        After :meth:`end_claims` the owner gets nothing.

        :param queues: names of the queues to claim from; ``None``: all.
        :param now: the current time, epoch seconds.
        :param limit: maximum number of jobs; at least 1.
        :param owner: id of the runtime that is going to run them.
        :param lease: seconds until they may be taken back, unless renewed.
        :param strict: never prefer the oldest job of a lower level.
        :param tasks: names of the tasks to claim jobs of; ``None``: all.
        :returns: the claims, in order; empty if no job is eligible.
        """

    @abstractmethod
    def end_claims(self, owner: str) -> None:
        """Claim nothing more for this owner, permanently; no I/O, never raises.

        :meth:`claim` and the claiming half of :meth:`enqueue` check this inside the transaction. So a
        call that began before and still waits for the store claims nothing either. The owner keeps its
        claims, and may record, renew and withdraw. This must hold only for this object
        (a runtime has one backend) and its lifetime.
        """

    @abstractmethod
    def record(self, outcomes: Sequence[Outcome], *, now: float) -> list[bool]:
        """Write how runs ended; returns for each outcome whether its claim was current.

        Each is a compare-and-set on (running, ``claim.owner``, ``claim.claim_no``): if it does
        not match, the stored job is not changed and the result is False. All that match are committed
        together. An outcome that cannot be stored fails alone (False), not its batch. Durable on return
        if any of them is final.

        Changes by verb (see :data:`~flask_delayq.job.TRANSITIONS`): COMPLETE, FAIL, CANCEL set
        ``attempt``, ``finished_at``, ``result`` or ``error``; RETRY sets ``attempt``, ``run_at``,
        ``error``; SNOOZE sets ``run_at``; RELEASE changes nothing else; all of these clear ``owner``.
        RETRY and SNOOZE set ``rescues`` to 0: the run has not crashed its process.
        COMPLETE also clears an older ``error``. INTERRUPT sets ``interrupted``; the job stays
        running, with its owner, until the owner is gone or records an outcome after all. RETRY, SNOOZE
        and RELEASE of a job whose cancel was requested end it as cancelled.

        :param outcomes: how each run ended, with its claim.
        :param now: the current time, epoch seconds.
        """

    def mark_begun(self, claim: Claim) -> None:
        """Mark a claim as begun: from now on code of the task may run, also to decode its arguments.
        The caller checks only after this that the claim is young enough to begin.

        Never raises, never waits and changes nothing in the store. If a backend can find out after a
        crash which claims were marked, it charges only these; by default every claim counts as begun.
        """
        return

    def unmark_begun(self, claim: Claim) -> None:
        """Remove the mark of a claim: none of its code ran, or it may run again, uncharged. Never raises
        and never waits, also for a claim without a mark.
        """
        return

    @abstractmethod
    def renew(
        self, owner: str, held: Collection[Claim], *, lease: float, asked_at: float | None = None
    ) -> Renewal:
        """Extend the leases of the claims that this owner still holds in memory; one transaction.

        A running job of this owner that is not in ``held`` (same id and ``claim_no``) and was
        claimed or renewed at least a sixth of a lease ago is released in the same transaction: it waits
        again, uncharged. (The answer to a younger claim may not have arrived yet.) An interrupted
        job is kept and its lease extended, because its run may go on in an abandoned thread.

        If this returns, the store can be written, even if there was nothing to renew.

        :param owner: id of the runtime that holds the claims.
        :param held: every claim that it holds.
        :param lease: seconds from ``asked_at`` until they may be taken back.
        :param asked_at: a monotonic time from before ``held`` was collected; new leases and the
            ages of the other jobs count from it. ``None``: now.
        """

    @abstractmethod
    def rescue(
        self,
        *,
        now: float,
        max_rescues: int,
        limit: int = 100,
        judge: str | None = None,
        leases: bool = True,
        asked_at: float | None = None,
    ) -> list[Rescue]:
        """Take back up to ``limit`` running jobs whose owner is dead or whose lease has ended.

        A lease has ended if ``lease end <= clock``. An owner on this host is also dead as soon as its
        process is gone, if the backend can find that out.

        :param now: the current time, epoch seconds.
        :param max_rescues: maximum number of charges; a job with one more fails.
        :param limit: maximum number of jobs to take back in this call.
        :param judge: the calling owner: a runtime never takes back its own jobs.
        :param leases: ``False``: only jobs of owners that are certainly dead. A caller that could not
            renew its own leases must not judge the leases of others.
        :param asked_at: the monotonic time for which leases are judged; ``None``: now. It is the time at
            which the caller checked that it may judge; the caller may be suspended after that.

        Changes: jobs that had not begun, if the backend knows that (:meth:`mark_begun`), wait again,
        uncharged, with ``run_at`` unchanged; so do interrupted jobs. The others get ``rescues + 1`` and
        wait again; if that exceeds ``max_rescues``, the job ends as failed with an error of type
        ``Crashed``. A job with ``fail_on_crash`` that had begun always fails: its run was interrupted,
        and it must not be repeated. If its cancel was requested, it is cancelled. ``attempt`` is never
        changed, ``owner`` is cleared. Final states are never changed.

        A job charged twice in a row (once, if ``max_rescues`` is 1 or 0) is a suspect: from now on
        its owner runs no other suspect at the same time, so that a poison job cannot charge its
        neighbours until they fail. :func:`~.crashes.verdict_of` decides what happens to each job.
        """

    @abstractmethod
    def next_due(
        self,
        queues: Sequence[str] | None,
        *,
        owner: str = "",
        tasks: Collection[str] | None = None,
    ) -> float | None:
        """The earliest ``run_at`` of a waiting job in these queues and of these tasks, or ``None``; an
        index seek.

        Paused queues do not count, nor do suspects while ``owner`` runs one. So if the result is in
        the past, the caller can claim something.

        :param queues: names of the queues; ``None``: all.
        :param owner: id of the calling runtime.
        :param tasks: names of the tasks; ``None``: all.
        :returns: epoch seconds.
        """

    @abstractmethod
    def upcoming(
        self,
        queues: Sequence[str] | None,
        *,
        after: float,
        until: float,
        limit: int,
        tasks: Collection[str] | None = None,
    ) -> list[tuple[float, str]]:
        """A page of waiting jobs of these queues and tasks, ``after < run_at <= until``, ordered by
        (run_at, id): their ``run_at`` and ids. Jobs with the same ``run_at`` are on the same page, so a
        page may be longer than ``limit``.

        :param queues: names of the queues; ``None``: all.
        :param after: epoch seconds, exclusive; the last ``run_at`` of the previous page.
        :param until: epoch seconds, inclusive.
        :param limit: number of jobs after which the page ends.
        :param tasks: names of the tasks; ``None``: all.
        """

    @abstractmethod
    def bring_forward(self, *, now: float, ahead: float = 0.0) -> int:
        """After the wall clock was set back: make jobs due at ``now`` that were due when they were
        enqueued, but are more than ``ahead`` seconds in the future by this clock. Returns how many.

        Eligible: waiting, ``now + ahead < run_at <= enqueued_at``, and the latest run, if any, did not
        end with RETRY or SNOOZE. Changes only ``run_at``. Jobs that were enqueued for a later time keep
        it. Not one transaction.

        :param now: the current time, epoch seconds.
        :param ahead: seconds.
        """

    @abstractmethod
    def progress(self, claim: Claim, data: bytes) -> bool:
        """Store the progress of a running job; False if the claim is no longer current.

        It need not be durable.

        :param claim: the claim of the run.
        :param data: a JSON object, as it is shown.
        """

    @abstractmethod
    def cancel_requested(self, claim: Claim) -> bool:
        """Whether the running job should stop: its cancel was requested, or the claim is lost."""

    @abstractmethod
    def prune(
        self, *, finished_before: float, failed_before: float, keep: int | None, limit: int = 500
    ) -> int:
        """Delete up to ``limit`` finished jobs and return how many.

        :param finished_before: delete completed and cancelled jobs that finished earlier (epoch
            seconds).
        :param failed_before: delete failed jobs that finished earlier (epoch seconds).
        :param keep: maximum number of finished jobs to keep. If there are more, delete completed and
            cancelled jobs first, then failed ones, the earliest first. ``None``: no maximum.
        :param limit: maximum number of jobs to delete in this call.
        """

    # --- processes -----------------------------------------------------------------------------

    @abstractmethod
    def announce(self, process: ProcessRecord) -> None:
        """Store or refresh the record of a runtime in this process and, if the backend can, keep a sign
        of life (a lock) that ends with the process. Does nothing for an owner that has withdrawn
        or was let go: the call of another thread may be late."""

    @abstractmethod
    def withdraw(self, owner: str) -> None:
        """The owner runs nothing any more. One transaction, then its sign of life ends.
        If another thread may still claim for the owner, call :meth:`end_claims` first.

        Removes the record, and releases the running jobs of the owner, because they have not
        begun: they wait again, uncharged, or are cancelled if that was requested. A job that is marked
        as interrupted has begun; it waits again as well, but with ``fail_on_crash`` it
        fails, as in :meth:`rescue`. If this raises, the sign of life ends nevertheless, and other
        processes rescue the jobs.
        """

    def let_go(self, owner: str) -> None:
        """End the owner's sign of life, if there is one, and write nothing: as if its process had
        died. Never raises."""
        return

    @abstractmethod
    def processes(self) -> list[ProcessRecord]:
        """All records, oldest first; ``alive`` says whether the process still exists. :meth:`rescue`
        deletes the record of a dead process when none of its jobs is running."""

    # --- upkeep --------------------------------------------------------------------------------

    def open_doorbell(self, owner: str) -> Doorbell | None:
        """The doorbell by which other processes wake this runtime, or ``None`` if only this
        process can enqueue."""
        return None

    def maintain(self) -> bool:
        """The engine's maintenance (such as checkpoints), about once a second; must not delay
        writers. True if it should be called again soon, because much is being written."""
        return False

    @abstractmethod
    def health(self, *, probe: bool = True) -> Health:
        """Whether the store can be written now; never raises for a store in trouble.

        :param probe: try it, which may open the store and wait up to a second for others that write.
            Without it the answer comes at once, from what a look and the last write tell: nobody is
            waited for. In neither case a store is created that is not there yet.
        """

    @abstractmethod
    def close(self) -> None:
        """Close everything this process has open. Idempotent; a later verb opens the store again."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Its URL for logs and pages: without password."""


class Doorbell(ABC):
    """Other processes ring it when there may be something to claim. A ring is only a hint."""

    @abstractmethod
    def wait(self, timeout: float | None) -> bool:
        """Block until it is rung (True), ``timeout`` seconds pass or :meth:`close` is called
        (False). Several rings count as one."""

    @abstractmethod
    def close(self) -> None:
        """Stop listening; a current :meth:`wait` returns at once. Idempotent."""
