"""Taking jobs back from owners that died or let their lease end.
Must not know how death is told: it is given the owners that are dead."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from ...job import Failure, Rescue, Stored
from ...serializer import encode_failure
from .connection import Row, Sql

_LOST = """
SELECT job.id, task, queue, owner, rescues, fail_on_crash, interrupted, cancel_requested
FROM job INDEXED BY job_running
WHERE state = 1 AND (lease_until <= ? OR owner IN (SELECT value FROM json_each(?)))
ORDER BY id LIMIT ?"""

_BACK = "owner = NULL, lease_until = NULL, interrupted = 0"
_AGAIN = f"UPDATE job SET state = 0, rescues = ?, {_BACK} WHERE id = ?"
_END = f"UPDATE job SET state = ?, rescues = ?, finished_at = ?, {_BACK} WHERE id = ?"


def lost(sql: Sql, *, clock: float, dead: Sequence[str], limit: int) -> list[Row]:
    """The running jobs to take back.

    :param clock: the present on the leases' clock.
    :param dead: the dead owners.
    """
    return sql.rows(_LOST, (clock, json.dumps(dead), limit))


def rescue(
    sql: Sql, *, now: float, clock: float, dead: Sequence[str], max_rescues: int, limit: int
) -> list[Rescue]:
    """Let the lost jobs wait again, or end them; see ``Backend.rescue``."""
    return [
        _take_back(sql, row, now, max_rescues) for row in lost(sql, clock=clock, dead=dead, limit=limit)
    ]


def _take_back(sql: Sql, row: Row, now: float, max_rescues: int) -> Rescue:
    job_id, task, queue, owner, rescues, fail_on_crash, interrupted, cancel_requested = row
    if not interrupted:
        rescues += 1
    given_up = fail_on_crash or rescues > max_rescues
    if cancel_requested:
        state = Stored.CANCELLED
    elif given_up:
        state = Stored.FAILED
    else:
        state = Stored.WAITING
    if state is Stored.WAITING:
        sql.run(_AGAIN, (rescues, job_id))
    else:
        sql.run(_END, (int(state), rescues, now, job_id))
    if state is Stored.FAILED:
        error = encode_failure(_crash(rescues, fail_on_crash, interrupted))
        sql.run("UPDATE body SET error = ? WHERE id = ?", (error, job_id))
    return Rescue(job_id, task, queue, owner, rescues, state)


def _crash(rescues: int, fail_on_crash: bool, interrupted: bool) -> Failure:
    if interrupted:
        return Failure("Interrupted", "a stop cut the run off, and the task asks not to be repeated")
    if fail_on_crash:
        return Failure(
            "WorkerCrashed", "crashed the worker; the task asks not to be run again after that"
        )
    return Failure("WorkerCrashed", f"crashed the worker {rescues} times in a row")


def drop_processes(sql: Sql, gone: Collection[str]) -> list[str]:
    """Delete the records of owners in whose name no job runs any more; return which."""
    return [
        owner
        for owner in gone
        if sql.run(
            "DELETE FROM process WHERE owner = ?1"
            " AND NOT EXISTS (SELECT 1 FROM job WHERE state = 1 AND owner = ?1)",
            (owner,),
        )
    ]
