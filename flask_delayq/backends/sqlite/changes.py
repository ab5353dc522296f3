"""What a person does to jobs and queues: cancel, revive, pause, purge; and what age does: prune.
Must not know transactions, threads or files."""

from __future__ import annotations

from ...job import Failure, Stored
from ...serializer import encode_failure
from .connection import Sql

_STATE = "SELECT state FROM job WHERE id = ?"


def cancel(sql: Sql, job_id: str, *, now: float, reason: str) -> Stored | None:
    """Cancel a waiting job, ask a running one to stop; return its state afterwards."""
    state = sql.value(_STATE, (job_id,))
    if state is None:
        return None
    if state == Stored.WAITING:
        sql.run("UPDATE job SET state = 4, finished_at = ? WHERE id = ?", (now, job_id))
        if reason:
            error = encode_failure(Failure("Cancelled", reason))
            sql.run("UPDATE body SET error = ? WHERE id = ?", (error, job_id))
        return Stored.CANCELLED
    if state == Stored.RUNNING:
        sql.run("UPDATE job SET cancel_requested = 1 WHERE id = ?", (job_id,))
    return Stored(state)


def revive(sql: Sql, job_id: str, *, run_at: float) -> Stored | None:
    """Let a failed or cancelled job wait again; return its state before."""
    state = sql.value(_STATE, (job_id,))
    if state is None:
        return None
    if state in (Stored.FAILED, Stored.CANCELLED):
        sql.run(
            "UPDATE job SET state = 0, run_at = ?, attempt = 0, rescues = 0, finished_at = NULL,"
            " cancel_requested = 0 WHERE id = ?",
            (run_at, job_id),
        )
    return Stored(state)


def set_paused(sql: Sql, queue: str, paused: bool) -> None:
    """Mark a queue, known or not."""
    sql.run(
        "INSERT INTO queue (name, paused) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET paused = excluded.paused",
        (queue, paused),
    )


def purge(sql: Sql, queue: str, *, now: float, limit: int) -> int:
    """Cancel up to ``limit`` waiting jobs of a queue; return how many."""
    ids = sql.rows("SELECT id FROM job WHERE state = 0 AND queue = ? LIMIT ?", (queue, limit))
    sql.run_many(
        "UPDATE job SET state = 4, finished_at = ? WHERE id = ?", [(now, row[0]) for row in ids]
    )
    return len(ids)


def prunable(
    sql: Sql, *, finished_before: float, failed_before: float, keep: int | None, limit: int
) -> list[str]:
    """The ids of up to ``limit`` finished jobs to delete, the earliest finished first."""
    older = "SELECT id FROM job WHERE state = ? AND finished_at < ? ORDER BY finished_at LIMIT ?"
    bounds = (
        *((Stored.COMPLETED, finished_before), (Stored.CANCELLED, finished_before)),
        (Stored.FAILED, failed_before),
    )
    old: list[str] = []
    for state, before in bounds:
        query = older.replace("state = ?", f"state = {int(state)}")
        old += [row[0] for row in sql.rows(query, (before, limit - len(old)))]
    if keep is None or len(old) >= limit:
        return old
    total = sum(sql.value(f"SELECT count(*) FROM job WHERE state = {int(state)}") for state, _ in bounds)
    excess = min(limit, total - keep)
    chosen = dict.fromkeys(old)
    for states in ((2, 4), (3,)):
        rows = [
            row
            for state in states
            for row in sql.rows(
                f"SELECT finished_at, id FROM job WHERE state = {state} ORDER BY finished_at LIMIT ?",
                (max(0, excess),),
            )
        ]
        for _, job_id in sorted(rows):
            if len(chosen) >= excess:
                break
            chosen[job_id] = None
    return list(chosen)


def delete_finished(sql: Sql, ids: list[str]) -> int:
    """Delete those of the jobs that are still finished; return how many."""
    deleted = 0
    for job_id in ids:
        if sql.run("DELETE FROM job WHERE id = ? AND state >= 2", (job_id,)):
            deleted += sql.run("DELETE FROM body WHERE id = ?", (job_id,))
    return deleted
