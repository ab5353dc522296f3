"""Asking about stored jobs and queues: reading only.
Must not know transactions, threads or files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....errors import JobNotFoundError
from ....ids import age_key, has_moment
from ....job import Failure, JobQuery, JobRecord, JobState, QueueInfo, StoredState
from ....serializer import encode_failure
from ..file.connection import Row, Sql
from ..file.schema import AGE_OF_CHOSEN, CHOSEN

_HOT = (
    *("id", "task", "queue", "priority", "state", "run_at", "enqueued_at", "attempt", "max_attempts"),
    *("fail_on_crash", "schedule", "claim_no", "owner", "rescues", "interrupted", "cancel_requested"),
    *("started_at", "finished_at"),
)
_COLUMNS = (*_HOT, "payload", "result", "error", "progress")

_GET = f"SELECT {', '.join(_COLUMNS)} FROM job JOIN body USING (id) WHERE id = ?"
_LIST = f"SELECT {', '.join(_HOT)}, x'', NULL, NULL, NULL FROM job"

_AGE = f"CASE WHEN {CHOSEN} THEN {AGE_OF_CHOSEN} ELSE id END"

_FEW = 2000

_STATES = {
    JobState.SCHEDULED: "state = 0 AND run_at > :now",
    JobState.READY: "state = 0 AND run_at <= :now",
    JobState.RUNNING: "state = 1",
    # The second term repeats the WHERE of the index: only then does SQLite use it.
    JobState.COMPLETED: "state = 2 AND state >= 2",
    JobState.FAILED: "state = 3 AND state >= 2",
    JobState.CANCELLED: "state = 4 AND state >= 2",
}


def get(sql: Sql, job_id: str) -> JobRecord | None:
    """The job with everything that is stored of it."""
    row = sql.row(_GET, (job_id,))
    return _record(row) if row else None


def select(sql: Sql, query: JobQuery, now: float) -> list[JobRecord]:
    """Jobs that match, newest first, without payload, result and error."""
    tests = []
    facts = {"now": now, "queue": query.queue, "task": query.task, "limit": query.limit}
    states = [_STATES[JobState(state)] for state in query.states]
    if query.queue is not None:
        tests.append("queue = :queue")
    if query.task is not None:
        tests.append("task = :task")
    if query.before is not None:
        facts["mark"] = _age(sql, query.before)
    if states and _few(sql, states, now):
        found = " UNION ALL ".join(f"SELECT id FROM job WHERE {state}" for state in states)
        return _page(sql, "", _AGE, [*tests, f"id IN ({found})"], facts)
    if states:  # the sign keeps SQLite from an index by state, which it would have to sort
        tests.append(f"({' OR '.join(states)})".replace("state", "+state"))
    chosen = _page(sql, " INDEXED BY job_chosen", AGE_OF_CHOSEN, [*tests, CHOSEN], facts)
    others = _page(sql, "", "id", [*tests, f"NOT {CHOSEN}"], facts)
    both = sorted(chosen + others, key=lambda job: age_key(job.id, job.enqueued_at), reverse=True)
    return both[: query.limit]


def _page(sql: Sql, walk: str, age: str, tests: list[str], facts: dict[str, Any]) -> list[JobRecord]:
    if "mark" in facts:
        tests.append(f"{age} < :mark")
    where = " AND ".join(tests) or "1"
    statement = f"{_LIST}{walk} WHERE {where} ORDER BY {age} DESC LIMIT :limit"
    return [_record(row) for row in sql.rows(statement, facts)]


def _age(sql: Sql, job_id: str) -> str:
    """Where a job stands in a list."""
    if has_moment(job_id):
        return job_id
    moment = sql.value("SELECT enqueued_at FROM job WHERE id = ?", (job_id,))
    if moment is None:
        raise JobNotFoundError(job_id)
    return age_key(job_id, moment)


def _few(sql: Sql, states: Sequence[str], now: float) -> bool:
    """Whether the jobs in these states are better sorted than found on a walk from the newest on."""
    counted = "SELECT count(*) FROM (SELECT 1 FROM job WHERE {} LIMIT :few)"
    return all(sql.value(counted.format(state), {"now": now, "few": _FEW}) < _FEW for state in states)


def counts(sql: Sql, now: float) -> dict[str, int]:
    """How many jobs are in each state, by the partial indexes."""
    count = "SELECT count(*) FROM job WHERE"
    return {str(state): sql.value(f"{count} {test}", {"now": now}) for state, test in _STATES.items()}


def queues(sql: Sql, now: float) -> list[QueueInfo]:
    """Every queue with what is in it, by name."""
    waiting = {
        row[0]: row[1:]
        for row in sql.rows(
            "SELECT queue, count(*) FILTER (WHERE run_at > ?1), count(*) FILTER (WHERE run_at <= ?1),"
            " min(run_at) FILTER (WHERE run_at <= ?1) FROM job WHERE state = 0 GROUP BY queue",
            (now,),
        )
    }
    running: dict[str, int] = dict(
        sql.rows("SELECT queue, count(*) FROM job WHERE state = 1 GROUP BY queue")
    )
    paused_by_name: dict[str, int] = dict(sql.rows("SELECT name, paused FROM queue"))
    infos = []
    # A queue that was forgotten and is used again by a process that knew it is listed by its jobs.
    for name in sorted({*paused_by_name, *waiting, *running}):
        paused = paused_by_name.get(name, 0)
        scheduled, ready, oldest_due = waiting.get(name, (0, 0, None))
        infos.append(QueueInfo(name, bool(paused), scheduled, ready, running.get(name, 0), oldest_due))
    return infos


def audit(sql: Sql) -> list[str]:
    """Jobs of which a part is missing."""
    wrong = [f"job {job_id!r} has lost its arguments" for (job_id,) in sql.rows(_WITHOUT_BODY)]
    wrong += [f"job {job_id!r} is gone, its arguments are left" for (job_id,) in sql.rows(_WITHOUT_JOB)]
    return wrong


_WITHOUT_BODY = "SELECT id FROM job WHERE id NOT IN (SELECT id FROM body)"
_WITHOUT_JOB = "SELECT id FROM body WHERE id NOT IN (SELECT id FROM job)"


def _record(row: Row) -> JobRecord:
    values = dict(zip(_COLUMNS, row, strict=True))
    number = values.pop("state")
    values["stored"] = StoredState.of(number)
    if values["stored"] != number:
        values["error"] = encode_failure(Failure("Unreadable", f"the row has the state {number}"))
    for name in ("fail_on_crash", "interrupted", "cancel_requested"):
        values[name] = bool(values[name])
    return JobRecord(**values)
