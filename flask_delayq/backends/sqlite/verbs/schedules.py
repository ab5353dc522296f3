"""Periodic rules and their occurrences.
Must not know what a rule means: the caller passes the next due moment."""

from __future__ import annotations

from ....job import Enqueued, NewJob, ScheduleRecord
from ..file.connection import Row, Sql
from .enqueueing import enqueue

_NAMES = (
    *("name", "task", "payload", "rule", "queue", "priority", "next_due", "last_due", "generation"),
    *("paused", "from_code", "max_attempts", "fail_on_crash"),
)
_SELECT = f"SELECT {', '.join(_NAMES)} FROM schedule"
_PUT = f"INSERT OR REPLACE INTO schedule ({', '.join(_NAMES)}) VALUES ({', '.join('?' * len(_NAMES))})"


def put(sql: Sql, schedule: ScheduleRecord, *, replace: bool) -> ScheduleRecord:
    """Store a schedule; an unchanged rule keeps its due moment. See ``Schedulable.put_schedule``."""
    found = sql.row(f"{_SELECT} WHERE name = ?", (schedule.name,))
    values = {name: getattr(schedule, name) for name in _NAMES}
    if found:
        old = _record(found)
        if not replace:
            return old
        values |= {"last_due": old.last_due, "paused": old.paused, "generation": old.generation}
        if old.rule == schedule.rule:
            values["next_due"] = old.next_due
        else:
            values["generation"] += 1
    sql.run(_PUT, tuple(values.values()))
    return ScheduleRecord(**values)


def select(sql: Sql) -> list[ScheduleRecord]:
    """All schedules, by name."""
    return [_record(row) for row in sql.rows(f"{_SELECT} ORDER BY name")]


def pause(sql: Sql, name: str, paused: bool, next_due: float | None) -> bool:
    """Pause or resume a schedule; returns whether it exists."""
    return bool(
        sql.run(
            "UPDATE schedule SET paused = ?, next_due = coalesce(?, next_due) WHERE name = ?",
            (paused, next_due, name),
        )
    )


def next_occurrence(sql: Sql) -> float | None:
    """The earliest due moment of the schedules that are not paused."""
    moment: float | None = sql.value("SELECT min(next_due) FROM schedule WHERE paused = 0")
    return moment


def fire(sql: Sql, schedule: ScheduleRecord, job: NewJob | None, *, next_due: float) -> Enqueued | None:
    """Advance the schedule, and only then enqueue its occurrence; see ``Schedulable.fire``."""
    moved = sql.run(
        "UPDATE schedule SET last_due = next_due, next_due = ?"
        " WHERE name = ? AND paused = 0 AND generation = ? AND next_due = ?",
        (next_due, schedule.name, schedule.generation, schedule.next_due),
    )
    return enqueue(sql, [job])[0] if moved and job else None


def remove(sql: Sql, name: str) -> bool:
    """Delete a schedule; whether there was one."""
    return bool(sql.run("DELETE FROM schedule WHERE name = ?", (name,)))


def _record(row: Row) -> ScheduleRecord:
    values = dict(zip(_NAMES, row, strict=True))
    for name in ("paused", "from_code", "fail_on_crash"):
        values[name] = bool(values[name])
    return ScheduleRecord(**values)
