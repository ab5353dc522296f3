"""The verbs that enqueue, claim and end jobs, on a store in this process.
Must not know inspection (``inspection``) or schedules (``schedules``)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from heapq import nsmallest
from operator import attrgetter

from ...clock import Clock
from ...errors import ConfigurationError, JobConflictError, QueueFullError
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
    StoredState,
)
from ..base import Backend
from ..endings import LastEnded
from ..order import Turns
from . import changes
from .choosing import Levels, add_one_suspect, holds_due, order_by_task, put_back
from .inspectable import Inspection
from .outcomes import give_back, take_back, write_end
from .rows import Row
from .schedules import MemorySchedules
from .store import Store, shared_store

_URL = re.compile(r"memory://([A-Za-z0-9._-]*)")

_lease_end = attrgetter("lease_end")


class MemoryBackend(Inspection, MemorySchedules, Backend):
    """Jobs in the memory of this process; they are lost when it ends.

    After a fork the child's store is empty: the threads that run the jobs are the parent's.

    :param url: ``memory://``: a separate store, as long as this object exists.
        ``memory://name``: the store of that name, shared by all objects in this process.
    :param clock: its monotonic clock is used for leases.
    :raises ConfigurationError: another URL, or any option.
    """

    def __init__(self, url: str, *, clock: Clock, **options: object) -> None:
        match = _URL.fullmatch(url)
        if match is None:
            raise ConfigurationError(
                f"{url!r} is not a memory store: use memory:// or memory://name", key="DELAYQ_URL"
            )
        if options:
            raise ConfigurationError(f"memory:// has no option {', '.join(sorted(options))}")
        self._url = url
        self._clock = clock
        self._store = shared_store(match[1]) if match[1] else Store()
        self._turns = Turns()
        self._ended = LastEnded()

    @property
    def url(self) -> str:
        return self._url

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
        store = self._store
        with store.lock:
            if len(jobs) == 1:
                only = Row(jobs[0], jobs[0].run_at)
                try:
                    return [self._enqueue_one(only, now, max_pending, max_pending_total, claim_for)]
                except BaseException:
                    store.take_out((only,))
                    raise
            rows = store.rows
            fresh: dict[str, NewJob] = {}
            for new in jobs:
                row = rows.get(new.id)
                known = fresh.setdefault(new.id, new) if row is None else row.new
                if known is not new and (known.task != new.task or known.payload != new.payload):
                    raise JobConflictError(new.id)
            self._check_room(fresh.values(), max_pending, max_pending_total)
            if claim_for is not None and claim_for.owner in store.claim_no_more:
                claim_for = None
            added = {new.id: Row(new, new.run_at) for new in fresh.values()}
            try:
                claims = self._claim_new(added, now, claim_for) if claim_for is not None else {}
                for row in added.values():
                    if row.new.id not in claims:
                        store.add(row)
            except BaseException:
                store.take_out(added.values())
                raise
            # The first mention of an id created it; a later one in the same call finds it there.
            return [
                Enqueued(new.id, True, claims.get(new.id))
                if fresh.pop(new.id, None) is not None
                else Enqueued(new.id, False)
                for new in jobs
            ]

    def _enqueue_one(
        self,
        row: Row,
        now: float,
        max_pending: int | None,
        max_pending_total: int | None,
        claim_for: ClaimFor | None,
    ) -> Enqueued:
        """What :meth:`enqueue` does, without its books: most calls bring one job."""
        store = self._store
        new = row.new
        job_id = new.id
        known = store.rows.setdefault(job_id, row)  # one look into a large dict, not two
        if known is not row:
            if known.new.task != new.task or known.new.payload != new.payload:
                raise JobConflictError(job_id)
            return Enqueued(job_id, False)
        queue = store.queues.get(new.queue)
        if max_pending is not None and queue is not None and queue.waiting >= max_pending:
            raise QueueFullError(queue.name, max_pending)
        if max_pending_total is not None and store.waiting >= max_pending_total:
            raise QueueFullError(None, max_pending_total)
        if queue is None:
            queue = store.queue(new.queue)
        if (
            claim_for is None
            or new.run_at > now
            or claim_for.slots < 1
            or claim_for.owner in store.claim_no_more
            or queue.paused
            or (queue.waiting and holds_due(queue, now))
        ):
            store.stand(row, queue)
            return Enqueued(job_id, True)
        self._turns.served(new.queue)
        claim = store.run(row, claim_for.owner, claim_for.lease, self._clock.monotonic(), now)
        return Enqueued(job_id, True, claim)

    def _check_room(
        self, fresh: Collection[NewJob], max_pending: int | None, max_pending_total: int | None
    ) -> None:
        store = self._store
        if max_pending is not None:
            for name, jobs in Counter(new.queue for new in fresh).items():
                queue = store.queues.get(name)
                if (queue.waiting if queue else 0) + jobs > max_pending:
                    raise QueueFullError(name, max_pending)
        if fresh and max_pending_total is not None and store.waiting + len(fresh) > max_pending_total:
            raise QueueFullError(None, max_pending_total)

    def _claim_new(self, fresh: Mapping[str, Row], now: float, claim_for: ClaimFor) -> dict[str, Claim]:
        store = self._store
        due: dict[str, Levels | None] = {}
        for row in fresh.values():
            new = row.new
            if new.run_at > now:
                continue
            name = new.queue
            if name not in due:
                queue = store.queue(name)
                due[name] = None if queue.paused or holds_due(queue, now) else [[], [], []]
            levels = due[name]
            if levels is not None:
                levels[new.priority].append((new.run_at, new.id, 0, row))
        lines = {name: levels for name, levels in due.items() if levels is not None}
        for levels in lines.values():
            for level in levels:
                level.sort()
        mono = self._clock.monotonic()
        claims = {}
        for _, job_id, _, row in self._turns.choose(lines, claim_for.slots, False):
            store.rows[job_id] = row
            claims[job_id] = store.run(row, claim_for.owner, claim_for.lease, mono, now)
        return claims

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
        store = self._store
        with store.lock, store.whole:
            if owner in store.claim_no_more:
                return []
            serving = [q for q in store.named(queues) if q.waiting and not q.paused]
            if tasks is not None:
                order_by_task(serving)
            due = {q.name: q.take_due(now, limit, tasks) for q in serving}
            if owner not in store.suspect_of:
                add_one_suspect(serving, now, due, tasks)
            chosen = self._turns.choose(due, limit, strict)
            put_back(store, due, chosen)
            mono = self._clock.monotonic()
            claims = []
            try:
                for _, _, _, row in chosen:
                    store.queues[row.new.queue].waiting -= 1
                    store.waiting -= 1
                    claims.append(store.run(row, owner, lease, mono, now))
                return claims
            except BaseException:
                for _, _, _, row in chosen:
                    row.stored = StoredState.WAITING
                    row.owner = None
                raise

    def end_claims(self, owner: str) -> None:
        self._store.claim_no_more.add(owner)

    def record(self, outcomes: Sequence[Outcome], *, now: float) -> list[bool]:
        store = self._store
        with store.lock, store.whole:
            return [write_end(store, outcome) for outcome in outcomes]

    def renew(
        self, owner: str, held: Collection[Claim], *, lease: float, asked_at: float | None = None
    ) -> Renewal:
        store = self._store
        with store.lock, store.whole:
            mono = self._clock.monotonic() if asked_at is None else asked_at
            kept, lost = set(), []
            for claim in held:
                if claim.owner == owner and store.held(claim) is not None:
                    kept.add(claim.id)
                else:
                    lost.append(claim.id)
            orphans = []
            for job_id, row in store.running.items():
                if row.owner != owner:
                    continue
                # An interrupted run may still go on in an abandoned thread.
                if job_id in kept or row.interrupted:
                    row.leased_at = mono
                    row.lease_end = mono + lease
                elif mono - row.leased_at >= lease / 6:
                    orphans.append(row)
            for row in orphans:
                store.halt(row)
                store.wait_or_cancel(row, self._clock.now())
            return Renewal(tuple(lost), tuple(row.new.id for row in orphans))

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
        if not leases:
            return []  # no owner is certainly dead
        store = self._store
        with store.lock, store.whole:
            mono = self._clock.monotonic() if asked_at is None else asked_at
            running = store.running.values()
            dead = [row for row in running if row.lease_end <= mono and row.owner != judge]
            dead.sort(key=_lease_end)
            return [take_back(store, row, now, max_rescues) for row in dead[:limit]]

    def next_due(
        self,
        queues: Sequence[str] | None,
        *,
        owner: str = "",
        tasks: Collection[str] | None = None,
    ) -> float | None:
        store = self._store
        with store.lock:
            free = owner not in store.suspect_of
            serving = [q for q in store.named(queues) if q.waiting and not q.paused]
            if tasks is not None:
                order_by_task(serving)
            moments = (queue.first_due(with_suspects=free, tasks=tasks) for queue in serving)
            return min((moment for moment in moments if moment is not None), default=None)

    def upcoming(
        self,
        queues: Sequence[str] | None,
        *,
        after: float,
        until: float,
        limit: int,
        tasks: Collection[str] | None = None,
    ) -> list[tuple[float, str]]:
        store = self._store
        with store.lock:
            entries = [entry for queue in store.named(queues) for entry in queue.entries()]
        # Sorted out without the lock: a job that moves meanwhile is only a hint that is out of date.
        waiting = [
            entry[:2]
            for entry in entries
            if after < entry[0] <= until and (tasks is None or entry[3].new.task in tasks)
        ]
        page = nsmallest(limit, waiting)
        if len(page) < len(waiting) and page:
            page = sorted(entry for entry in waiting if entry[0] <= page[-1][0])
        return page

    def bring_forward(self, *, now: float, ahead: float = 0.0) -> int:
        store = self._store
        with store.lock, store.whole:
            early = [
                row
                for row in store.rows.values()
                if row.stored is StoredState.WAITING
                and not row.later
                and now + ahead < row.run_at <= row.new.enqueued_at
            ]
            for row in early:
                store.leave_waiting(row)
                row.run_at = now
                store.wait(row)
            return len(early)

    def progress(self, claim: Claim, data: bytes) -> bool:
        store = self._store
        with store.lock:
            row = store.held(claim)
            if row is None:
                return False
            row.progress = data
            return True

    def cancel_requested(self, claim: Claim) -> bool:
        store = self._store
        with store.lock:
            row = store.held(claim)
            return row is None or row.cancel_requested

    def prune(
        self, *, finished_before: float, failed_before: float, keep: int | None, limit: int = 500
    ) -> int:
        return changes.prune(
            self._store,
            finished_before=finished_before,
            failed_before=failed_before,
            keep=keep,
            limit=limit,
        )

    # --- processes -----------------------------------------------------------------------------

    def announce(self, process: ProcessRecord) -> None:
        store = self._store
        with store.lock:
            if process.owner not in self._ended:
                store.processes[process.owner] = process

    def withdraw(self, owner: str) -> None:
        store = self._store
        now = self._clock.now()
        with store.lock, store.whole:
            self._ended[owner] = True
            store.processes.pop(owner, None)
            for row in [row for row in store.running.values() if row.owner == owner]:
                give_back(store, row, now)

    def processes(self) -> list[ProcessRecord]:
        store = self._store
        with store.lock:
            return sorted(store.processes.values(), key=lambda process: process.started_at)

    def health(self, *, probe: bool = True) -> Health:
        return Health(True, facts={"jobs": len(self._store.rows)})

    def close(self) -> None:
        """Nothing to close; the jobs stay as long as the store exists."""
