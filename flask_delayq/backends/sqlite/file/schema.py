"""The tables: creates a store in a new file, upgrades an old one, and refuses any other file.
Must not know what the rows mean to the verbs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import apsw

from ....clock import machine_time
from ....errors import StoreMismatchError
from ..host.boots import UNKNOWN_BOOT
from .connection import Sql

APPLICATION_ID = 0x44_4C_59_51  # "DLYQ"
VERSION = 2

# Waiting jobs, due or not, share one index, so that no write is needed when a job becomes due. In this
# index suspects are separate, so that a claim need not skip them.
# The states are literals in all statements: otherwise SQLite does not use a partial index.
_WAITING_AND_SUSPECTS = """
CREATE INDEX job_waiting ON job (queue, priority, suspect, run_at, id) WHERE state = 0;
CREATE INDEX job_waiting_suspect ON job (queue, priority, run_at, id) WHERE state = 0 AND suspect = 1;
CREATE INDEX job_running_suspect ON job (owner) WHERE state = 1 AND suspect = 1;
"""

# A list begins with the jobs enqueued last. Ids made by `new_id` begin with their time; ids that people
# chose do not, so only these are in an index, by `ids.age_key`.
CHOSEN = "(length(id) <> 28 OR unhex(id) IS NULL)"  # `ids.has_moment`, at a third of what GLOB takes
AGE_OF_CHOSEN = "(printf('%012x', CAST(enqueued_at * 1000 AS INTEGER)) || id)"
_BY_AGE = f"CREATE INDEX job_chosen ON job ({AGE_OF_CHOSEN}) WHERE {CHOSEN};"

# `job` is narrow because every claim and outcome rewrites its row; `body` has what is rarely read.
# Ids grow with time, so new rows are appended at the end of both B-trees.
TABLES = f"""
CREATE TABLE job (
    id TEXT PRIMARY KEY,
    task TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    state INTEGER NOT NULL,
    run_at REAL NOT NULL,
    enqueued_at REAL NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER,
    fail_on_crash INTEGER NOT NULL,
    schedule TEXT,
    claim_no INTEGER NOT NULL,
    owner TEXT,
    lease_until REAL,
    rescues INTEGER NOT NULL DEFAULT 0,
    interrupted INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    started_at REAL,
    finished_at REAL,
    suspect INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
{_WAITING_AND_SUSPECTS}
{_BY_AGE}
CREATE INDEX job_running ON job (owner) WHERE state = 1;
CREATE INDEX job_finished ON job (state, finished_at) WHERE state >= 2;

CREATE TABLE body (
    id TEXT PRIMARY KEY,
    payload BLOB NOT NULL,
    result BLOB,
    error BLOB,
    progress BLOB
) STRICT, WITHOUT ROWID;

CREATE TABLE queue (
    name TEXT PRIMARY KEY,
    paused INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE process (
    owner TEXT PRIMARY KEY,
    pid INTEGER NOT NULL,
    host TEXT NOT NULL,
    started_at REAL NOT NULL,
    seen_at REAL NOT NULL,
    info BLOB NOT NULL,
    marked INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE schedule (
    name TEXT PRIMARY KEY,
    task TEXT NOT NULL,
    payload BLOB NOT NULL,
    rule TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    next_due REAL NOT NULL,
    last_due REAL,
    generation INTEGER NOT NULL,
    paused INTEGER NOT NULL,
    from_code INTEGER NOT NULL,
    max_attempts INTEGER,
    fail_on_crash INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""

UPGRADES = {
    1: f"""
ALTER TABLE job ADD COLUMN suspect INTEGER NOT NULL DEFAULT 0;
UPDATE job SET suspect = 1 WHERE state < 2 AND rescues >= 2;
DROP INDEX job_waiting;
DROP INDEX job_waiting_rescued;
DROP INDEX job_running_rescued;
{_WAITING_AND_SUSPECTS}
{_BY_AGE}""",
}
"""The statements that upgrade each version to the next one."""


def ensure(sql: Sql, path: str, boot: str, clock: float, lives: Callable[[str], bool | None]) -> None:
    """Make the open file a store of this version, or refuse it; safe in many processes at once.

    A new file is filled, a store of an earlier version is upgraded; each in one transaction.

    :param boot: the boot id of this host; leases of an earlier boot are ended.
    :param clock: the current time of the leases' clock, which restarts with each boot.
    :param lives: whether an owner shows a sign of life.
    :raises StoreMismatchError: another application's file, or a newer version's.
    """
    if _is_new(sql, path):
        _switch_to_wal(sql)
        sql.rows("BEGIN IMMEDIATE")
        if _is_new(sql, path):
            fill(sql)
        sql.rows("COMMIT")
    elif sql.value("PRAGMA journal_mode") != "wal":  # left so by a restored copy
        _switch_to_wal(sql)
    if sql.value("PRAGMA user_version") < VERSION:
        _upgrade(sql, path)
    _end_leases_of_another_boot(sql, boot, clock, lives)


def fill(sql: Sql) -> None:
    """Make an empty database a store of this version."""
    _execute(sql, TABLES)
    sql.rows(f"PRAGMA application_id = {APPLICATION_ID}")
    sql.rows(f"PRAGMA user_version = {VERSION}")


def _execute(sql: Sql, statements: str) -> None:
    for statement in filter(str.strip, statements.split(";")):
        sql.rows(statement)


def _upgrade(sql: Sql, path: str) -> None:
    sql.rows("BEGIN IMMEDIATE")
    found = sql.value("PRAGMA user_version")  # another process may have been quicker
    _refuse_later(found, path)
    for version in range(found, VERSION):
        _execute(sql, UPGRADES[version])
        sql.rows(f"PRAGMA user_version = {version + 1}")
    sql.rows("COMMIT")


def _refuse_later(found: int, path: str) -> None:
    if found > VERSION:
        raise StoreMismatchError(
            f"the store {path} has format {found}, this version of Flask-DelayQ knows up to "
            f"{VERSION}: upgrade Flask-DelayQ, or let DELAYQ_URL name another file"
        )


def _is_new(sql: Sql, path: str) -> bool:
    """Whether the file is empty; refuse it if it is neither empty nor ours."""
    # One statement, so that it sees one state: another process may create the store meanwhile.
    ((application, found, objects),) = sql.rows(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)"
        " FROM pragma_application_id, pragma_user_version"
    )
    if application == APPLICATION_ID:
        _refuse_later(found, path)
        return False
    if application or objects:
        raise StoreMismatchError(
            f"{path} is another application's database and was left as it is; "
            f"let DELAYQ_URL name a file of its own"
        )
    return True


def _switch_to_wal(sql: Sql) -> None:
    # SQLite does not call the busy handler here, because two switching processes would deadlock.
    while True:
        try:
            sql.rows("PRAGMA journal_mode = WAL")
            return
        except apsw.BusyError:
            if machine_time() >= sql.deadline:
                raise
            time.sleep(0.005)


def _end_leases_of_another_boot(
    sql: Sql, boot: str, clock: float, lives: Callable[[str], bool | None]
) -> None:
    if _is_of_this_boot(sql, boot, clock):
        return
    sql.rows("BEGIN IMMEDIATE")
    if not _is_of_this_boot(sql, boot, clock):
        # Every living owner belongs to this boot, whatever boot id it read: some processes cannot
        # read it (systemd's ProcSubset=pid), and some containers have a different one.
        owners = [owner for (owner,) in sql.rows("SELECT DISTINCT owner FROM job WHERE state = 1")]
        ended = json.dumps([owner for owner in owners if not lives(owner)])
        sql.run(
            "UPDATE job SET lease_until = 0"
            " WHERE state = 1 AND owner IN (SELECT value FROM json_each(?))",
            (ended,),
        )
        if not _tells_nothing(boot) or "boot" not in _facts(sql):
            sql.run("INSERT OR REPLACE INTO meta VALUES ('boot', ?)", (boot,))
        sql.run("DELETE FROM meta WHERE name = 'clock'")
    sql.rows("COMMIT")


def _is_of_this_boot(sql: Sql, boot: str, clock: float) -> bool:
    facts = _facts(sql)
    known = facts.get("boot")
    same = known is not None if _tells_nothing(boot) else known == boot
    return same and float(facts.get("clock", 0)) <= clock


def _facts(sql: Sql) -> dict[str, str]:
    return dict(sql.rows("SELECT name, value FROM meta WHERE name IN ('boot', 'clock')"))


def _tells_nothing(boot: str) -> bool:
    return boot.startswith(UNKNOWN_BOOT)


def note_clock(sql: Sql, clock: float) -> None:
    """Store the time of the leases' clock, if the system has no boot id: if the clock is behind this
    value later, the machine was restarted."""
    sql.run("INSERT OR REPLACE INTO meta VALUES ('clock', ?)", (repr(clock),))
