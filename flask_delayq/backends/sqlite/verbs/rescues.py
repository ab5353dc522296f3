"""Takes jobs back from owners that died or whose lease has ended.
Must not know how death is detected: it gets the dead owners."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence

from ....config import LONGEST_LEASE
from ....job import Rescue
from ....serializer import encode_failure
from ...crashes import CUT_OFF, verdict_of
from ..file.connection import Row, Sql

CERTAINLY_ENDED = 0.0
"""The moment as of which only leases have ended of which that was said, as those of an earlier boot."""

SLACK = 3600.0
"""Seconds by which others may have claimed after the moment as of which somebody judges."""

_LOST = """
SELECT id, task, queue, owner, claim_no, rescues, fail_on_crash, interrupted, cancel_requested
FROM job INDEXED BY job_running
WHERE state = 1 AND (lease_until <= ? OR lease_until > ? OR owner IN (SELECT value FROM json_each(?)))
      AND owner IS NOT ?
ORDER BY id LIMIT ?"""

_BACK = "owner = NULL, lease_until = NULL, interrupted = 0"
_BEGUN_ONCE = """
SELECT id FROM job INDEXED BY job_running
WHERE state = 1 AND owner = ? AND interrupted AND fail_on_crash AND NOT cancel_requested"""
_FAIL_BEGUN = f"UPDATE job SET state = 3, finished_at = ?, {_BACK} WHERE id = ?"
_RELEASE_ALL = f"""
UPDATE job SET state = iif(cancel_requested, 4, 0), finished_at = iif(cancel_requested, ?, NULL), {_BACK}
WHERE state = 1 AND owner = ?"""
_SET_ERROR = "UPDATE body SET error = ? WHERE id = ?"
_TAKE_BACK = f"UPDATE job SET state = ?, rescues = ?, suspect = ?, finished_at = ?, {_BACK} WHERE id = ?"


def lost(sql: Sql, *, clock: float, dead: Sequence[str], judge: str | None, limit: int) -> list[Row]:
    """The running jobs to take back.

    :param clock: the present on the leases' clock.
    :param dead: the dead owners.
    :param judge: the owner who asks; its own jobs are none of them.
    """
    # A lease that ends later than possible is from an earlier boot, whose clock was further ahead.
    impossible = clock + LONGEST_LEASE + SLACK if clock > CERTAINLY_ENDED else float("inf")
    return sql.rows(_LOST, (clock, impossible, json.dumps(dead), judge, limit))


def rescue(
    sql: Sql,
    *,
    now: float,
    clock: float,
    dead: Sequence[str],
    judge: str | None,
    max_rescues: int,
    limit: int,
    may_have_begun: Callable[[str, str, int], bool],
) -> list[Rescue]:
    """Let the lost jobs wait again, or end them; see ``Backend.rescue``.

    :param may_have_begun: asked for each of them (owner, job id, ``claim_no``).
    """
    rows = lost(sql, clock=clock, dead=dead, judge=judge, limit=limit)
    return [_take_back(sql, row, now, max_rescues, may_have_begun) for row in rows]


def _take_back(
    sql: Sql,
    row: Row,
    now: float,
    max_rescues: int,
    may_have_begun: Callable[[str, str, int], bool],
) -> Rescue:
    job_id, task, queue, owner, claim_no, rescues, fail_on_crash, interrupted, cancel_requested = row
    verdict = verdict_of(
        rescues=rescues,
        max_rescues=max_rescues,
        fail_on_crash=bool(fail_on_crash),
        interrupted=bool(interrupted),
        cancel_requested=bool(cancel_requested),
        begun=may_have_begun(owner, job_id, claim_no),
    )
    state = verdict.state
    finished_at = now if state.is_final else None
    sql.run(_TAKE_BACK, (int(state), verdict.rescues, verdict.suspect, finished_at, job_id))
    if verdict.failure is not None:
        sql.run(_SET_ERROR, (encode_failure(verdict.failure), job_id))
    return Rescue(job_id, task, queue, owner, verdict.rescues, state, verdict.charged, verdict.failure)


def withdraw(sql: Sql, owner: str, now: float) -> int:
    """Delete an owner's record and give back what runs in its name (``Backend.withdraw``); how many."""
    sql.run("DELETE FROM process WHERE owner = ?", (owner,))
    for (job_id,) in sql.rows(_BEGUN_ONCE, (owner,)):
        sql.run(_FAIL_BEGUN, (now, job_id))
        sql.run(_SET_ERROR, (encode_failure(CUT_OFF), job_id))
    return sql.run(_RELEASE_ALL, (now, owner))


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
