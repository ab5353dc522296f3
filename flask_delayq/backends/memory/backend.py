"""The verbs by which jobs are put in, taken out and ended, on a store in this process.
Must not know how jobs are looked at (``inspection``) nor what is periodic (``schedules``)."""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Collection, Mapping, Sequence
from heapq import nsmallest
from math import inf
from operator import attrgetter, itemgetter
from typing import TypeAlias

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
)
from ..base import Backend
from ..order import Turns
from .endings import take_back, write_end
from .inspection import Inspection
from .rows import Entry, Queue, Row
from .schedules import Schedules
from .store import Store, shared_store

_URL = re.compile(r"memory://([A-Za-z0-9._-]*)")

Levels: TypeAlias = list[list[Entry]]
"""Due jobs of one queue by priority, each level in order."""

_lease_end = attrgetter("lease_end")


class MemoryBackend(Inspection, Schedules, Backend):
    """Jobs that live and die with this process.

    After a fork the child's store is empty: the threads that run the jobs are the parent's.

    :param url: ``memory://``: a store of its own, for as long as this object lives.
        ``memory://name``: the store of that name, shared by all objects in this process.
    :param clock: leases end on its monotonic side.
    :raises ConfigurationError: another URL, or any further option.
    """

    def __init__(self, url: str, *, clock: Clock, **options: object) -> None:
        match = _URL.fullmatch(url)
        if match is None:
            raise ConfigurationError(
                f"{url!r} is no memory store: use memory:// or memory://name", key="DELAYQ_URL"
            )
        if options:
            raise ConfigurationError(f"memory:// has no option {', '.join(sorted(options))}")
        self._url = url
        self._clock = clock
        self._store = shared_store(match[1]) if match[1] else Store()
        self._turns = Turns()

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
        claim_for: ClaimFor | None = None,
    ) -> list[Enqueued]:
        store = self._store
        with store.lock:
            if len(jobs) == 1:
                return [self._enqueue_one(jobs[0], now, max_pending, claim_for)]
            rows = store.rows
            fresh: dict[str, NewJob] = {}
            for new in jobs:
                row = rows.get(new.id)
                known = fresh.setdefault(new.id, new) if row is None else row.new
                if known is not new and (known.task != new.task or known.payload != new.payload):
                    raise JobConflictError(new.id)
            if max_pending is not None:
                self._check_room(fresh.values(), max_pending)
            claims = self._claim_new(fresh, now, claim_for) if claim_for is not None else {}
            for new in fresh.values():
                if new.id not in claims:
                    store.add(new)
            # The first mention of an id created it; a later one in the same call finds it there.
            return [
                Enqueued(new.id, True, claims.get(new.id))
                if fresh.pop(new.id, None) is not None
                else Enqueued(new.id, False)
                for new in jobs
            ]

    def _enqueue_one(
        self, new: NewJob, now: float, max_pending: int | None, wish: ClaimFor | None
    ) -> Enqueued:
        """What :meth:`enqueue` does, without its books: most calls bring one job."""
        store = self._store
        job_id = new.id
        row = Row(new, new.run_at)
        known = store.rows.setdefault(job_id, row)  # one look into a large dict, not two
        if known is not row:
            if known.new.task != new.task or known.new.payload != new.payload:
                raise JobConflictError(job_id)
            return Enqueued(job_id, False)
        queue = store.queues.get(new.queue) or store.queue(new.queue)
        if max_pending is not None and queue.waiting >= max_pending:
            del store.rows[job_id]
            raise QueueFullError(queue.name, max_pending)
        if (
            wish is None
            or new.run_at > now
            or wish.slots < 1
            or queue.paused
            or (queue.waiting and _holds_due(queue, now))
        ):
            store.stand(row, queue)
            return Enqueued(job_id, True)
        self._turns.served(new.queue)
        claim = store.run(row, wish.owner, wish.lease, self._clock.monotonic(), now)
        return Enqueued(job_id, True, claim)

    def _check_room(self, fresh: Collection[NewJob], max_pending: int) -> None:
        coming: dict[str, int] = {}
        for new in fresh:
            coming[new.queue] = coming.get(new.queue, 0) + 1
        for name, jobs in coming.items():
            if self._store.queue(name).waiting + jobs > max_pending:
                raise QueueFullError(name, max_pending)

    def _claim_new(self, fresh: Mapping[str, NewJob], now: float, wish: ClaimFor) -> dict[str, Claim]:
        store = self._store
        due: dict[str, Levels | None] = {}
        for new in fresh.values():
            if new.run_at > now:
                continue
            name = new.queue
            if name not in due:
                queue = store.queue(name)
                due[name] = None if queue.paused or _holds_due(queue, now) else [[], [], []]
            levels = due[name]
            if levels is not None:
                levels[new.priority].append((new.run_at, new.id, 0, Row(new, new.run_at)))
        lines = {name: levels for name, levels in due.items() if levels is not None}
        for levels in lines.values():
            for level in levels:
                level.sort()
        mono = self._clock.monotonic()
        claims = {}
        for _, job_id, _, row in self._turns.choose(lines, wish.slots, False):
            store.rows[job_id] = row
            claims[job_id] = store.run(row, wish.owner, wish.lease, mono, now)
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
    ) -> list[Claim]:
        store = self._store
        with store.lock:
            serving = [q for q in store.named(queues) if q.waiting and not q.paused]
            due = {q.name: q.take_due(now, limit) for q in serving}
            if not store.rescued_running:
                _add_one_rescued(serving, now, due)
            chosen = self._turns.choose(due, limit, strict)
            _put_back(store, due, chosen)
            mono = self._clock.monotonic()
            claims = []
            for _, _, _, row in chosen:
                store.queues[row.new.queue].waiting -= 1
                claims.append(store.run(row, owner, lease, mono, now))
            return claims

    def record(self, outcomes: Sequence[Outcome], *, now: float) -> list[bool]:
        store = self._store
        with store.lock:
            return [write_end(store, outcome) for outcome in outcomes]

    def renew(self, owner: str, held: Collection[Claim], *, lease: float) -> Renewal:
        store = self._store
        with store.lock:
            mono = self._clock.monotonic()
            lost = []
            kept = set()
            for claim in held:
                row = store.held(claim)
                if row is None or claim.owner != owner:
                    lost.append(claim.id)
                    continue
                kept.add(claim.id)
                row.leased_at = mono
                row.lease_end = mono + lease
            orphans = [
                row
                for job_id, row in store.running.items()
                if row.owner == owner and job_id not in kept and mono - row.leased_at >= lease / 6
            ]
            for row in orphans:
                store.halt(row)
                store.wait_or_cancel(row, self._clock.now())
            return Renewal(tuple(lost), tuple(row.new.id for row in orphans))

    def rescue(self, *, now: float, max_rescues: int, limit: int = 100) -> list[Rescue]:
        store = self._store
        with store.lock:
            mono = self._clock.monotonic()
            dead = [row for row in store.running.values() if row.lease_end <= mono]
            dead.sort(key=_lease_end)
            return [take_back(store, row, now, max_rescues) for row in dead[:limit]]

    def next_due(self, queues: Sequence[str] | None) -> float | None:
        store = self._store
        with store.lock:
            free = not store.rescued_running
            moments = (
                queue.first_due(with_rescued=free)
                for queue in store.named(queues)
                if queue.waiting and not queue.paused
            )
            return min((moment for moment in moments if moment is not None), default=None)

    def upcoming(
        self, queues: Sequence[str] | None, *, after: float, until: float, limit: int
    ) -> list[tuple[float, str]]:
        store = self._store
        with store.lock:
            entries = [entry for queue in store.named(queues) for entry in queue.entries()]
        # Sorted out without the lock: a job that moves meanwhile is only a hint that is out of date.
        waiting = [entry[:2] for entry in entries if after < entry[0] <= until]
        page = nsmallest(limit, waiting)
        if len(page) < len(waiting) and page:
            page = sorted(entry for entry in waiting if entry[0] <= page[-1][0])
        return page

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
        store = self._store
        with store.lock:
            gone = store.finished.take_before(finished_before, limit)
            gone += store.failed.take_before(failed_before, limit - len(gone))
            if keep is not None:
                for line in (store.finished, store.failed):
                    excess = len(store.finished) + len(store.failed) - keep
                    gone += line.take_until(inf, min(excess, limit - len(gone)))
            for entry in gone:
                store.forget(entry[3])
            return len(gone)

    # --- processes -----------------------------------------------------------------------------

    def announce(self, process: ProcessRecord) -> None:
        store = self._store
        with store.lock:
            store.processes[process.owner] = process

    def withdraw(self, owner: str) -> None:
        store = self._store
        with store.lock:
            store.processes.pop(owner, None)
            for row in store.running.values():
                if row.owner == owner:
                    row.lease_end = -inf

    def processes(self) -> list[ProcessRecord]:
        store = self._store
        with store.lock:
            return sorted(store.processes.values(), key=lambda process: process.started_at)

    def health(self) -> Health:
        return Health(True, facts={"jobs": len(self._store.rows)})

    def close(self) -> None:
        """Nothing is open; the jobs stay for as long as the store does."""


def _holds_due(queue: Queue, now: float) -> bool:
    first = queue.first_due(with_rescued=True) if queue.waiting else None
    return first is not None and first <= now


def _add_one_rescued(serving: list[Queue], now: float, due: Mapping[str, Levels]) -> None:
    """Let the first due job that was rescued stand among the others."""
    heads = [
        (priority, entry, queue)
        for queue in serving
        for priority, line in enumerate(queue.rescued)
        if (entry := line.first()) is not None and entry[0] <= now
    ]
    if heads:
        priority, entry, queue = min(heads, key=itemgetter(0, 1))
        queue.rescued[priority].take_until(now, 1)
        insort(due[queue.name][priority], entry)


def _put_back(store: Store, due: Mapping[str, Levels], chosen: list[Entry]) -> None:
    """Whoever came up but was not chosen takes the same place again."""
    entries = [entry for levels in due.values() for level in levels for entry in level]
    if len(entries) == len(chosen):
        return
    places = {entry[2] for entry in chosen}
    for entry in reversed(entries):
        if entry[2] not in places:
            row = entry[3]
            store.queues[row.new.queue].line_of(row).put_back(entry)
