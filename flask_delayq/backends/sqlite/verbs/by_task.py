"""Waiting jobs by task, for processes that claim only some tasks.
Must not know transactions, threads or files; unused while all processes know all tasks."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ..file.connection import Row, Sql

# It costs about 2 us per job, so it is created only when a process first claims by task. Without it
# everything here is correct, but its cost grows with the number of jobs.
_INDEX = """
CREATE INDEX IF NOT EXISTS job_waiting_by_task
ON job (queue, priority, suspect, task, run_at, id) WHERE state = 0"""

_LINE = "state = 0 AND queue = ? AND priority = ? AND suspect = ?"
_NEXT_TASK = f"SELECT min(task) FROM job WHERE {_LINE} AND task > ?"
_DUE = f"""
SELECT run_at, id FROM job WHERE {_LINE} AND task = ? AND run_at <= ? ORDER BY run_at, id LIMIT ?"""
_FIRST = f"SELECT run_at FROM job WHERE {_LINE} AND task = ? ORDER BY run_at LIMIT 1"

_COUNTED = "SELECT task, count(*), min(run_at) FROM job WHERE state = 0 GROUP BY task ORDER BY task"


def make_index(sql: Sql) -> None:
    """Order the waiting jobs by task from now on, if they are not yet."""
    if _INDEX not in sql.made:
        sql.rows(_INDEX)
        sql.made.add(_INDEX)


def lines(
    sql: Sql, queue: str, level: int, suspect: int, tasks: Collection[str]
) -> Iterator[tuple[str, int, int, str]]:
    """The lines (queue, priority, suspect, task) in which jobs of these tasks wait.

    It goes from one waiting task to the next, with one seek each: there are few of them.
    """
    task = sql.value(_NEXT_TASK, (queue, level, suspect, ""))
    while task is not None:
        if task in tasks:
            yield queue, level, suspect, task
        task = sql.value(_NEXT_TASK, (queue, level, suspect, task))


def due(
    sql: Sql, queue: str, level: int, suspect: int, tasks: Collection[str], now: float, limit: int
) -> list[Row]:
    """The first due jobs of one level, as (run_at, id)."""
    found = [
        row
        for line in lines(sql, queue, level, suspect, tasks)
        for row in sql.rows(_DUE, (*line, now, limit))
    ]
    return sorted(found)[:limit]


def first(sql: Sql, queue: str, level: int, suspect: int, tasks: Collection[str]) -> list[float]:
    """The earliest moment of each line."""
    return [sql.value(_FIRST, line) for line in lines(sql, queue, level, suspect, tasks)]


def waiting(sql: Sql) -> list[Row]:
    """Every task with waiting jobs, how many, and the earliest moment."""
    return sql.rows(_COUNTED)
