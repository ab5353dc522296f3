"""The sqlite backend: every verb of the contract passes a function of a connection to the store.
Must not know SQL, or how transactions, files and other processes are handled."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from ...clock import Clock
from ...errors import ConfigurationError, EnqueueUncertainError, shown
from ...job import (
    Claim,
    ClaimFor,
    Enqueued,
    Health,
    NewJob,
    Outcome,
    ProcessRecord,
    Renewal,
    Rescue,
    ScheduleRecord,
    Verb,
)
from ..base import Backend, Doorbell, Schedulable
from ..endings import LastEnded
from ..order import Turns
from .file.checkpoints import Checkpoints
from .file.connection import Sql
from .file.errors import PLAIN_VALUE_ERRORS, CommitUnknown, UnfitValueError
from .file.health import StoreHealth
from .file.location import as_text, path_of, resolve
from .file.schema import note_clock
from .file.store import Store
from .host import judging
from .host.boots import UNKNOWN_BOOT, boot_id
from .host.doorbell import Bells
from .host.leftovers import Leftovers
from .host.liveness import SignsOfLife
from .host.marks import Marks
from .inspectable import Inspection
from .verbs import by_task, changes, claiming, enqueueing, pending, processes, rescues, schedules
from .verbs.outcomes import DURABLE, record, record_one_by_one, set_progress, should_stop

_RING_AHEAD = 1.5
"""Other processes are woken for a job due within this many seconds; they find later jobs in time."""

_LAST_TIMEOUT = 0.3
"""Seconds that the last verbs of a stopping process wait for other writers: a stop must be short."""


class SQLiteBackend(Inspection, Schedulable, Backend):
    """Jobs in one SQLite file, shared by all processes of this host that open it.

    :param url: ``sqlite:///relative/path`` (to the working directory) or ``sqlite:////absolute/path``.
    :param clock: wall time for ``run_at``, monotonic time for leases.
    :param synchronous: ``"FULL"``: acknowledged jobs survive a power cut; ``"NORMAL"``: they survive
        only a crash of the process.
    :raises ConfigurationError: a URL without a file, or an unknown option.
    """

    def __init__(self, url: str, *, clock: Clock, synchronous: str = "FULL", **unknown: object) -> None:
        if unknown:
            raise ConfigurationError(f"the sqlite backend has no option {next(iter(unknown))!r}")
        if synchronous not in ("FULL", "NORMAL"):
            raise ConfigurationError(
                f"DELAYQ_SQLITE_SYNCHRONOUS must be FULL or NORMAL, not {shown(synchronous)}",
                key="DELAYQ_SQLITE_SYNCHRONOUS",
            )
        # The resolved path: the files beside the store must be the same for all links to it.
        path = resolve(given := path_of(url))
        self._url = f"sqlite:///{as_text(path)}"
        self._clock = clock
        boot = boot_id()
        self._notes_clock = boot.startswith(UNKNOWN_BOOT)
        self._signs = SignsOfLife(f"{path}.live", path)
        self._store = Store(
            path,
            given=given,
            synchronous=synchronous == "FULL",
            boot=boot,
            clock=clock.monotonic,
            lives=self._signs.alive,
        )
        self._marks = Marks(folder=f"{path}.live", store=path, boot=boot, lives=self._signs.alive)
        self._bells = Bells(f"{path}.live", path)
        self._leftovers = Leftovers(f"{path}.live", path, self._signs)
        self._checkpoints = Checkpoints(self._store)
        self._health = StoreHealth(self._store, self._checkpoints)
        self._turns = Turns()
        # For as long as this object lives: a claim may wait for the store when its owner has gone.
        self._claim_no_more: set[str] = set()
        self._ended = LastEnded()  # withdrawn or let go; whether no record tells of it any more

    @property
    def url(self) -> str:
        return self._url

    # --- jobs ----------------------------------------------------------------------------------------

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
        if max_pending is not None or max_pending_total is not None:
            timeout = self._store.once(pending.count_from_now_on, timeout)
        no_more = self._claim_no_more
        try:
            stored = self._store.write(
                lambda sql: enqueueing.enqueue(
                    sql,
                    jobs,
                    now=now,
                    max_pending=max_pending,
                    max_pending_total=max_pending_total,
                    claim_for=claim_for if claim_for and claim_for.owner not in no_more else None,
                    clock=self._clock.monotonic,
                    turns=self._turns,
                ),
                durable=True,
                timeout=timeout,
                may_be_uncertain=True,
            )
        except CommitUnknown:
            raise EnqueueUncertainError([job.id for job in jobs]) from None
        soon = now + _RING_AHEAD
        for one, job in zip(stored, jobs, strict=True):
            if one.created and one.claim is None and job.run_at <= soon:
                self._bells.ring()
                break
        self._checkpoints.relieve()
        return stored

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
        if limit <= 0:
            return []
        if tasks is not None:
            self._store.once(by_task.make_index)
        return self._store.write(
            lambda sql: (
                []
                if owner in self._claim_no_more
                else claiming.claim(
                    sql,
                    queues,
                    now=now,
                    limit=limit,
                    owner=owner,
                    lease=lease,
                    clock=self._clock.monotonic,
                    turns=self._turns,
                    strict=strict,
                    tasks=tasks,
                )
            )
        )

    def end_claims(self, owner: str) -> None:
        self._claim_no_more.add(owner)

    def record(self, outcomes: Sequence[Outcome], *, now: float) -> list[bool]:
        durable = any(outcome.verb in DURABLE for outcome in outcomes)
        try:
            # The commit of an enqueue may write it, too; the caller does not wait for a flush.
            written = self._store.write(
                lambda sql: record(sql, outcomes), durable=durable, may_wait=True
            )
        except (UnfitValueError, *PLAIN_VALUE_ERRORS):
            written = self._store.write(lambda sql: record_one_by_one(sql, outcomes), durable=durable)
        self._marks.forget(outcomes)
        if any([outcome.verb is Verb.RELEASE for outcome in outcomes]):
            self._bells.ring()  # another process may run the jobs that this one could not start
        return written

    def mark_begun(self, claim: Claim) -> None:
        self._marks.mark(claim)

    def unmark_begun(self, claim: Claim) -> None:
        self._marks.unmark(claim)

    def renew(
        self, owner: str, held: Collection[Claim], *, lease: float, asked_at: float | None = None
    ) -> Renewal:
        # Before the wait for the write lock: later claims are not in `held`, and are young.
        clock = self._clock.monotonic() if asked_at is None else asked_at
        return self._store.write(
            lambda sql: claiming.renew(sql, owner, held, clock=clock, lease=lease, now=self._clock.now())
        )

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
        # Looked up before the write lock is taken: a dead owner does not come to life again.
        clock = self._clock.monotonic() if asked_at is None else asked_at
        if not leases:
            clock = rescues.CERTAINLY_ENDED
        gone, lost = self._store.read(lambda sql: self._look_for_dead(sql, now, clock, judge))
        if not lost and not any(gone):
            return []
        may_have_begun = self._marks.reader()
        rescued = self._store.write(
            lambda sql: rescues.rescue(
                sql,
                now=now,
                clock=clock,
                dead=gone.dead,
                judge=judge,
                max_rescues=max_rescues,
                limit=limit,
                may_have_begun=may_have_begun,
            ),
            durable=True,
        )
        dropped = self._store.write(lambda sql: rescues.drop_processes(sql, gone.dead + gone.unseen))
        for owner in dropped:
            if self._signs.alive(owner):
                continue  # other code of it had dropped its lock, and it has that again
            for left in (self._marks, self._signs, self._bells):
                left.remove(owner)
        return rescued

    def _look_for_dead(
        self, sql: Sql, now: float, clock: float, judge: str | None
    ) -> tuple[judging.Gone, bool]:
        """The dead owners, and whether they have jobs."""
        gone = judging.gone(processes.select(sql), self._signs, now, judge)
        return gone, bool(rescues.lost(sql, clock=clock, dead=gone.dead, judge=judge, limit=1))

    def next_due(
        self,
        queues: Sequence[str] | None,
        *,
        owner: str = "",
        tasks: Collection[str] | None = None,
    ) -> float | None:
        if tasks is not None:
            self._store.once(by_task.make_index)
        return self._store.read(lambda sql: claiming.next_due(sql, queues, owner, tasks))

    def upcoming(
        self,
        queues: Sequence[str] | None,
        *,
        after: float,
        until: float,
        limit: int,
        tasks: Collection[str] | None = None,
    ) -> list[tuple[float, str]]:
        if tasks is not None:
            self._store.once(by_task.make_index)
        return self._store.read(
            lambda sql: claiming.upcoming(
                sql, queues, after=after, until=until, limit=limit, tasks=tasks
            )
        )

    def bring_forward(self, *, now: float, ahead: float = 0.0) -> int:
        brought, late = 0, now + ahead
        while ids := self._store.read(lambda sql: changes.due_too_late(sql, late)):
            brought += self._store.write(partial(changes.bring_forward, ids=ids, now=now))
        if brought:
            self._bells.ring()
        return brought

    def progress(self, claim: Claim, data: bytes) -> bool:
        return self._store.write(lambda sql: set_progress(sql, claim, data))

    def cancel_requested(self, claim: Claim) -> bool:
        return self._store.read(lambda sql: should_stop(sql, claim))

    def prune(
        self, *, finished_before: float, failed_before: float, keep: int | None, limit: int = 500
    ) -> int:
        ids = self._store.read(
            lambda sql: changes.prunable(
                sql, finished_before=finished_before, failed_before=failed_before, keep=keep, limit=limit
            )
        )
        return self._store.write(lambda sql: changes.delete_finished(sql, ids)) if ids else 0

    # --- processes -----------------------------------------------------------------------------------

    def announce(self, process: ProcessRecord) -> None:
        owner = process.owner
        if owner in self._ended:
            return
        try:
            marked = self._signs.show(owner)
            self._store.write(lambda sql: self._announce(sql, process, marked))
            self._marks.open(owner)  # once a record tells of it, so that somebody removes it
            self._bells.restore(owner)
        finally:
            if owner in self._ended:  # meanwhile, in another thread
                self._end_signs(owner)

    def _announce(self, sql: Sql, process: ProcessRecord, marked: bool) -> None:
        if process.owner in self._ended:
            return
        processes.announce(sql, process, marked=marked)
        if self._notes_clock:
            note_clock(sql, self._clock.monotonic())

    def withdraw(self, owner: str) -> None:
        now = self._clock.now()
        self._ended[owner] = False
        try:
            released = self._store.write(
                lambda sql: rescues.withdraw(sql, owner, now), timeout=_LAST_TIMEOUT
            )
            self._ended[owner] = True
        finally:  # where it failed others find the owner dead, and do what could not be done here
            self._end_signs(owner)
        if released:
            self._bells.ring()

    def let_go(self, owner: str) -> None:
        self._ended[owner] = self._ended.get(owner, False)
        self._end_signs(owner)

    def _end_signs(self, owner: str) -> None:
        self._marks.let_go(owner)
        self._signs.let_go(owner)
        if self._ended.get(owner):
            self._marks.remove(owner)
            self._signs.remove(owner)

    def processes(self) -> list[ProcessRecord]:
        return judging.shown(self._store.read(processes.select), self._signs, self._clock.now())

    # --- upkeep ----------------------------------------------------------------------------------------

    def open_doorbell(self, owner: str) -> Doorbell | None:
        return self._bells.open(owner)

    def maintain(self) -> bool:
        clock = self._clock
        owners = partial(self._store.read, processes.owners)
        self._leftovers.turn(owners, now=clock.now(), mono=clock.monotonic())
        return self._checkpoints.turn()

    def health(self, *, probe: bool = True) -> Health:
        return self._health.health(probe=probe)

    def close(self) -> None:
        self._bells.close()
        self._store.close(timeout=_LAST_TIMEOUT)

    # --- schedules -----------------------------------------------------------------------------------

    def put_schedule(self, schedule: ScheduleRecord, *, replace: bool = True) -> ScheduleRecord:
        return self._store.write(lambda sql: schedules.put(sql, schedule, replace=replace), durable=True)

    def schedules(self) -> list[ScheduleRecord]:
        return self._store.read(schedules.select)

    def remove_schedule(self, name: str) -> bool:
        return self._store.write(lambda sql: schedules.remove(sql, name), durable=True)

    def pause_schedule(self, name: str, paused: bool, *, next_due: float | None = None) -> bool:
        return self._store.write(lambda sql: schedules.pause(sql, name, paused, next_due), durable=True)

    def next_occurrence(self) -> float | None:
        return self._store.read(schedules.next_occurrence)

    def fire(self, schedule: ScheduleRecord, job: NewJob | None, *, next_due: float) -> Enqueued | None:
        fired = self._store.write(
            lambda sql: schedules.fire(sql, schedule, job, next_due=next_due), durable=True
        )
        if fired is not None:
            self._bells.ring()
        return fired
