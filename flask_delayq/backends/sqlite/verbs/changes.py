"""Changes by people: cancel, revive, pause, purge; and changes by age: prune.
Must not know transactions, threads or files."""

from __future__ import annotations

from ....job import CANCELLED, Failure, StoredState
from ....serializer import encode_failure
from ..file.connection import Row, Sql

# The second term repeats the WHERE of the index: otherwise SQLite does not use the index.
_EARLIEST = """SELECT finished_at, id FROM job WHERE state = {} AND state >= 2 {}
ORDER BY finished_at, id LIMIT ?"""
_COUNTS = [f"SELECT count(*) FROM job WHERE state = {state} AND state >= 2" for state in (2, 3, 4)]

_STATE = "SELECT state FROM job WHERE id = ?"


def cancel(sql: Sql, job_id: str, *, now: float, reason: str) -> StoredState | None:
    """Cancel a waiting job, ask a running one to stop; return its state afterwards."""
    state = sql.value(_STATE, (job_id,))
    if state is None:
        return None
    if state == StoredState.WAITING:
        sql.run("UPDATE job SET state = 4, finished_at = ? WHERE id = ?", (now, job_id))
        if reason:
            error = encode_failure(Failure(CANCELLED, reason))
            sql.run("UPDATE body SET error = ? WHERE id = ?", (error, job_id))
        return StoredState.CANCELLED
    if state == StoredState.RUNNING:
        sql.run("UPDATE job SET cancel_requested = 1 WHERE id = ?", (job_id,))
    return StoredState.of(state)


def revive(sql: Sql, job_id: str, *, run_at: float) -> StoredState | None:
    """Let a failed or cancelled job wait again; return its state before."""
    state = sql.value(_STATE, (job_id,))
    if state is None:
        return None
    if state in (StoredState.FAILED, StoredState.CANCELLED):
        sql.run(
            "UPDATE job SET state = 0, run_at = ?1, enqueued_at = ?1, attempt = 0, rescues = 0,"
            " suspect = 0, finished_at = NULL, cancel_requested = 0, lease_until = NULL WHERE id = ?2",
            (run_at, job_id),
        )
    return StoredState.of(state)


def pause(sql: Sql, queue: str) -> None:
    """Mark a queue, known or not."""
    sql.run(
        "INSERT INTO queue (name, paused) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET paused = 1",
        (queue,),
    )


def resume(sql: Sql, queue: str) -> None:
    """Remove the mark; an unknown queue has none."""
    sql.run("UPDATE queue SET paused = 0 WHERE name = ?", (queue,))


def unused_queues(sql: Sql) -> tuple[list[str], list[str]]:
    """The queues to forget, and the queues of jobs that are not listed: their enqueuer knew the queue
    before it was forgotten."""
    used = {name for (name,) in sql.rows("SELECT DISTINCT queue FROM job")}
    listed: dict[str, int] = dict(sql.rows("SELECT name, paused FROM queue"))
    empty = [name for name, paused in listed.items() if name not in used and not paused]
    return empty[:FORGOTTEN_AT_ONCE], list(used.difference(listed))


def forget_queues(sql: Sql, empty: list[str], unlisted: list[str]) -> int:
    """Forget those that are still empty, list the others; return how many were forgotten."""
    forgotten = 0
    for name in empty:
        forgotten += sql.run(_FORGET, (name,))
    if sql.value("SELECT 1 FROM sqlite_schema WHERE name = 'pending'"):
        sql.run_many("DELETE FROM pending WHERE queue = ? AND waiting = 0", [(name,) for name in empty])
    sql.run_many("INSERT OR IGNORE INTO queue (name) VALUES (?)", [(name,) for name in unlisted])
    sql.queues.difference_update(empty)
    return forgotten


FORGOTTEN_AT_ONCE = 5000
"""Queues forgotten in one transaction at most."""

_FORGET = """
DELETE FROM queue WHERE name = ?1 AND paused = 0
AND NOT EXISTS (SELECT 1 FROM job WHERE state = 0 AND queue = ?1)
AND NOT EXISTS (SELECT 1 FROM job WHERE state = 1 AND queue = ?1)"""


def purge(sql: Sql, queue: str, *, now: float, limit: int) -> int:
    """Cancel up to ``limit`` waiting jobs of a queue; return how many."""
    ids = sql.rows("SELECT id FROM job WHERE state = 0 AND queue = ? LIMIT ?", (queue, limit))
    sql.run_many(
        "UPDATE job SET state = 4, finished_at = ? WHERE id = ?", [(now, row[0]) for row in ids]
    )
    return len(ids)


# `lease_until`: not for a `run_at` that a retry or snooze has set (see outcomes.py).
_DUE_TOO_LATE = "state = 0 AND run_at > ? AND run_at <= enqueued_at AND lease_until IS NULL"


def due_too_late(sql: Sql, now: float) -> list[str]:
    """Some waiting jobs that were due when they were enqueued, and are not by this clock."""
    return [row[0] for row in sql.rows(f"SELECT id FROM job WHERE {_DUE_TOO_LATE} LIMIT 1000", (now,))]


def bring_forward(sql: Sql, ids: list[str], now: float) -> int:
    """Make those of them due now that still wait and are still too late; return how many."""
    statement = f"UPDATE job SET run_at = ? WHERE id = ? AND {_DUE_TOO_LATE}"
    return sum(sql.run(statement, (now, job_id, now)) for job_id in ids)


def prunable(
    sql: Sql, *, finished_before: float, failed_before: float, keep: int | None, limit: int
) -> list[str]:
    """The ids of up to ``limit`` finished jobs to delete, those of the two ages first."""
    completed = _earliest(sql, StoredState.COMPLETED, limit, before=finished_before)
    cancelled = _earliest(sql, StoredState.CANCELLED, limit, before=finished_before)
    failed = _earliest(sql, StoredState.FAILED, limit, before=failed_before)
    old = [job_id for _, job_id in completed + cancelled + failed][:limit]
    if keep is None or len(old) == limit:
        return old
    excess = min(limit, sum(map(sql.value, _COUNTS)) - keep)
    chosen = dict.fromkeys(old)
    for states in (StoredState.COMPLETED, StoredState.CANCELLED), (StoredState.FAILED,):
        rows = sorted(row for state in states for row in _earliest(sql, state, max(0, excess)))
        for _, job_id in rows:
            if len(chosen) < excess:
                chosen[job_id] = None
    return list(chosen)


def _earliest(sql: Sql, state: StoredState, limit: int, *, before: float | None = None) -> list[Row]:
    statement = _EARLIEST.format(int(state), "" if before is None else "AND finished_at < ?")
    return sql.rows(statement, (limit,) if before is None else (before, limit))


def delete_finished(sql: Sql, ids: list[str]) -> int:
    """Delete those of the jobs that are still finished; return how many."""
    deleted = 0
    for job_id in ids:
        if sql.run("DELETE FROM job WHERE id = ? AND state >= 2", (job_id,)):
            deleted += sql.run("DELETE FROM body WHERE id = ?", (job_id,))
    return deleted
