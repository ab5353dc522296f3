"""A store that an earlier version made is brought up to date at the first opening, with all its jobs.

It must not use today's tables to make yesterday's: the old ones stand here as they were.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

import apsw
import pytest

from backends.sqlite_kit import child, opened, put
from flask_delayq.backends.sqlite.file import schema
from flask_delayq.errors import StoreMismatchError
from flask_delayq.job import JobState, Outcome, StoredState, Verb

VERSION_1 = """
CREATE TABLE job (id TEXT PRIMARY KEY, task TEXT NOT NULL, queue TEXT NOT NULL,
    priority INTEGER NOT NULL, state INTEGER NOT NULL, run_at REAL NOT NULL, enqueued_at REAL NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0, max_attempts INTEGER, fail_on_crash INTEGER NOT NULL,
    schedule TEXT, claim_no INTEGER NOT NULL, owner TEXT, lease_until REAL,
    rescues INTEGER NOT NULL DEFAULT 0, interrupted INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0, started_at REAL, finished_at REAL)
    STRICT, WITHOUT ROWID;
CREATE INDEX job_waiting ON job (queue, priority, run_at, id, rescues) WHERE state = 0;
CREATE INDEX job_waiting_rescued ON job (queue, priority, run_at, id) WHERE state = 0 AND rescues > 0;
CREATE INDEX job_running ON job (owner) WHERE state = 1;
CREATE INDEX job_running_rescued ON job (id) WHERE state = 1 AND rescues > 0;
CREATE INDEX job_finished ON job (state, finished_at) WHERE state >= 2;
CREATE TABLE body (id TEXT PRIMARY KEY, payload BLOB NOT NULL, result BLOB, error BLOB, progress BLOB)
    STRICT, WITHOUT ROWID;
