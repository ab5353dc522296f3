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
"""Seconds that a verb without a timeout of its own waits for other writers at most."""

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
        max_pending_total: int | None = None,
        claim_for: ClaimFor | None = None,
    ) -> list[Enqueued]:
        """Store jobs; durable when it returns. One answer per job, in order.

        Atomic: all of them or none. A job whose id is known already with the same task and payload is
        not stored again (``created=False``), so repeating a call is safe; with another task or payload
        the whole call fails. The same rule holds between the jobs of one call.

        :param jobs: at least one, each with its id, moments and encoded arguments.
        :param now: the present moment, epoch seconds.
        :param timeout: seconds within which it returns or raises. An operation that was not begun by
            then is withdrawn. One that was stored may take longer where the engine's log has become
            much too long, and this process has to copy it.
        :param max_pending: most waiting jobs that one queue may hold, counted exactly and within the
            same transaction; jobs that exist already count once. A job that is claimed in the same
            step counts as well, so that the answer does not depend on who is idle. What it costs does
            not depend on how many wait, but for the first call with a limit on a store, which counts.
        :param max_pending_total: the same for all queues together.
        :param claim_for: claim, in the same transaction, up to ``slots`` of the jobs, in the order in
            which :meth:`claim` would take them. A job is claimed only if it was created by this call,
            is due, its queue is not paused and held no other due waiting job before, suspects (see
            :meth:`rescue`) aside, and its owner may still claim (:meth:`end_claims`); otherwise it
            waits for any process.
        :raises JobConflictError: an id is taken by another task or payload; nothing was stored.
        :raises QueueFullError: ``max_pending`` (then it names the queue) or ``max_pending_total`` would
            be exceeded; nothing was stored.
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
        tasks: Collection[str] | None = None,
    ) -> list[Claim]:
        """Take up to ``limit`` due jobs to run them; one transaction.

        Eligible: waiting, ``run_at <= now``, in one of ``queues`` (``None``: any queue) and that queue
        not paused, its task one of ``tasks`` (``None``: any task). What a call costs does not depend on
        how many jobs of other tasks wait, but for the first call that names tasks: an engine may order
        the jobs by task then. A suspect (see :meth:`rescue`) is eligible only while no other one runs in
        the name of ``owner``, so at most one of them is taken.

        Order within a queue: (priority, run_at, id); every 8th job that this backend object hands out
        from a queue is its oldest due one (run_at, id) whatever the level, unless ``strict``. Queues
        take turns, one job each.

        Changes: state running, ``owner``, lease end, ``claim_no + 1``, ``started_at = now``,
        ``interrupted`` and ``progress`` cleared. ``attempt`` of the claim is the stored one + 1.

        The lease begins inside the transaction, once it is known what is taken, and the claim says when
        (``Claim.leased_at``): the wait for the store takes nothing from it.

        An owner that was told to claim no more gets nothing, see :meth:`end_claims`.

        :param queues: names of the queues to claim from; ``None``: all.
        :param now: the present moment, epoch seconds.
        :param limit: most jobs to take; at least 1.
        :param owner: id of the runtime that is going to run them.
        :param lease: seconds until they may be taken back, unless renewed.
        :param strict: the oldest job of a lower level never goes first.
        :param tasks: names of the tasks to claim jobs of; ``None``: all.
        :returns: the claims, in order; empty where nothing is eligible.
        """

    @abstractmethod
    def end_claims(self, owner: str) -> None:
        """Claim nothing more for this owner, for good; no I/O, and it never raises.

        It is looked at inside the transaction, by :meth:`claim` and by the claiming half of
        :meth:`enqueue`: one that began before and waits for the store claims nothing either. What the
        owner holds it keeps, and may record, renew and withdraw. It need hold only for this object
        (a runtime has one backend), and as long as this object lives.
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
        RETRY and SNOOZE set ``rescues`` to 0: the run has not crashed its process.
        COMPLETE also clears an older ``error``. INTERRUPT sets ``interrupted`` and keeps the job
        running in the owner's name until the owner is gone or writes its end after all. RETRY, SNOOZE
        and RELEASE of a job whose cancel was requested end it as cancelled.

        :param outcomes: how each run ended, with the claim that it had.
        :param now: the present moment, epoch seconds.
        """

    def mark_begun(self, claim: Claim) -> None:
        """From now on code of the task may be running in this claim, be it to restore its arguments.
        Whoever calls it makes sure only then that the claim is young enough to begin.

        Never raises, waits for nobody and changes nothing in the store. A backend that can tell after a
        crash which claims were marked charges these alone; by default whatever was claimed had begun.
        """
        return

    def unmark_begun(self, claim: Claim) -> None:
        """Take the mark of a claim back: nothing of it ran, or it may run again, uncharged. As harmless
        as :meth:`mark_begun`, also for a claim without a mark.
        """
        return

    @abstractmethod
    def renew(
        self, owner: str, held: Collection[Claim], *, lease: float, asked_at: float | None = None
    ) -> Renewal:
        """Extend the leases of the claims that this owner still holds in memory; one transaction.

        A running job in the owner's name that is not in ``held`` (same id and ``claim_no``) and was
        claimed or renewed at least a sixth of a lease ago is released in the same turn: it waits
        again, uncharged. (Younger ones may be on their way from the store into memory.) An interrupted
        one is kept and its lease extended: its run may be going on in a thread that was given up.

        That it returns proves that the store can be written, also with nothing to renew.

        :param owner: id of the runtime that holds the claims.
        :param held: every claim that it holds.
        :param lease: seconds from ``asked_at`` until they may be taken back.
        :param asked_at: a monotonic moment before ``held`` was put together; the new leases and the
            ages of the others count from it. ``None``: now.
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

        The lease ends when its end is reached (``lease end <= clock``). An owner of this host is also
        dead as soon as its process is gone, where the backend can tell.

        :param now: the present moment, epoch seconds.
        :param max_rescues: charges that a job may have; with one more it fails.
        :param limit: most jobs to take back in this call.
        :param judge: the owner who asks: a runtime never takes its own jobs back.
        :param leases: ``False``: only jobs of owners that are dead for certain; ends of leases mean
            nothing to a caller that could not renew its own (who could not renew may not judge).
        :param asked_at: the monotonic moment as of which leases are judged; ``None``: now. The one at
            which the caller made sure that it may judge them: it may stand still after that.

        Changes: those that had not begun, where the backend can tell (:meth:`mark_begun`), wait again,
        uncharged, with ``run_at`` unchanged; so do interrupted ones. The others get ``rescues + 1`` and
        wait again; if that exceeds ``max_rescues`` it ends as failed with an error that says so
        (of type ``Crashed``). A job that says ``fail_on_crash`` and had begun fails in either case: its
        run was cut off, and it must not be repeated. If its cancel was requested it is cancelled.
        ``attempt`` is never changed, ``owner`` is cleared. Final states are never touched.

        A job charged twice in a row (once, where ``max_rescues`` is 1 or 0) is a suspect: from now on
        it runs alone among suspects of its owner, so that a poison job cannot have its neighbours
        charged until they fail. What becomes of each job is :func:`~.crashes.verdict_of`.
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

        Paused queues do not count, nor do suspects while ``owner`` runs one, so that a caller who finds
        a moment in the past can claim something.

        :param queues: names of the queues to look at; ``None``: all.
        :param owner: id of the runtime that asks.
        :param tasks: names of the tasks to look for; ``None``: all.
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
        (run_at, id): their moments and ids. A page never ends inside a moment that it began, so it may
        be longer than ``limit``.

        :param queues: names of the queues to look at; ``None``: all.
        :param after: epoch seconds, left out; the end of the page before.
        :param until: epoch seconds, included.
        :param limit: jobs after which the page ends.
        :param tasks: names of the tasks to look for; ``None``: all.
        """

    @abstractmethod
    def bring_forward(self, *, now: float, ahead: float = 0.0) -> int:
        """For a wall clock that was set back: let jobs be due at ``now`` that were due when they were
        enqueued, and whose moment lies more than ``ahead`` seconds in the future by this clock. Returns
        how many.

        Eligible: waiting, ``now + ahead < run_at <= enqueued_at``, and the latest run, if any, did not
        end with RETRY or SNOOZE, whose moment stands. Changes ``run_at`` only. Jobs that were enqueued
        for a later moment keep theirs. Not one transaction.
        """

    @abstractmethod
    def progress(self, claim: Claim, data: bytes) -> bool:
        """Store what a running job tells of its progress; False if the claim is not ours any more.

        It need not be durable.

        :param data: JSON, as it is shown.
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
        :param limit: most jobs to delete in this call.
        """

    # --- processes -----------------------------------------------------------------------------

    @abstractmethod
    def announce(self, process: ProcessRecord) -> None:
        """Store or refresh the record of a runtime in this process, and keep a sign of life for it
        that ends with the process, where the backend can. Does nothing for an owner that has withdrawn
        or was let go: another thread may come late with it."""

    @abstractmethod
    def withdraw(self, owner: str) -> None:
        """The owner's last word: it runs nothing any more. One transaction, then its sign of life ends.
        An owner that may still be claiming in another thread says :meth:`end_claims` before.

        Removes the record, and releases the jobs that still run in the owner's name, which have not
        begun: they wait again, uncharged, or are cancelled if that was requested. One that is marked
        as interrupted has begun; it waits again as well, unless it says ``fail_on_crash``: then it
        fails, as in :meth:`rescue`. If it raises, the sign of life ends all the same, and others
        rescue what is left.
        """

    def let_go(self, owner: str) -> None:
        """End the owner's sign of life, where there is one, and write nothing: as if its process had
        died. Never raises."""
        return

    @abstractmethod
    def processes(self) -> list[ProcessRecord]:
        """All records, oldest first; ``alive`` says whether the process is still there. Records of dead
        processes are dropped by :meth:`rescue` once none of their jobs is running."""

    # --- upkeep --------------------------------------------------------------------------------

    def open_doorbell(self, owner: str) -> Doorbell | None:
        """The doorbell at which other processes ring for this runtime, or ``None`` where only this
        process can enqueue."""
        return None

    def maintain(self) -> bool:
        """The engine's own upkeep (checkpoints and the like), about once a second; must not hold a
        writer up. True if it should be called again soon, because much is being written."""
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
        """Where it is, fit for logs and pages: without password."""


class Doorbell(ABC):
    """Where other processes announce that there may be something to claim. A ring is only a hint."""

    @abstractmethod
    def wait(self, timeout: float | None) -> bool:
        """Block until somebody rings (True), ``timeout`` seconds pass or :meth:`close` is called
        (False). Rings that arrive meanwhile are answered together."""

    @abstractmethod
    def close(self) -> None:
        """Stop listening; a :meth:`wait` under way returns at once. Idempotent."""
