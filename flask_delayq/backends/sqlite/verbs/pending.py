"""The number of waiting jobs, per queue and in total: counted by triggers after the first limit is used.
Must not know transactions, threads or files; a store without limits has no triggers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from ....errors import QueueFullError
from ....job import NewJob
from ..file.connection import Sql

_ALL = 0  # the key of all queues together; the names of queues are strings

_ONE_MORE = f"""
    INSERT INTO pending VALUES (NEW.queue, 1), ({_ALL}, 1)
    ON CONFLICT (queue) DO UPDATE SET waiting = waiting + 1;"""
_ONE_LESS = f"UPDATE pending SET waiting = waiting - 1 WHERE queue IN (OLD.queue, {_ALL});"

# One table, so that a commit writes one more page, not two. Triggers are part of the file: every
# process counts from the same commit on, also processes without a limit.
_OBJECTS = (
    "CREATE TABLE pending (queue ANY PRIMARY KEY, waiting INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "INSERT INTO pending SELECT queue, count(*) FROM job WHERE state = 0 GROUP BY queue",
    f"INSERT INTO pending SELECT {_ALL}, count(*) FROM job WHERE state = 0",
    f"CREATE TRIGGER pending_comes AFTER INSERT ON job WHEN NEW.state = 0 BEGIN {_ONE_MORE} END",
    f"""CREATE TRIGGER pending_returns AFTER UPDATE OF state ON job
    WHEN OLD.state <> 0 AND NEW.state = 0 BEGIN {_ONE_MORE} END""",
    f"""CREATE TRIGGER pending_leaves AFTER UPDATE OF state ON job
    WHEN OLD.state = 0 AND NEW.state <> 0 BEGIN {_ONE_LESS} END""",
    f"CREATE TRIGGER pending_vanishes AFTER DELETE ON job WHEN OLD.state = 0 BEGIN {_ONE_LESS} END",
)
_IS_COUNTED = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'pending'"

_OF_ONE = f"SELECT queue, waiting FROM pending WHERE queue IN (?, {_ALL})"
_OF_SOME = f"""SELECT queue, waiting FROM pending
WHERE queue = {_ALL} OR queue IN (SELECT value FROM json_each(?))"""

_COUNTED = "SELECT queue, waiting FROM pending WHERE waiting <> 0"
_FOUND = f"""
SELECT queue, count(*) FROM job WHERE state = 0 GROUP BY queue
UNION ALL SELECT {_ALL}, count(*) FROM job WHERE state = 0"""


def check_room(
    sql: Sql, jobs: Sequence[NewJob], max_pending: int | None, max_pending_total: int | None
) -> None:
    """Refuse new jobs that would exceed a limit.

    :raises QueueFullError: they would.
    """
    if not jobs:
        return
    count_from_now_on(sql)
    more: Mapping[str, int]
    if len(jobs) == 1:  # most calls: it has to be quick
        queue = jobs[0].queue
        more = {queue: 1}
        waiting: dict[str | int, int] = dict(sql.rows(_OF_ONE, (queue,)))
    else:
        more = Counter(job.queue for job in jobs)
        waiting = dict(sql.rows(_OF_SOME, (json.dumps(list(more)),)))
    if max_pending is not None:
        for queue, coming in more.items():
            if waiting.get(queue, 0) + coming > max_pending:
                raise QueueFullError(queue, max_pending)
    if max_pending_total is not None and waiting[_ALL] + len(jobs) > max_pending_total:
        raise QueueFullError(None, max_pending_total)


def count_from_now_on(sql: Sql) -> None:
    """Create the counters, if there are none: this reads every waiting job once."""
    if "pending" in sql.made:
        return
    if sql.value(_IS_COUNTED) is None:
        for statement in _OBJECTS:
            sql.rows(statement)
    sql.made.add("pending")


def audit(sql: Sql) -> list[str]:
    """Differences between the counters, if there are any, and the rows."""
    if sql.value(_IS_COUNTED) is None:
        return []
    counted: dict[str | int, int] = dict(sql.rows(_COUNTED))
    found: dict[str | int, int] = dict(sql.rows(_FOUND))
    return [
        f"{'all queues' if key == _ALL else f'queue {key!r}'}: {found.get(key, 0)} jobs wait, "
        f"{counted.get(key, 0)} are counted"
        for key in sorted({*counted, *found}, key=str)
        if counted.get(key, 0) != found.get(key, 0)
    ]
