"""The sqlite backend: every verb of the contract, handed to the store as a function of a connection.
Must not know SQL, nor how transactions, files and other processes are dealt with."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from ...clock import Clock
from ...errors import ConfigurationError, EnqueueUncertainError
from ...job import (
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
    Verb,
)
from ..base import Backend, Doorbell, Inspectable, Schedulable
from ..order import Turns
from . import (
    changes,
    claims,
    enqueueing,
    inspection,
    processes,
    rescues,
    schedules,
)
from .care import Care
from .connection import Sql
from .doorbell import Bells
from .liveness import SignsOfLife
from .location import boot_id, path_of
from .outcomes import DURABLE, record, record_one_by_one, set_progress, should_stop
from .store import Store
from .trouble import PLAIN_VALUE_ERRORS, CommitUnknown, UnfitValueError

_RING_AHEAD = 1.5
"""Other processes are told of a job that is due within so many seconds: later ones they find in time."""

_SEEN_WITHIN = 120.0
"""Seconds for which a process without a sign of life is shown as alive after it was last seen."""

_FORGET_AFTER = 600.0
"""Seconds after which the record of such a process is dropped."""

_LAST_TIMEOUT = 0.3
"""Seconds that the last verbs of a process that stops wait for others: its end must not hang on them."""


class SQLiteBackend(Backend, Inspectable, Schedulable):
    """Jobs in one SQLite file, shared by all processes of this host that open it.

    :param url: ``sqlite:///relative/path`` (to the working directory) or ``sqlite:////absolute/path``.
    :param clock: wall time for what is compared with ``run_at``, monotonic time for leases.
    :param synchronous: ``"FULL"``: what was acknowledged survives a power cut; ``"NORMAL"``: it
        survives a crash of the process only.
    :raises ConfigurationError: for a URL without a file, or an unknown option.
    """

    def __init__(self, url: str, *, clock: Clock, synchronous: str = "FULL", **unknown: object) -> None:
        if unknown:
            raise ConfigurationError(f"the sqlite backend has no option {next(iter(unknown))!r}")
        if synchronous not in ("FULL", "NORMAL"):
            raise ConfigurationError(
                f"synchronous must be 'FULL' or 'NORMAL', not {synchronous!r}",
                key="DELAYQ_SQLITE_SYNCHRONOUS",
            )
        path = path_of(url)
        self._url = f"sqlite:///{path}"
        self._clock = clock
        self._store = Store(path, synchronous=synchronous == "FULL", boot=boot_id())
        self._signs = SignsOfLife(f"{path}.live")
        self._bells = Bells(f"{path}.live")
        self._care = Care(self._store)
        self._turns = Turns()

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
        claim_for: ClaimFor | None = None,
    ) -> list[Enqueued]:
        lease_until = self._clock.monotonic() + claim_for.lease if claim_for else 0.0
        try:
            stored = self._store.write(
                lambda sql: enqueueing.enqueue(
                    sql,
                    jobs,
                    now=now,
                    max_pending=max_pending,
                    claim_for=claim_for,
                    lease_until=lease_until,
                    turns=self._turns,
                ),
                full=True,
                timeout=timeout,
                doubts=True,
            )
        except CommitUnknown:
            raise EnqueueUncertainError([job.id for job in jobs]) from None
        soon = now + _RING_AHEAD
        if any(
            one.created and one.claim is None and job.run_at <= soon
            for one, job in zip(stored, jobs, strict=True)
        ):
            self._bells.ring()
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
    ) -> list[Claim]:
        if limit <= 0:
            return []
        lease_until = self._clock.monotonic() + lease
        return self._store.write(
            lambda sql: claims.claim(
                sql,
                queues,
                now=now,
                limit=limit,
                owner=owner,
                lease_until=lease_until,
                turns=self._turns,
                strict=strict,
            )
        )

    def record(self, outcomes: Sequence[Outcome], *, now: float) -> list[bool]:
        full = any(outcome.verb in DURABLE for outcome in outcomes)
        try:
            # The jobs that are enqueued meanwhile take it along; who made it does not wait for it.
            written = self._store.write(lambda sql: record(sql, outcomes), full=full, patient=True)
        except (UnfitValueError, *PLAIN_VALUE_ERRORS):
            written = self._store.write(lambda sql: record_one_by_one(sql, outcomes), full=full)
        if any(outcome.verb is Verb.RELEASE for outcome in outcomes):
            self._bells.ring()  # what this process could not start, another one may
        return written

    def renew(self, owner: str, held: Collection[Claim], *, lease: float) -> Renewal:
        # Before the wait for the write lock: what is claimed meanwhile is not in `held`, and young.
        clock = self._clock.monotonic()
        return self._store.write(
            lambda sql: claims.renew(sql, owner, held, clock=clock, lease=lease, now=self._clock.now())
        )

    def rescue(self, *, now: float, max_rescues: int, limit: int = 100) -> list[Rescue]:
        # Looked up before the write lock is taken: a dead owner does not come to life again.
        clock = self._clock.monotonic()
        dead, unseen, lost = self._store.read(lambda sql: self._look_for_dead(sql, now, clock))
        if not lost and not dead and not unseen:
            return []
        rescued = self._store.write(
            lambda sql: rescues.rescue(
                sql, now=now, clock=clock, dead=dead, max_rescues=max_rescues, limit=limit
            ),
            full=True,
        )
        for owner in self._store.write(lambda sql: rescues.drop_processes(sql, dead + unseen)):
            self._signs.remove(owner)
            self._bells.remove(owner)
        return rescued

    def _look_for_dead(self, sql: Sql, now: float, clock: float) -> tuple[list[str], list[str], bool]:
        """The owners that are dead, those that nobody has seen for long, and whether jobs are lost."""
        dead, unseen = [], []
        for process, marked in processes.select(sql):
            sign = self._signs.alive(process.owner) if marked else None
            if sign is False:
                dead.append(process.owner)
            elif sign is None and process.seen_at < now - _FORGET_AFTER:
                unseen.append(process.owner)
        return dead, unseen, bool(rescues.lost(sql, clock=clock, dead=dead, limit=1))

    def next_due(self, queues: Sequence[str] | None) -> float | None:
        return self._store.read(lambda sql: claims.next_due(sql, queues))

    def upcoming(
        self, queues: Sequence[str] | None, *, after: float, until: float, limit: int
    ) -> list[tuple[float, str]]:
        return self._store.read(
            lambda sql: claims.upcoming(sql, queues, after=after, until=until, limit=limit)
        )

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
        marked = self._signs.show(process.owner)
        self._store.write(lambda sql: processes.announce(sql, process, marked=marked))

    def withdraw(self, owner: str) -> None:
        try:
            self._store.write(lambda sql: processes.withdraw(sql, owner), timeout=_LAST_TIMEOUT)
        except BaseException:
            self._signs.let_go(owner)  # so others find it dead, and do what could not be done here
            raise
        self._signs.end(owner)

    def processes(self) -> list[ProcessRecord]:
        return [
            replace(process, alive=self._lives(process, marked))
            for process, marked in self._store.read(processes.select)
        ]

    def _lives(self, process: ProcessRecord, marked: bool) -> bool:
        sign = self._signs.alive(process.owner) if marked else None
        # A sign that is gone (a cleaner was there) proves nothing: then the record's age is what is
        # left to show, and for the jobs their leases decide.
        return process.seen_at > self._clock.now() - _SEEN_WITHIN if sign is None else sign

    # --- care ----------------------------------------------------------------------------------------

    def open_doorbell(self, owner: str) -> Doorbell | None:
        return self._bells.open(owner)

    def maintain(self) -> bool:
        return self._care.maintain()

    def health(self) -> Health:
        return self._care.health()

    def close(self) -> None:
        self._bells.close()
        self._store.close(timeout=_LAST_TIMEOUT)

    # --- what a person asks and does -----------------------------------------------------------------

    def get(self, job_id: str) -> JobRecord | None:
        return self._store.read(lambda sql: inspection.get(sql, job_id))

    def counts(self, *, now: float) -> dict[str, int]:
        return self._store.read(lambda sql: inspection.counts(sql, now))

    def queues(self, *, now: float) -> list[QueueInfo]:
        return self._store.read(lambda sql: inspection.queues(sql, now))

    def cancel(self, job_id: str, *, now: float, reason: str = "") -> Stored | None:
        return self._store.write(
            lambda sql: changes.cancel(sql, job_id, now=now, reason=reason), full=True
        )

    def revive(self, job_id: str, *, run_at: float) -> Stored | None:
        before = self._store.write(lambda sql: changes.revive(sql, job_id, run_at=run_at), full=True)
        self._bells.ring()
        return before

    def pause(self, queue: str) -> None:
        self._store.write(lambda sql: changes.set_paused(sql, queue, True), full=True)

    def resume(self, queue: str) -> None:
        self._store.write(lambda sql: changes.set_paused(sql, queue, False), full=True)
        self._bells.ring()

    def purge(self, queue: str, *, now: float, limit: int = 1000) -> int:
        return self._store.write(lambda sql: changes.purge(sql, queue, now=now, limit=limit), full=True)

    # --- schedules -----------------------------------------------------------------------------------

    def put_schedule(self, schedule: ScheduleRecord, *, replace: bool = True) -> ScheduleRecord:
        return self._store.write(lambda sql: schedules.put(sql, schedule, replace=replace), full=True)

    def schedules(self) -> list[ScheduleRecord]:
        return self._store.read(schedules.select)

    def remove_schedule(self, name: str) -> bool:
        return bool(
            self._store.write(
                lambda sql: sql.run("DELETE FROM schedule WHERE name = ?", (name,)), full=True
            )
        )

    def pause_schedule(self, name: str, paused: bool, *, next_due: float | None = None) -> bool:
        return self._store.write(lambda sql: schedules.pause(sql, name, paused, next_due), full=True)

    def next_occurrence(self) -> float | None:
        return self._store.read(schedules.next_occurrence)

    def fire(self, schedule: ScheduleRecord, job: NewJob | None, *, next_due: float) -> Enqueued | None:
        fired = self._store.write(
            lambda sql: schedules.fire(sql, schedule, job, next_due=next_due), full=True
        )
        if fired is not None:
            self._bells.ring()
        return fired

    # Last, because below it the name would hide the type.
    def list(self, query: JobQuery, *, now: float) -> list[JobRecord]:
        return self._store.read(lambda sql: inspection.select(sql, query, now))
