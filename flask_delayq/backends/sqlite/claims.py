"""Taking due jobs to run them, keeping them, and saying when the next one is due.
Must not know transactions, threads or files; who goes next is decided by ``order.Turns``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ...job import Claim, Priority, Renewal
from ..base import TURN_OF_THE_OLDEST
from ..order import Turns
from .connection import Row, Sql
from .outcomes import RELEASE

LEVELS = tuple(int(level) for level in Priority)

# Every queue with a waiting job, by one seek each ("loose index scan", SQLite: queryplanner-ng).
_WAITING_QUEUES = """
WITH RECURSIVE found (name) AS (
    SELECT min(queue) FROM job WHERE state = 0
    UNION ALL
    SELECT (SELECT min(queue) FROM job WHERE state = 0 AND queue > found.name)
    FROM found WHERE found.name IS NOT NULL
)
SELECT name FROM found WHERE name IS NOT NULL"""
_PAUSED_QUEUES = "SELECT name FROM queue WHERE paused = 1"

RESCUED_RUNS = "SELECT EXISTS (SELECT 1 FROM job WHERE state = 1 AND rescues > 0)"

_LEVEL = "FROM job WHERE state = 0 AND queue = ? AND priority = ?"
_DUE = f"SELECT run_at, id, rescues {_LEVEL} AND run_at <= ? ORDER BY run_at, id LIMIT ?"
_DUE_UNBLAMED = (
    f"SELECT run_at, id, rescues {_LEVEL} AND run_at <= ? AND rescues = 0 ORDER BY run_at, id LIMIT ?"
)
_FIRST = f"SELECT run_at {_LEVEL} ORDER BY run_at, id LIMIT 1"
_FIRST_UNBLAMED = f"SELECT run_at {_LEVEL} AND rescues = 0 ORDER BY run_at, id LIMIT 1"
_PAGE = f"SELECT run_at, id {_LEVEL} AND run_at > ? AND run_at <= ? ORDER BY run_at, id LIMIT ?"
_MOMENT = f"SELECT run_at, id {_LEVEL} AND run_at = ? ORDER BY id"

_READ = """
SELECT id, task, queue, payload, claim_no + 1, attempt + 1, run_at, rescues, max_attempts,
       enqueued_at, priority, progress IS NOT NULL
FROM job JOIN body USING (id) WHERE id = ?"""
_TAKE = """
UPDATE job SET state = 1, owner = ?, lease_until = ?, claim_no = claim_no + 1, started_at = ?,
               interrupted = 0
WHERE id = ?"""
_CLEAR_PROGRESS = "UPDATE body SET progress = NULL WHERE id = ?"


def claim(
    sql: Sql,
    queues: Sequence[str] | None,
    *,
    now: float,
    limit: int,
    owner: str,
    lease_until: float,
    turns: Turns,
    strict: bool,
) -> list[Claim]:
    """Make up to ``limit`` due jobs running ones; see ``Backend.claim``."""
    blamed_may_run = not sql.value(RESCUED_RUNS)
    due = {}
    for queue in open_queues(sql, queues):
        levels = _due_levels(sql, queue, now, limit, strict, blamed_may_run)
        if any(levels):
            due[queue] = levels
            # At most one rescued job runs at a time: once one is on the list, no other may be.
            blamed_may_run &= not any(row[2] for level in levels for row in level)
    chosen = [row[1] for row in turns.choose(due, limit, strict)]
    rows = [sql.rows(_READ, (job_id,))[0] for job_id in chosen]
    sql.run_many(_TAKE, [(owner, lease_until, now, job_id) for job_id in chosen])
    sql.run_many(_CLEAR_PROGRESS, [(row[0],) for row in rows if row[11]])
    return [Claim(*(*row[:4], owner, *row[4:11])) for row in rows]


def _due_levels(
    sql: Sql, queue: str, now: float, limit: int, strict: bool, blamed_may_run: bool
) -> list[list[Row]]:
    """The due jobs of a queue that a claim of ``limit`` can come to, level by level."""
    wanted, of_the_oldest = limit, 0 if strict else limit // TURN_OF_THE_OLDEST + 1
    levels = []
    for level in LEVELS:
        count = min(limit, wanted + of_the_oldest)
        rows = sql.rows(_DUE, (queue, level, now, count)) if count else []
        blamed = [row for row in rows if row[2]]
        if len(blamed) > blamed_may_run:
            rows = sql.rows(_DUE_UNBLAMED, (queue, level, now, count))
            if blamed_may_run:
                rows = sorted([*rows, blamed[0]])[:count]
        blamed_may_run &= not blamed
        wanted = max(0, wanted - len(rows))
        levels.append(rows)
    return levels


def _named(sql: Sql, queues: Sequence[str] | None) -> list[str]:
    if queues is None:
        return [name for (name,) in sql.rows(_WAITING_QUEUES)]
    return list(dict.fromkeys(queues))


def open_queues(sql: Sql, queues: Sequence[str] | None) -> list[str]:
    """The named queues, or all that hold waiting jobs, without the paused ones."""
    names = _named(sql, queues)
    paused = {name for (name,) in sql.rows(_PAUSED_QUEUES)} if names else set()
    return [name for name in names if name not in paused]


def next_due(sql: Sql, queues: Sequence[str] | None) -> float | None:
    """The earliest moment of a job that :func:`claim` would take then."""
    first = _FIRST_UNBLAMED if sql.value(RESCUED_RUNS) else _FIRST
    moments = [
        moment
        for queue in open_queues(sql, queues)
        for level in LEVELS
        for (moment,) in sql.rows(first, (queue, level))
    ]
    return min(moments, default=None)


def upcoming(
    sql: Sql, queues: Sequence[str] | None, *, after: float, until: float, limit: int
) -> list[tuple[float, str]]:
    """A page of waiting jobs that ends with a whole moment; see ``Backend.upcoming``."""
    lines = [(queue, level) for queue in _named(sql, queues) for level in LEVELS]
    found = sorted(row for line in lines for row in sql.rows(_PAGE, (*line, after, until, limit)))
    if len(found) < limit or not found:
        return found
    last = found[limit - 1][0]
    page = [row for row in found if row[0] < last]
    page += sorted(row for line in lines for row in sql.rows(_MOMENT, (*line, last)))
    return page


def renew(
    sql: Sql, owner: str, held: Collection[Claim], *, clock: float, lease: float, now: float
) -> Renewal:
    """Extend the leases of what is held, release what nobody holds; see ``Backend.renew``."""
    numbers: Mapping[str, int] = {one.id: one.claim_no for one in held}
    stored = {
        job_id: (claim_no, lease_until, interrupted)
        for job_id, claim_no, lease_until, interrupted in sql.rows(
            "SELECT id, claim_no, lease_until, interrupted FROM job WHERE state = 1 AND owner = ?",
            (owner,),
        )
    }
    kept, orphans = [], []
    for job_id, (claim_no, lease_until, interrupted) in stored.items():
        # An interrupted run may still be going on in a thread that was given up.
        if numbers.get(job_id) == claim_no or interrupted:
            kept.append((clock + lease, job_id))
        elif lease_until <= clock + lease - lease / 6:
            orphans.append((now, job_id, owner, claim_no))
    sql.run_many("UPDATE job SET lease_until = ? WHERE id = ?", kept)
    sql.run_many(RELEASE, orphans)
    return Renewal(
        lost=tuple(one.id for one in held if stored.get(one.id, (None,))[0] != one.claim_no),
        released=tuple(orphan[1] for orphan in orphans),
    )
