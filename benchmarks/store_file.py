"""Fills a store's file by one ``INSERT ... SELECT`` per table: millions of copies of one job.
Knows of the format only that a job's rows have its ``id``, and the row in ``job`` also ``run_at``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from .alone import NotMeasured


def multiply(
    folder: Path,
    path: str,
    like: str,
    count: int,
    first: int = 1,
    due: float | None = None,
    every: float = 0.0,
) -> None:
    """Add ``count`` copies of the job ``like``. No process may have the file open.

    :param first: the number of the first copy; ids are made of numbers, so use no number twice.
    :param due: when the first copy is due; ``None``: when ``like`` is.
    :param every: seconds between the due moments of two copies.
    """
    import apsw

    connection = apsw.Connection(path)
    try:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN EXCLUSIVE")
        for table in _tables_with_id(connection, like):
            _multiply_rows(connection, table, like, first, count, due, every)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def forget(path: str, first: str) -> None:
    """Delete the job of this id and all jobs that were stored after it."""
    import apsw

    connection = apsw.Connection(path)
    connection.set_busy_timeout(20_000)
    connection.execute("BEGIN IMMEDIATE")
    for table in _tables_with_id(connection, first):
        connection.execute(f"DELETE FROM {table} WHERE id >= ?", (first,))
    connection.execute("COMMIT")
    connection.close()


def _tables_with_id(connection: Any, job: str) -> list[str]:
    """The tables that have rows of this job."""
    tables = [
        name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    ]
    return [
        table
        for table in tables
        if "id" in _columns(connection, table)
        and connection.execute(f"SELECT 1 FROM {table} WHERE id = ?", (job,)).fetchall()
    ]


def _columns(connection: Any, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def _multiply_rows(
    connection: Any, table: str, like: str, first: int, count: int, due: float | None, every: float
) -> None:
    columns = _columns(connection, table)
    new = {"id": "printf('%028x', number)"}
    if due is not None:
        new["run_at"] = f"{due!r} + (number - {first}) * {every!r}"
    values = ", ".join(new.get(column, column) for column in columns)
    connection.execute(
        f"WITH RECURSIVE numbers (number) AS (SELECT {first} UNION ALL SELECT number + 1 FROM numbers"
        f" LIMIT {count})"
        f" INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM numbers CROSS JOIN"
        f" (SELECT * FROM {table} WHERE id = '{like}')"
    )


def need_room(folder: Path, gigabytes: float) -> None:
    """:raises NotMeasured: the disk has less than that left."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes:
        raise NotMeasured(f"needs {gigabytes:g} GB of disk, there are {free:.1f}")
