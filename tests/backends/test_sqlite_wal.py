"""The WAL stays small: beside writers that never pause, where nobody runs jobs, with a read in the way.

It must not know how a checkpoint is made.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

import apsw
import pytest

from backends.sqlite_kit import child, line, opened, put, tell, total
from flask_delayq.backends.sqlite.file import checkpoints
from flask_delayq.backends.sqlite.file.connection import Sql
from pace import quiet_seconds
from waiting import wait_until

MIB = 2**20


@pytest.fixture
def path(tmp_path):
    return tmp_path / "delayq.sqlite3"


@pytest.fixture
def backend(path):
    with opened(path) as made:
        yield made


@pytest.fixture
def small(monkeypatch):
    """Every bound a sixteenth of what it is, so that a test need not write for a minute."""
    names = ("PASSIVE_BYTES", "HOLD_ALL_BYTES", "RELIEF_BYTES", "RELIEF_STEP", "TRUNCATE_BYTES")
    for name in (*names, "WARN_BYTES"):
        monkeypatch.setattr(checkpoints, name, getattr(checkpoints, name) // 16)


def wal_size(path):
    return path.with_name(path.name + "-wal").stat().st_size


# --- writers that never pause ------------------------------------------------------------------------


def test_beside_another_process_that_writes_all_the_time_the_wal_begins_anew(
    backend, path, small, monkeypatch
):
    """The upkeep is this process's; the other one writes without a pause and looks after nothing."""
    # On a busy machine a turn in vain would be made up for later; here each one should do.
    for name in ("REST_TIMEOUT", "URGENT_TIMEOUT"):
        monkeypatch.setattr(checkpoints, name, 2.0)
    with child("write", path) as producer:
        line(producer)
        written, largest = 0, 0
        deadline = time.monotonic() + 60
        while written < 40 * MIB and time.monotonic() < deadline:
            for _ in range(20):
                put(backend, payload=bytes(20_000))
                written += 20_000
            backend.maintain()
            largest = max(largest, wal_size(path))
        producer.kill()
    assert written >= 40 * MIB
    assert largest < written / 2


@pytest.mark.stress
@pytest.mark.timeout(300)
@pytest.mark.parametrize("processes", [1, 2, 3, 6])
def test_a_minute_at_full_speed_leaves_the_wal_below_64_mb(path, processes):
    with ExitStack() as stack:
        children = [stack.enter_context(child("press", path, 60)) for _ in range(processes)]
        assert [line(process) for process in children] == ["ready"] * processes
        for process in children:
            tell(process)
        largest = 0
        end = time.monotonic() + 60
        while time.monotonic() < end:
            largest = max(largest, wal_size(path))
            time.sleep(0.02)
        stored = sum(int(line(process)) for process in children)
    assert stored > 1000 * processes
    assert largest < 64 * MIB


def test_upkeep_that_finds_even_the_look_locked_comes_again_soon(backend, monkeypatch):
    put(backend)
    look = Sql.value

    def busy(sql, statement, *bindings):
        if "data_version" in statement:
            raise apsw.BusyError("BusyError: database is locked")
        return look(sql, statement, *bindings)

    monkeypatch.setattr(Sql, "value", busy)
    assert backend.maintain() is True


# --- where nobody runs jobs --------------------------------------------------------------------------


def test_a_process_that_only_enqueues_keeps_the_wal_small_too(backend, path, small):
    largest = 0
    for _ in range(600):
        put(backend, payload=bytes(20_000))
        largest = max(largest, wal_size(path))
    assert largest < 6 * MIB


def test_a_commit_without_need_copies_nothing(backend, path):
    for _ in range(5):
        put(backend, payload=bytes(2_000_000))
    assert path.stat().st_size < 100_000


# --- a read in the way -------------------------------------------------------------------------------


@pytest.fixture
def reading(backend, path):
    """A read that goes on until it is closed."""
    put(backend)
    connection = apsw.Connection(str(path))
    rows = connection.execute("SELECT id FROM job UNION ALL SELECT id FROM job")
    next(iter(rows))

    def end():
        rows.close()
        connection.close()

    yield end
    end()


def test_a_read_in_the_way_holds_no_writer_up_and_is_named(backend, path, small, reading):
    while wal_size(path) < 10 * MIB:
        put(backend, payload=bytes(20_000))
        backend.maintain()
    begin = time.monotonic()
    for _ in range(10):
        backend.maintain()
        put(backend)
    assert quiet_seconds(begin) < 10 * checkpoints.REST_TIMEOUT
    assert "a read that does not end" in " ".join(backend.health().notes)
    reading()
    backend.maintain()
    put(backend)
    assert "all of it is in the store" in " ".join(backend.health().notes)
    wait_until(lambda: backend.maintain() or wal_size(path) == 0, what="the WAL is cut")
    assert backend.health().notes == ()


def test_a_process_that_does_not_copy_the_wal_names_both_causes(backend, path, small, reading):
    while wal_size(path) < 10 * MIB:
        put(backend, payload=bytes(20_000))
    with opened(path) as other:
        (note,) = other.health().notes
    assert "a read that does not end" in note and "no process runs jobs" in note
    assert total(backend) > 1
