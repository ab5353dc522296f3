"""The records of processes that run jobs.
Must not know how it is found out whether a process is alive."""

from __future__ import annotations

from ....job import ProcessRecord
from ..file.connection import Sql


def announce(sql: Sql, process: ProcessRecord, *, marked: bool) -> None:
    """Store or refresh a record; ``marked``: a sign of life is kept for it."""
    sql.run(
        "INSERT OR REPLACE INTO process (owner, pid, host, started_at, seen_at, info, marked)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            *(process.owner, process.pid, process.host, process.started_at, process.seen_at),
            *(process.info, marked),
        ),
    )


def select(sql: Sql) -> list[tuple[ProcessRecord, bool]]:
    """All records, oldest first, each with whether a sign of life is kept for it."""
    return [
        (ProcessRecord(*row[:6]), bool(row[6]))
        for row in sql.rows(
            "SELECT owner, pid, host, started_at, seen_at, info, marked FROM process"
            " ORDER BY started_at, owner"
        )
    ]


def owners(sql: Sql) -> set[str]:
    """Those that have a record."""
    return {owner for (owner,) in sql.rows("SELECT owner FROM process")}