CREATE TABLE queue (name TEXT PRIMARY KEY, paused INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID;
CREATE TABLE process (owner TEXT PRIMARY KEY, pid INTEGER NOT NULL, host TEXT NOT NULL,
    started_at REAL NOT NULL, seen_at REAL NOT NULL, info BLOB NOT NULL, marked INTEGER NOT NULL)
    STRICT, WITHOUT ROWID;
CREATE TABLE schedule (name TEXT PRIMARY KEY, task TEXT NOT NULL, payload BLOB NOT NULL,
    rule TEXT NOT NULL, queue TEXT NOT NULL, priority INTEGER NOT NULL, next_due REAL NOT NULL,
    last_due REAL, generation INTEGER NOT NULL, paused INTEGER NOT NULL, from_code INTEGER NOT NULL,
    max_attempts INTEGER, fail_on_crash INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
PRAGMA application_id = 1145854289;
PRAGMA user_version = 1;
"""

JOBS = {
    # id: state, run_at (seconds from now), rescues
    "scheduled": (0, 3600.0, 0),
    "ready": (0, -5.0, 0),
    "rescued": (0, -5.0, 1),
    "rescued-often-1": (0, -5.0, 2),
    "rescued-often-2": (0, -5.0, 3),
    "running": (1, -5.0, 0),
    "running-often": (1, -5.0, 2),
    "completed": (2, -5.0, 0),
    "failed": (3, -5.0, 4),
    "cancelled": (4, -5.0, 0),
}


@pytest.fixture
def old(tmp_path):
    """A store of version 1 with a job in every state."""
    path = tmp_path / "delayq.sqlite3"
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute(VERSION_1)
    now = time.time()
    for job_id, (state, offset, rescues) in JOBS.items():
        running, final = state == 1, state >= 2
        connection.execute(
            "INSERT INTO job VALUES"
            " (?, 'send', 'mail', 1, ?, ?, ?, 0, NULL, 0, NULL, 7, ?, ?, ?, 0, 0, ?, ?)",
            (
                *(job_id, state, now + offset, now - 9, "gone" if running else None),
                *(0.0 if running else None, rescues, now - 1, now - 1 if final else None),
            ),
        )
        connection.execute("INSERT INTO body (id, payload) VALUES (?, ?)", (job_id, job_id.encode()))
    connection.execute("INSERT INTO queue VALUES ('mail', 0), ('held', 1)")
    connection.close()
    return path


def version_of(path):
    connection = apsw.Connection(str(path))
    try:
        return connection.execute("PRAGMA user_version").fetchall()[0][0]
    finally:
        connection.close()


def test_a_store_of_version_1_keeps_its_jobs(old):
    with opened(old) as backend:
        now = time.time()
        states = {job_id: backend.get(job_id).state_at(now) for job_id in JOBS}
        assert states == {
            **dict.fromkeys(("ready", "rescued", "rescued-often-1", "rescued-often-2"), JobState.READY),
            "scheduled": JobState.SCHEDULED,
            "running": JobState.RUNNING,
            "running-often": JobState.RUNNING,
            "completed": JobState.COMPLETED,
            "failed": JobState.FAILED,
            "cancelled": JobState.CANCELLED,
        }
        for job_id, (_, _, rescues) in JOBS.items():
            record = backend.get(job_id)
            assert (record.payload, record.claim_no, record.rescues) == (job_id.encode(), 7, rescues)
        assert {info.name: info.paused for info in backend.queues(now=now)} == {
            "mail": False,
            "held": True,
        }
    assert version_of(old) == schema.VERSION
    connection = apsw.Connection(str(old))
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_the_jobs_of_version_1_run_as_any_others(old):
    with opened(old) as backend:
        now = time.time()
        assert {one.id for one in backend.rescue(now=now, max_rescues=3)} == {"running", "running-often"}
        claims = backend.claim(None, now=now, limit=9, owner="me", lease=60)
        often = {"rescued-often-1", "rescued-often-2", "running-often"}
        names = {claim.id for claim in claims}
        assert names - often == {"ready", "rescued", "running"}
        assert len(names & often) == 1, "of the suspects one"
        outcomes = [Outcome(claim, Verb.COMPLETE, now) for claim in claims]
        assert all(backend.record(outcomes, now=now))
        assert backend.revive("failed", run_at=now) is StoredState.FAILED
        known = put(backend, queue="mail")
        claims = backend.claim(None, now=now + 1, limit=9, owner="me", lease=60)
        assert {claim.id for claim in claims} > {known, "failed"}


def test_a_store_is_upgraded_like_a_new_one(old, tmp_path):
    new = tmp_path / "new.sqlite3"
    for path in (old, new):
        with opened(path) as backend:
            backend.cancel("nobody", now=0)  # a write: a question alone makes no store
    layouts = []
    for path in (old, new):
        connection = apsw.Connection(str(path))
        layouts.append(
            (
                set(connection.execute("SELECT name, tbl_name FROM sqlite_schema")),
                set(connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'index'")),
                list(connection.execute("SELECT name, type, dflt_value FROM pragma_table_info('job')")),
            )
        )
        connection.close()
    assert layouts[0] == layouts[1]


def test_many_processes_upgrade_a_store_once(old):
    with ExitStack() as stack:
        children = [stack.enter_context(child("look", old)) for _ in range(4)]
        assert [one.wait(20) for one in children] == [0, 0, 0, 0]
    assert version_of(old) == schema.VERSION


def test_a_failed_upgrade_leaves_the_store_as_it_was(old, monkeypatch):
    broken = {1: schema.UPGRADES[1] + "; CREATE TABLE job (id)"}
    monkeypatch.setattr(schema, "UPGRADES", broken)
    with opened(old) as backend, pytest.raises(Exception, match="job"):
        backend.counts(now=0)
    assert version_of(old) == 1
    monkeypatch.undo()
    with opened(old) as backend:
        assert backend.get("ready") is not None


def test_the_code_of_an_earlier_version_refuses_the_store(old, monkeypatch):
    with opened(old) as backend:
        backend.counts(now=0)
    monkeypatch.setattr(schema, "VERSION", 1)
    with opened(old) as backend, pytest.raises(StoreMismatchError, match="upgrade Flask-DelayQ"):
        backend.counts(now=0)
    assert version_of(old) == 2


def test_a_store_that_a_later_version_upgrades_meanwhile_keeps_its_version(old, monkeypatch):
    """Between the look and the lock of this one, which knows the steps up to its own version only."""
    upgrade = schema._upgrade

    def after_a_later_one(*args):
        connection = apsw.Connection(str(old))
        connection.execute(f"{schema.UPGRADES[1]}; PRAGMA user_version = 3")
        connection.close()
        upgrade(*args)

    monkeypatch.setattr(schema, "_upgrade", after_a_later_one)
    with opened(old) as backend, pytest.raises(StoreMismatchError, match="upgrade Flask-DelayQ"):
        backend.counts(now=0)
    assert version_of(old) == 3
