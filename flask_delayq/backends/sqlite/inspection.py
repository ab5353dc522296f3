"""Asking about stored jobs and queues: reading only.
Must not know transactions, threads or files."""

from __future__ import annotations

from ...job import JobQuery, JobRecord, JobState, QueueInfo, Stored
from .connection import Row, Sql

_HOT = (
    *("id", "task", "queue", "priority", "state", "run_at", "enqueued_at", "attempt", "max_attempts"),
    *("fail_on_crash", "schedule", "claim_no", "owner", "rescues", "interrupted", "cancel_requested"),
    *("started_at", "finished_at"),
)
_COLUMNS = (*_HOT, "payload", "result", "error", "progress")

_GET = f"SELECT {', '.join(_COLUMNS)} FROM job JOIN body USING (id) WHERE id = ?"
_LIST = f"SELECT {', '.join(_HOT)}, x'', NULL, NULL, NULL FROM job NOT INDEXED"

_STATES = {
    JobState.SCHEDULED: "state = 0 AND run_at > :now",
    JobState.READY: "state = 0 AND run_at <= :now",
    JobState.RUNNING: "state = 1",
    JobState.COMPLETED: "state = 2",
    JobState.FAILED: "state = 3",
    JobState.CANCELLED: "state = 4",
}


def get(sql: Sql, job_id: str) -> JobRecord | None:
    """The job with everything that is stored of it."""
    row = sql.row(_GET, (job_id,))
    return _record(row) if row else None


def select(sql: Sql, query: JobQuery, now: float) -> list[JobRecord]:
    """Jobs that match, newest id first, without payload, result and error."""
    tests = []
    if query.states:
        tests.append("(" + " OR ".join(_STATES[JobState(state)] for state in query.states) + ")")
    if query.queue is not None:
        tests.append("queue = :queue")
    if query.task is not None:
        tests.append("task = :task")
    if query.before is not None:
        tests.append("id < :before")
    # By the key alone, newest first: an index would be followed by a sort of all that match.
    statement = f"{_LIST} WHERE {' AND '.join(tests) or '1'} ORDER BY id DESC LIMIT :limit"
    facts = {"now": now, "queue": query.queue, "task": query.task, "before": query.before}
    return [_record(row) for row in sql.rows(statement, {**facts, "limit": query.limit})]


def counts(sql: Sql, now: float) -> dict[str, int]:
    """How many jobs are in each state, by the partial indexes."""
    return {
        str(state): sql.value(
            f"SELECT count(*) FROM job WHERE {test}", {"now": now} if ":" in test else ()
        )
        for state, test in _STATES.items()
    }


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
    infos = []
    for name, paused in sql.rows("SELECT name, paused FROM queue ORDER BY name"):
        scheduled, ready, oldest_due = waiting.get(name, (0, 0, None))
        infos.append(QueueInfo(name, bool(paused), scheduled, ready, running.get(name, 0), oldest_due))
    return infos


def _record(row: Row) -> JobRecord:
    values = dict(zip(_COLUMNS, row, strict=True))
    values["stored"] = Stored(values.pop("state"))
    for name in ("fail_on_crash", "interrupted", "cancel_requested"):
        values[name] = bool(values[name])
    return JobRecord(**values)
