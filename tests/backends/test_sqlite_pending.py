"""The counters behind `max_pending`: there for stores that need them, right in every process.

It must not know by which statements they are kept.
"""

from __future__ import annotations

import time

import apsw
import pytest

from backends.sqlite_kit import child, job, line, opened, put, tell
from flask_delayq.errors import BackendUnavailableError, QueueFullError
from pace import quiet_seconds


@pytest.fixture
def path(tmp_path):
    return tmp_path / "delayq.sqlite3"


def triggers(path):
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    (count,) = connection.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'").fetchone()
    connection.close()
    return count


def put_limited(backend, limit, *, timeout=5, **facts):
    backend.enqueue([job(**facts)], now=time.time(), timeout=timeout, max_pending=limit)


def test_a_store_without_limits_counts_nothing(path):
    with opened(path) as backend:
        put(backend)
        assert triggers(path) == 0
        put_limited(backend, 9)
        assert triggers(path) > 0


def test_an_audit_finds_a_count_that_is_wrong(path):
    with opened(path) as backend:
        put_limited(backend, 9)
        connection = apsw.Connection(str(path))
        connection.execute("UPDATE pending SET waiting = 7 WHERE queue = 'default'")
        connection.close()
        assert backend.audit() == ["queue 'default': 1 jobs wait, 7 are counted"]


def test_a_refused_first_call_leaves_counters_that_are_right(path):
    with opened(path) as backend:
        put(backend)
        with pytest.raises(QueueFullError):
            put_limited(backend, 1)
        put(backend)
        with pytest.raises(QueueFullError):
            put_limited(backend, 2)
        assert backend.audit() == []
        put_limited(backend, 3)


def test_a_refusal_counts_the_jobs_only_once(path):
    """Also where a limit is set on a store that is beyond it: counting holds the write lock."""
    with opened(path) as backend:
        put(backend)
        put(backend)
        with pytest.raises(QueueFullError):
            put_limited(backend, 1)
        assert triggers(path) > 0
    with opened(path) as backend, pytest.raises(QueueFullError):
        put_limited(backend, 1)


def test_the_first_count_takes_no_time_beyond_that_of_its_caller(path):
    with opened(path) as backend:
        put(backend)
    with child("hold", path, 20) as process, opened(path) as backend:
        assert line(process) == "held"
        begin = time.monotonic()
        with pytest.raises(BackendUnavailableError):
            put_limited(backend, 1, timeout=0.2)
        assert quiet_seconds(begin) < 4


def test_a_process_without_a_limit_is_counted_too(path):
    """It has had the file open, and statements at hand, since before there were counters."""
    with child("put_when_told", path) as process, opened(path) as backend:
        assert line(process)
        put_limited(backend, 2)
        tell(process)
        assert line(process)
        assert backend.audit() == []
        with pytest.raises(QueueFullError):
            put_limited(backend, 3)
        put_limited(backend, 4)
