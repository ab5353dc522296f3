"""Storing new jobs, and claiming some of them in the same step.
Must not know transactions, threads or files: it runs inside a write transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from ....errors import JobConflictError, QueueFullError
from ....job import Claim, ClaimFor, Enqueued, NewJob
from ...order import Turns
from ..file.connection import Bindings, Sql
from . import pending
from .claiming import LEVELS

_INSERT_JOB = """
INSERT INTO job (id, task, queue, priority, state, run_at, enqueued_at, max_attempts, fail_on_crash,
                 schedule, claim_no, owner, lease_until, started_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_INSERT_NEW_JOB = f"{_INSERT_JOB} ON CONFLICT (id) DO NOTHING"
_INSERT_BODY = "INSERT INTO body (id, payload) VALUES (?, ?)"
_INSERT_QUEUE = "INSERT OR IGNORE INTO queue (name) VALUES (?)"

_KNOWN = "SELECT id, task, payload FROM job JOIN body USING (id) WHERE id = ?"
_KNOWN_OF_MANY = """
SELECT job.id, task, payload
FROM json_each(?) JOIN job ON job.id = value JOIN body ON body.id = value"""

_PAUSED_OR_BUSY = "SELECT EXISTS (SELECT 1 FROM queue WHERE name = ?1 AND paused = 1)" + "".join(
    f" OR EXISTS (SELECT 1 FROM job WHERE state = 0 AND queue = ?1 AND priority = {level}"
    " AND suspect = 0 AND run_at <= ?2)"
    for level in LEVELS
)


def enqueue(
    sql: Sql,
    jobs: Sequence[NewJob],
    *,
    now: float = 0.0,
    max_pending: int | None = None,
    max_pending_total: int | None = None,
    claim_for: ClaimFor | None = None,
    clock: Callable[[], float] = lambda: 0.0,
    turns: Turns | None = None,
) -> list[Enqueued]:
    """Insert the jobs that are not known yet; see ``Backend.enqueue``.

    Everything that can be refused is refused before the first row is written.

    :param clock: tells when the leases of what is claimed begin.
    """
    limited = max_pending is not None or max_pending_total is not None
    if len(jobs) == 1:
        if limited:
            try:
                pending.check_room(sql, jobs, max_pending, max_pending_total)
            except QueueFullError:
                if _not_known(sql, jobs):
                    raise
                return [Enqueued(jobs[0].id, False)]
        return [_enqueue_one(sql, jobs[0], now, claim_for, clock, turns)]
    fresh = _not_known(sql, jobs)
    if limited:
        pending.check_room(sql, list(fresh.values()), max_pending, max_pending_total)
    owner, chosen, leased_at, lease_until = "", frozenset[str](), 0.0, 0.0
    if claim_for and turns:
        leased_at = clock()
        lease_until = leased_at + claim_for.lease
        owner, chosen = claim_for.owner, _choose(sql, fresh, now, claim_for.slots, turns)
    for queue in {job.queue for job in fresh.values()} - sql.queues:
        _add_queue(sql, queue)
    sql.run_many(
        _INSERT_JOB,
        [
            _as_running(job, owner, lease_until, now) if job.id in chosen else _as_waiting(job)
            for job in fresh.values()
        ],
    )
    sql.run_many(_INSERT_BODY, [(job.id, job.payload) for job in fresh.values()])
    answers = []
    for job in jobs:
        created = fresh.pop(job.id, None) is not None
        claim = _claim_of(job, owner, leased_at) if created and job.id in chosen else None
        answers.append(Enqueued(job.id, created, claim))
    return answers


def _enqueue_one(
    sql: Sql,
    job: NewJob,
    now: float,
    claim_for: ClaimFor | None,
    clock: Callable[[], float],
    turns: Turns | None,
) -> Enqueued:
    """What :func:`enqueue` does, in half the statements: most calls bring one job."""
    claimed = (
        claim_for is not None
        and turns is not None
        and claim_for.slots > 0
        and job.run_at <= now
        and not sql.value(_PAUSED_OR_BUSY, (job.queue, now))
    )
    owner, leased_at, lease_until = "", 0.0, 0.0
    if claim_for is not None:
        owner, leased_at = claim_for.owner, clock()
        lease_until = leased_at + claim_for.lease
    row = _as_running(job, owner, lease_until, now) if claimed else _as_waiting(job)
    if not sql.run(_INSERT_NEW_JOB, row):
        _not_known(sql, (job,))  # raises if it is another job
        return Enqueued(job.id, False)
    if job.queue not in sql.queues:
        _add_queue(sql, job.queue)
    sql.do(_INSERT_BODY, (job.id, job.payload))
    if claimed and turns is not None:
        turns.served(job.queue)
        return Enqueued(job.id, True, _claim_of(job, owner, leased_at))
    return Enqueued(job.id, True)


def _add_queue(sql: Sql, queue: str) -> None:
    sql.run(_INSERT_QUEUE, (queue,))
    sql.queues.add(queue)


def _not_known(sql: Sql, jobs: Sequence[NewJob]) -> dict[str, NewJob]:
    """The jobs to insert, by id.

    :raises JobConflictError: an id is taken by something else.
    """
    if len(jobs) == 1:
        rows = sql.rows(_KNOWN, (jobs[0].id,))
        if not rows:
            return {jobs[0].id: jobs[0]}
    else:
        rows = sql.rows(_KNOWN_OF_MANY, (json.dumps([job.id for job in jobs]),))
    known = {job_id: (task, payload) for job_id, task, payload in rows}
    fresh = {}
    for job in jobs:
        content = (job.task, bytes(job.payload))
        if known.setdefault(job.id, content) != content:
            raise JobConflictError(job.id)
        if known[job.id] is content:
            fresh[job.id] = job
    return fresh


def _choose(sql: Sql, fresh: dict[str, NewJob], now: float, slots: int, turns: Turns) -> frozenset[str]:
    """Which of the new jobs are claimed at once: those that nothing older waits before."""
    due: dict[str, list[list[tuple[float, str]]]] = {}
    for job in fresh.values():
        if job.run_at <= now:
            levels = due.setdefault(job.queue, [[] for _ in LEVELS])
            levels[job.priority].append((job.run_at, job.id))
    free = {
        queue: levels for queue, levels in due.items() if not sql.value(_PAUSED_OR_BUSY, (queue, now))
    }
    for levels in free.values():
        for level in levels:
            level.sort()
    return frozenset(job_id for _, job_id in turns.choose(free, slots, strict=False))


def _as_waiting(job: NewJob) -> Bindings:
    return (
        *(job.id, job.task, job.queue, job.priority, 0, float(job.run_at), job.enqueued_at),
        *(job.max_attempts, job.fail_on_crash, job.schedule, 0, None, None, None),
    )


def _as_running(job: NewJob, owner: str, lease_until: float, now: float) -> Bindings:
    return (
        *(job.id, job.task, job.queue, job.priority, 1, float(job.run_at), job.enqueued_at),
        *(job.max_attempts, job.fail_on_crash, job.schedule, 1, owner, lease_until, now),
    )


def _claim_of(job: NewJob, owner: str, leased_at: float) -> Claim:
    return Claim(
        id=job.id,
        task=job.task,
        queue=job.queue,
        payload=job.payload,
        owner=owner,
        claim_no=1,
        attempt=1,
        run_at=job.run_at,
        max_attempts=job.max_attempts,
        enqueued_at=job.enqueued_at,
        priority=job.priority,
        leased_at=leased_at,
    )
