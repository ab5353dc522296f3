"""Claims due jobs, renews claims, and finds out when the next job is due.
Must not know transactions, threads or files; ``order.Turns`` decides the order."""

from __future__ import annotations

import json
from bisect import insort
from collections.abc import Callable, Collection, Mapping, Sequence

from ....job import Claim, Priority, Renewal
from ...order import Turns
from ..file.connection import Row, Sql, Value
from . import by_task
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

# Whether a suspect may be claimed: one waits, and the owner runs none.
_SUSPECT_MAY_RUN = """
SELECT EXISTS (SELECT 1 FROM job INDEXED BY job_waiting_suspect WHERE state = 0 AND suspect = 1)
       AND NOT EXISTS (SELECT 1 FROM job INDEXED BY job_running_suspect
                       WHERE state = 1 AND suspect = 1 AND owner = ?)"""

_LINE = "FROM job WHERE state = 0 AND queue = ? AND priority = ? AND suspect = ?"
# All levels in one statement: each statement releases the GIL, and beside CPU-bound threads it takes a
# millisecond to get it back.
_DUE = " UNION ALL ".join(
    f"""
SELECT * FROM (
    SELECT {level}, run_at, id FROM job
    WHERE state = 0 AND queue = ?1 AND priority = {level} AND suspect = 0 AND run_at <= ?2
    ORDER BY run_at, id LIMIT ?3
)"""
    for level in LEVELS
)
_DUE_SUSPECT = """
SELECT priority, run_at, id FROM job INDEXED BY job_waiting_suspect
WHERE state = 0 AND suspect = 1 AND queue = ? AND run_at <= ?
ORDER BY priority, run_at, id LIMIT 1"""
_FIRST_OF_LINE = """
SELECT * FROM (
    SELECT run_at FROM job
    WHERE state = 0 AND queue = ?1 AND priority = {level} AND suspect = {suspect}
    ORDER BY run_at, id LIMIT 1
)"""
_FIRST_UNSUSPECTED, _FIRST_SUSPECT = (
    " UNION ALL ".join(_FIRST_OF_LINE.format(level=level, suspect=suspect) for level in LEVELS)
    for suspect in (0, 1)
)
_FIRST = f"{_FIRST_UNSUSPECTED} UNION ALL {_FIRST_SUSPECT}"
_PAGE, _PAGE_OF_TASK = (
    f"SELECT run_at, id {_LINE} {more} AND run_at > ? AND run_at <= ? ORDER BY run_at, id LIMIT ?"
    for more in ("", "AND task = ?")
)
_MOMENT, _MOMENT_OF_TASK = (
    f"SELECT run_at, id {_LINE} {more} AND run_at = ? ORDER BY id" for more in ("", "AND task = ?")
)

_READ = """
SELECT id, task, queue, payload, claim_no + 1, attempt + 1, run_at, rescues, max_attempts,
       enqueued_at, priority, progress IS NOT NULL
FROM job JOIN body USING (id) WHERE id = ?"""
_TAKE = """
UPDATE job SET state = 1, owner = ?, lease_until = ?, claim_no = claim_no + 1, started_at = ?,
               interrupted = 0
WHERE id = ?"""
_PROVE = "INSERT OR REPLACE INTO meta VALUES ('renewed_at', ?)"
_CLEAR_PROGRESS = "UPDATE body SET progress = NULL WHERE id = ?"


def claim(
    sql: Sql,
    queues: Sequence[str] | None,
    *,
    now: float,
    limit: int,
    owner: str,
    lease: float,
    clock: Callable[[], float],
    turns: Turns,
    strict: bool,
    tasks: Collection[str] | None,
) -> list[Claim]:
    """Make up to ``limit`` due jobs running ones; see ``Backend.claim``."""
    due = {queue: _due_levels(sql, queue, now, limit, tasks) for queue in open_queues(sql, queues)}
    if due:
        _add_one_suspect(sql, due, now, owner, tasks)
    chosen = [row[1] for row in turns.choose(due, limit, strict)]
    rows = [sql.rows(_READ, (job_id,))[0] for job_id in chosen]
    # Not before: waiting for the store and searching many queues takes time.
    leased_at = clock()
    sql.run_many(_TAKE, [(owner, leased_at + lease, now, job_id) for job_id in chosen])
    sql.run_many(_CLEAR_PROGRESS, [(row[0],) for row in rows if row[11]])
    return [Claim(*(*row[:4], owner, *row[4:11], leased_at)) for row in rows]


