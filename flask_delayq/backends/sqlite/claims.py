"""Taking due jobs to run them, keeping them, and saying when the next one is due.
Must not know transactions, threads or files; who goes next is decided by ``order.Turns``."""

from __future__ import annotations

import json
from bisect import insort
from collections.abc import Collection, Mapping, Sequence

from ...job import Claim, Priority, Renewal
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
_NAMED_QUEUES = "SELECT value AS name FROM json_each(?)"
_OPEN = " AND name NOT IN (SELECT name FROM queue WHERE paused = 1)"
_OPEN_WAITING_QUEUES = _WAITING_QUEUES + _OPEN
_OPEN_NAMED_QUEUES = _NAMED_QUEUES + " WHERE true" + _OPEN

_RESCUED = """
SELECT EXISTS (SELECT 1 FROM job WHERE state = 1 AND rescues > 0),
       EXISTS (SELECT 1 FROM job INDEXED BY job_waiting_rescued WHERE state = 0 AND rescues > 0)"""

_LEVEL = "FROM job WHERE state = 0 AND queue = ? AND priority = ?"
# All levels in one statement: each one lets other threads have the interpreter, and where these
# compute, it takes a millisecond to get it back.
_DUE = " UNION ALL ".join(
    f"""
SELECT * FROM (
    SELECT {level}, run_at, id FROM job
    WHERE state = 0 AND queue = ?1 AND priority = {level} AND run_at <= ?2 AND rescues = 0
    ORDER BY run_at, id LIMIT ?3
)"""
    for level in LEVELS
)
_DUE_RESCUED = """
SELECT priority, run_at, id FROM job INDEXED BY job_waiting_rescued
WHERE state = 0 AND rescues > 0 AND queue = ? AND run_at <= ?
ORDER BY priority, run_at, id LIMIT 1"""
_FIRST_OF_LEVEL = """
SELECT * FROM (
    SELECT run_at FROM job WHERE state = 0 AND queue = ?1 AND priority = {level} {more}
    ORDER BY run_at, id LIMIT 1
)"""
_FIRST, _FIRST_UNBLAMED = (
    " UNION ALL ".join(_FIRST_OF_LEVEL.format(level=level, more=more) for level in LEVELS)
    for more in ("", "AND rescues = 0")
)
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
    due = {queue: _due_levels(sql, queue, now, limit) for queue in open_queues(sql, queues)}
    if due:
        _add_one_rescued(sql, due, now)
    chosen = [row[1] for row in turns.choose(due, limit, strict)]
    rows = [sql.rows(_READ, (job_id,))[0] for job_id in chosen]
    sql.run_many(_TAKE, [(owner, lease_until, now, job_id) for job_id in chosen])
    sql.run_many(_CLEAR_PROGRESS, [(row[0],) for row in rows if row[11]])
    return [Claim(*(*row[:4], owner, *row[4:11])) for row in rows]


def _due_levels(sql: Sql, queue: str, now: float, limit: int) -> list[list[Row]]:
    """The due jobs of a queue that a claim of ``limit`` can come to, level by level."""
    levels: list[list[Row]] = [[] for _ in LEVELS]
    for level, run_at, job_id in sql.rows(_DUE, (queue, now, limit)):
        levels[level].append((run_at, job_id))
    return levels


def _add_one_rescued(sql: Sql, due: Mapping[str, list[list[Row]]], now: float) -> None:
    """Let the first due job that was rescued stand among the others, unless one runs."""
    ((running, waiting),) = sql.rows(_RESCUED)
    if running or not waiting:
        return
    heads = [(row, queue) for queue in due for row in sql.rows(_DUE_RESCUED, (queue, now))]
    if heads:
        (level, run_at, job_id), queue = min(heads)
        insort(due[queue][level], (run_at, job_id))


def _named(sql: Sql, queues: Sequence[str] | None) -> list[str]:
    if queues is None:
        return [name for (name,) in sql.rows(_WAITING_QUEUES)]
    return list(dict.fromkeys(queues))


def open_queues(sql: Sql, queues: Sequence[str] | None) -> list[str]:
    """The named queues, or all that hold waiting jobs, without the paused ones."""
    if queues is None:
        return [name for (name,) in sql.rows(_OPEN_WAITING_QUEUES)]
    names = json.dumps(list(dict.fromkeys(queues)))
    return [name for (name,) in sql.rows(_OPEN_NAMED_QUEUES, (names,))]


def next_due(sql: Sql, queues: Sequence[str] | None) -> float | None:
    """The earliest moment of a job that :func:`claim` would take then."""
    names = open_queues(sql, queues)
    first = _FIRST_UNBLAMED if names and sql.rows(_RESCUED)[0][0] else _FIRST
    return min((moment for queue in names for (moment,) in sql.rows(first, (queue,))), default=None)


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
