"""Room at the end of the WAL: it is there before commits need it, and nothing depends on it."""

from __future__ import annotations

import errno
import os
import shutil

import apsw
import pytest

from backends.sqlite_kit import opened, put, total
from flask_delayq.backends.sqlite.file import wal_headroom
from flask_delayq.backends.sqlite.file.wal_headroom import AHEAD, STEP


@pytest.fixture
def path(tmp_path):
    return tmp_path / "delayq.sqlite3"


def wal_size(path):
    return path.with_name(path.name + "-wal").stat().st_size


def test_commits_write_into_room_that_is_there(path):
    with opened(path) as backend:
        put(backend)
        sizes = set()
        for _ in range(100):  # some 35 kB each
            put(backend, payload=bytes(10_000))
            sizes.add(wal_size(path))
        assert len(sizes) <= 5
        assert all(size % STEP < AHEAD for size in sizes), "lengthened by steps, not by commits"


def test_without_flushes_there_is_no_need(path):
    with opened(path, synchronous="NORMAL") as backend:
        put(backend)
        assert wal_size(path) < AHEAD


def test_a_wal_that_begins_anew_is_not_lengthened(path):
    with opened(path) as backend:
        for _ in range(8):
            for _ in range(60):
                put(backend, payload=bytes(10_000))
            backend.maintain()  # the first call sees that it is written to, the second copies
            backend.maintain()
        assert wal_size(path) <= 4 * STEP


def test_zeros_behind_the_last_frame_are_nothing_to_who_opens_the_files_later(path, tmp_path):
    left = tmp_path / "left" / path.name
    left.parent.mkdir()
    with opened(path) as backend:
        for _ in range(5):
            put(backend)
        for suffix in ("", "-wal"):  # as a kill leaves them
            shutil.copy(f"{path}{suffix}", f"{left}{suffix}")
    assert wal_size(left) > 5 * AHEAD // 2
    connection = apsw.Connection(str(left))
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    with opened(left) as backend:
        assert total(backend) == 5
        put(backend)
        assert total(backend) == 6


def test_behind_a_link_it_is_the_wal_of_the_file_itself(path, tmp_path):
    link = tmp_path / "link.sqlite3"
    foreign = tmp_path / "link.sqlite3-wal"
    foreign.write_text("somebody's")
    with opened(path) as backend:
        put(backend)
    link.symlink_to(path)
    with opened(link) as backend:
        put(backend)
        put(backend)
        assert wal_size(path) > STEP
    assert foreign.read_text() == "somebody's"


def test_a_process_that_stores_one_job_makes_no_room(path):
    with opened(path) as backend:
        put(backend)
    with opened(path) as backend:
        put(backend)
        assert wal_size(path) < AHEAD


@pytest.mark.parametrize("trouble", ["full", "no space"])
def test_where_there_is_no_room_jobs_are_stored_as_well(path, monkeypatch, trouble):
    if trouble == "full":
        monkeypatch.setattr(wal_headroom, "SPARE", 2**62)
    else:

        def refuse(descriptor, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", refuse)
    with opened(path) as backend:
        for _ in range(3):
            put(backend)
        assert total(backend) == 3
        assert wal_size(path) < AHEAD