def _due_levels(
    sql: Sql, queue: str, now: float, limit: int, tasks: Collection[str] | None
) -> list[list[Row]]:
    """The due jobs of a queue that a claim of ``limit`` jobs may need, level by level."""
    if tasks is not None:
        return [by_task.due(sql, queue, level, 0, tasks, now, limit) for level in LEVELS]
    levels: list[list[Row]] = [[] for _ in LEVELS]
    for level, run_at, job_id in sql.rows(_DUE, (queue, now, limit)):
        levels[level].append((run_at, job_id))
    return levels


def _add_one_suspect(
    sql: Sql,
    due: Mapping[str, list[list[Row]]],
    now: float,
    owner: str,
    tasks: Collection[str] | None,
) -> None:
    """Add the first due suspect to the others, unless the owner runs one."""
    if not sql.value(_SUSPECT_MAY_RUN, (owner,)):
        return
    if tasks is None:
        heads = [(row, queue) for queue in due for row in sql.rows(_DUE_SUSPECT, (queue, now))]
    else:
        heads = [
            ((level, *row), queue)
            for queue in due
            for level in LEVELS
            for row in by_task.due(sql, queue, level, 1, tasks, now, 1)
        ]
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


def next_due(
    sql: Sql, queues: Sequence[str] | None, owner: str, tasks: Collection[str] | None
) -> float | None:
    """The earliest ``run_at`` of a job that :func:`claim` could take then."""
    names = open_queues(sql, queues)
    with_suspects = bool(names) and sql.value(_SUSPECT_MAY_RUN, (owner,))
    if tasks is not None:
        kinds = (0, 1) if with_suspects else (0,)
        lines = [(queue, level, suspect) for queue in names for level in LEVELS for suspect in kinds]
        return min((at for line in lines for at in by_task.first(sql, *line, tasks)), default=None)
    first = _FIRST if with_suspects else _FIRST_UNSUSPECTED
    return min((moment for queue in names for (moment,) in sql.rows(first, (queue,))), default=None)


def upcoming(
    sql: Sql,
    queues: Sequence[str] | None,
    *,
    after: float,
    until: float,
    limit: int,
    tasks: Collection[str] | None,
) -> list[tuple[float, str]]:
    """A page of waiting jobs that ends with a whole moment; see ``Backend.upcoming``."""
    names = _named(sql, queues)
    kinds = [(queue, level, suspect) for queue in names for level in LEVELS for suspect in (0, 1)]
    page_of, moment_of = _PAGE, _MOMENT
    lines: list[tuple[Value, ...]] = [*kinds]
    if tasks is not None:
        lines = [line for kind in kinds for line in by_task.lines(sql, *kind, tasks)]
        page_of, moment_of = _PAGE_OF_TASK, _MOMENT_OF_TASK
    found = sorted(row for line in lines for row in sql.rows(page_of, (*line, after, until, limit)))
    if len(found) < limit or not found:
        return found
    last = found[limit - 1][0]
    page = [row for row in found if row[0] < last]
    page += sorted(row for line in lines for row in sql.rows(moment_of, (*line, last)))
    return page


def renew(
    sql: Sql, owner: str, held: Collection[Claim], *, clock: float, lease: float, now: float
) -> Renewal:
    """Extend the leases of held claims, release running jobs that are not held; see
    ``Backend.renew``."""
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
        # An interrupted run may still go on in an abandoned thread.
        if numbers.get(job_id) == claim_no or interrupted:
            kept.append((clock + lease, job_id))
        elif lease_until <= clock + lease - lease / 6:
            orphans.append((now, job_id, owner, claim_no))
    if kept or orphans:
        sql.run_many("UPDATE job SET lease_until = ? WHERE id = ?", kept)
        sql.run_many(RELEASE, orphans)
    else:
        sql.run(_PROVE, (now,))  # a real write; the lock alone does not prove that writes work
    return Renewal(
        lost=tuple(one.id for one in held if stored.get(one.id, (None,))[0] != one.claim_no),
        released=tuple(orphan[1] for orphan in orphans),
    )
