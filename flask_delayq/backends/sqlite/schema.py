"""The tables: how a new file becomes a store, and how a file that is none of ours is refused.
Must not know what the rows mean to the verbs."""

from __future__ import annotations

import time

import apsw

from ...errors import StoreMismatchError
from .connection import Sql, machine_time

APPLICATION_ID = 0x44_4C_59_51  # "DLYQ"
VERSION = 1

# `job` is narrow because every claim and outcome rewrites its row; what is read once lives in `body`.
# Text keys that grow with time fill both trees from the right end. Waiting jobs, due or not, share
# one index, so that no write is needed when a moment comes; `rescues` rides along for the claim.
# The states are literals wherever they occur: only so SQLite can see that a partial index applies.
TABLES = """
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
    finished_at REAL
) STRICT, WITHOUT ROWID;
CREATE INDEX job_waiting ON job (queue, priority, run_at, id, rescues) WHERE state = 0;
CREATE INDEX job_waiting_rescued ON job (queue, priority, run_at, id) WHERE state = 0 AND rescues > 0;
CREATE INDEX job_running ON job (owner) WHERE state = 1;
CREATE INDEX job_running_rescued ON job (id) WHERE state = 1 AND rescues > 0;
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


def ensure(sql: Sql, path: str, boot: str) -> None:
    """Make the open file a store of this version, or refuse it; safe in many processes at once.

    :param boot: identifies the boot of this host; leases of an earlier one are ended.
    :raises StoreMismatchError: another application's file, or a newer version's.
    """
    if _is_new(sql, path):
        _switch_to_wal(sql)
        sql.rows("BEGIN IMMEDIATE")
        if _is_new(sql, path):
            for statement in filter(str.strip, TABLES.split(";")):
                sql.rows(statement)
            sql.rows(f"PRAGMA application_id = {APPLICATION_ID}")
            sql.rows(f"PRAGMA user_version = {VERSION}")
        sql.rows("COMMIT")
    elif sql.value("PRAGMA journal_mode") != "wal":  # left so by a restored copy
        _switch_to_wal(sql)
    _end_leases_of_another_boot(sql, boot)


def _is_new(sql: Sql, path: str) -> bool:
    """Whether the file is empty; refuse it if it is neither empty nor ours."""
    application = sql.value("PRAGMA application_id")
    if application == APPLICATION_ID:
        found = sql.value("PRAGMA user_version")
        if found > VERSION:
            raise StoreMismatchError(
                f"the store {path} has format {found}, this version of Flask-DelayQ knows up to "
                f"{VERSION}: upgrade Flask-DelayQ, or let DELAYQ_URL name another file"
            )
        return False
    if application or sql.value("SELECT count(*) FROM sqlite_schema"):
        raise StoreMismatchError(
            f"{path} is another application's database and was left as it is; "
            f"let DELAYQ_URL name a file of its own"
        )
    return True


def _switch_to_wal(sql: Sql) -> None:
    # SQLite does not ask the busy handler here, since two who switch would wait for each other.
    while True:
        try:
            sql.rows("PRAGMA journal_mode = WAL")
            return
        except apsw.BusyError:
            if machine_time() >= sql.deadline:
                raise
            time.sleep(0.005)


def _end_leases_of_another_boot(sql: Sql, boot: str) -> None:
    query = "SELECT value FROM meta WHERE name = 'boot'"
    if sql.value(query) == boot:
        return
    sql.rows("BEGIN IMMEDIATE")
    if sql.value(query) != boot:
        sql.run("UPDATE job SET lease_until = 0 WHERE state = 1")
        sql.run("INSERT OR REPLACE INTO meta VALUES ('boot', ?)", (boot,))
    sql.rows("COMMIT")
