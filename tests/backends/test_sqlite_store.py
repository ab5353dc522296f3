"""What only the sqlite backend promises: about its file, other processes, and trouble.

It must not repeat what `conformance.py` asks of every backend.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from contextlib import ExitStack

import apsw
import pytest

from backends.sqlite_kit import backend_on, child, job, line, opened, put, tell, total
from flask_delayq.backends import open_backend
from flask_delayq.backends.sqlite.file import checkpoints, health, schema
from flask_delayq.backends.sqlite.file.connection import Sql
from flask_delayq.backends.sqlite.file.health import on_the_network
from flask_delayq.errors import (
    BackendUnavailableError,
    ConfigurationError,
    StoreCorruptError,
    StoreMismatchError,
)
from flask_delayq.job import (
    ClaimFor,
    JobQuery,
    Outcome,
    ProcessRecord,
    ScheduleRecord,
    StoredState,
    Verb,
)
from flask_delayq.testing import FakeClock
from pace import quiet_seconds
from waiting import wait_until


@pytest.fixture
def path(tmp_path):
    return tmp_path / "delayq.sqlite3"


@pytest.fixture
def backend(path):
    with opened(path) as made:
        yield made


def peek(path, statement):
    """Ask the file through a connection of the test's own, of the same library."""
    connection = apsw.Connection(str(path))
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


# --- the file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/x"])
def test_a_url_without_a_file_is_refused(url):
    with pytest.raises(ConfigurationError) as caught:
        open_backend(url)
    assert caught.value.key == "DELAYQ_URL"


def test_unknown_options_and_modes_are_refused(path):
    with pytest.raises(ConfigurationError, match="pool"):
        backend_on(path, pool=3)
    with pytest.raises(ConfigurationError, match="OFF"):
        backend_on(path, synchronous="OFF")


def test_nothing_is_created_before_the_first_verb(path):
    with opened(path):
        assert not path.exists()


def test_the_files_are_for_their_owner_only(tmp_path):
    path = tmp_path / "new" / "delayq.sqlite3"
    before = os.umask(0)
    try:
        with opened(path) as backend:
            put(backend)
            backend.announce(record("me"))
            modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.rglob("*")}
            assert backend.health().notes == ()
            backend.withdraw("me")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert modes.pop("delayq.sqlite3.live") == 0o700
    store = {"delayq.sqlite3", "delayq.sqlite3-wal", "delayq.sqlite3-shm"}
    assert set(modes) == store | {"me.lock", "me.begun"}
    assert set(modes.values()) == {0o600}


def test_the_journal_is_a_wal_and_nobody_checkpoints_on_the_way(backend, path):
    for _ in range(5):
        put(backend, payload=bytes(2_000_000))
    assert path.stat().st_size < 100_000, "a checkpoint ran in a caller's thread"
    assert peek(path, "PRAGMA journal_mode") == [("wal",)]
    assert peek(path, "PRAGMA application_id") == [(schema.APPLICATION_ID,)]


@pytest.fixture
def upkeep_alone(monkeypatch):
    """The WAL is copied by maintenance only, however large it becomes."""
    monkeypatch.setattr(checkpoints, "RELIEF_BYTES", 2**62)


def test_maintenance_moves_a_long_wal_into_the_file_and_then_cuts_it(backend, path, upkeep_alone):
    wal = path.with_name(path.name + "-wal")
    for _ in range(3):
        put(backend, payload=bytes(2_000_000))
    backend.maintain()
    assert path.stat().st_size > 6_000_000
    put(backend, payload=bytes(66 * 2**20))
    assert wal.stat().st_size > 64 * 2**20
    backend.maintain()
    assert wal.stat().st_size > 64 * 2**20  # a busy store writes over it, which is quicker
    backend.maintain()
    assert wal.stat().st_size == 0
    assert total(backend) == 4


def test_a_copied_wal_is_begun_anew_beside_a_busy_writer(backend, path):
    wal = path.with_name(path.name + "-wal")
    for _ in range(3):
        put(backend, payload=bytes(2_000_000))
    backend.maintain()
    size = wal.stat().st_size
    for _ in range(3):
        put(backend, payload=bytes(1_000_000))
    assert wal.stat().st_size == size


def test_maintenance_copies_a_short_wal_once_nobody_writes(backend, path):
    put(backend)
    before = path.stat().st_size
    backend.maintain()
    assert path.stat().st_size == before
    backend.maintain()
    assert path.stat().st_size > before


def test_maintenance_holds_nobody_up(backend, path, upkeep_alone):
    """A reader in the way of the cut: it is left for later, and a writer does not notice."""
    wal = path.with_name(path.name + "-wal")
    put(backend, payload=bytes(66 * 2**20))
    reader = apsw.Connection(str(path))
    rows = reader.execute("SELECT id FROM job UNION ALL SELECT id FROM job")
    next(iter(rows))
    backend.maintain()
    begin = time.monotonic()
    backend.maintain()
    put(backend)
    assert quiet_seconds(begin) < 1
    assert wal.stat().st_size > 64 * 2**20
    rows.close()
    reader.close()
    backend.maintain()
    backend.maintain()
    assert wal.stat().st_size == 0


def foreign_text(path):
    path.write_text("a note\n")


def foreign_database(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE users (name)")
    connection.commit()
    connection.close()


def newer_version(path):
    with opened(path) as backend:
        put(backend)
    peek(path, f"PRAGMA user_version = {schema.VERSION + 1}")


def folder(path):
    path.mkdir()


def pipe(path):
    os.mkfifo(path)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (foreign_text, StoreCorruptError, "damaged"),
        (foreign_database, StoreMismatchError, "another application's database"),
        (newer_version, StoreMismatchError, "upgrade Flask-DelayQ"),
        (folder, StoreMismatchError, "is a folder"),
        (pipe, StoreMismatchError, "no regular file"),
    ],
)
def test_a_file_that_is_no_store_is_refused_and_left_alone(path, make, error, words):
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with opened(path) as backend:
        for _ in range(2):
            with pytest.raises(error, match=words):
                put(backend)
            with pytest.raises(error, match=words):
                backend.get("x")
        assert not backend.health().ok
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert before is None or path.read_bytes() == before


def test_an_empty_file_becomes_a_store(path):
    path.touch()
    with opened(path) as backend:
        put(backend)
        assert total(backend) == 1


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(path):
    blocked = path / "below a file" / "delayq.sqlite3"
    path.write_bytes(b"")
    with opened(blocked) as backend:
        with pytest.raises(BackendUnavailableError, match="set DELAYQ_URL") as caught:
            put(backend)
        assert str(blocked) in str(caught.value)
        assert not backend.health().ok


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc")
def test_a_place_where_no_file_can_be_is_named_with_its_own_remedy(tmp_path):
    (tmp_path / "notes.txt").write_text("a file")
    for path, remedy in (
        (tmp_path / "notes.txt" / "a" / "jobs.db", f"{tmp_path}/notes.txt is not a folder"),
        ("/proc/jobs/store.db", "/proc takes no new files: choose another folder"),
    ):
        with opened(path) as backend, pytest.raises(BackendUnavailableError) as caught:
            put(backend)
        assert f"; {remedy}" in str(caught.value)
        assert "writable" not in str(caught.value)
        assert str(caught.value).endswith("or set DELAYQ_URL")


def test_a_read_only_file_is_reported_and_still_readable(path):
    with child("read_only", path) as process:
        assert [line(process) for _ in range(3)] == ["read-only", "True", "False"]


def test_a_damaged_page_is_told_from_passing_trouble(path):
    with opened(path) as backend:
        for _ in range(200):
            put(backend)
    content = bytearray(path.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    path.write_bytes(content)
    with opened(path) as backend:
        with pytest.raises(StoreCorruptError, match=r"nothing was changed"):
            put(backend)
        health = backend.health()
        assert not health.ok
        assert "damaged" in health.reason
    assert path.read_bytes() == bytes(content)


def test_other_users_rights_are_noted(backend, path):
    put(backend)
    path.chmod(0o644)
    assert "0644" in backend.health().notes[0]


def test_a_network_file_system_is_noted(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/a / ext4 rw 0 0\n"
        "server:/x /srv/my\\040share nfs4 rw 0 0\n"
        "/dev/b /srv/my\\040share/in xfs rw 0 0\n"
    )
    assert "nfs4 at /srv/my share" in on_the_network("/srv/my share/delayq.sqlite3", str(mounts))
    assert on_the_network("/srv/my share/in/delayq.sqlite3", str(mounts)) == ""
    assert on_the_network("/srv/my sharep/delayq.sqlite3", str(mounts)) == ""


# --- deleted, moved, replaced ------------------------------------------------------------------------


def test_a_deleted_file_is_reported_and_not_made_anew(backend, path):
    put(backend)
    path.unlink()
    for _ in range(3):
        with pytest.raises(BackendUnavailableError, match="deleted or moved") as caught:
            put(backend)
        assert caught.value.reason == "replaced"
    assert not backend.health().ok
    assert not path.exists()


def test_a_moved_file_is_used_again_once_it_is_back(backend, path):
    first = put(backend)
    away = path.with_name("away")
    path.rename(away)
    with pytest.raises(BackendUnavailableError):
        put(backend)
    away.rename(path)
    wait_until(lambda: backend.health().ok)
    second = put(backend)
    assert backend.get(first) and backend.get(second)


def test_a_replaced_file_is_reported_once_and_then_used(tmp_path, backend, path):
    old = put(backend)
    with opened(tmp_path / "other.sqlite3") as other:
        new = put(other)
    (tmp_path / "other.sqlite3").rename(path)
    with pytest.raises(BackendUnavailableError, match="replaced") as caught:
        put(backend)
    assert caught.value.reason == "replaced"
    put(backend)
    assert backend.get(old) is None
    assert backend.get(new) is not None


def test_a_replaced_file_that_somebody_reads_takes_its_callers_time_and_no_more(
    backend, path, monkeypatch
):
    """What its log holds is copied into the old file, as far as that can be done in time."""
    waits, busy = [], Sql._busy

    def wait(sql, tries):
        waits.append(sql.deadline)
        return busy(sql, tries)

    monkeypatch.setattr(Sql, "_busy", wait)
    put(backend)
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN; SELECT count(*) FROM job").fetchall()
    put(backend)
    path.rename(path.with_name("old"))
    path.touch()
    begin = time.monotonic()
    with pytest.raises(BackendUnavailableError, match="replaced"):
        put(backend, timeout=0.05)
    assert waits
    assert max(waits) < begin + 0.5, "a second was granted, whatever the caller had"
    reader.close()


def test_a_reader_notices_a_replaced_file_within_about_a_second(tmp_path, backend, path):
    put(backend)
    with opened(tmp_path / "other.sqlite3") as other:
        new = put(other)
    (tmp_path / "other.sqlite3").rename(path)

    def found():
        try:
            return backend.get(new)
        except BackendUnavailableError:
            return None

    assert wait_until(found, timeout=3)


# --- several processes -------------------------------------------------------------------------------


def test_eight_processes_create_one_store(path):
    with ExitStack() as stack:
        children = [stack.enter_context(child("create", path)) for _ in range(8)]
        assert [line(process) for process in children] == ["ready"] * 8
        for process in children:
            tell(process)
        ids = {line(process) for process in children}
        assert [process.wait(20) for process in children] == [0] * 8
    with opened(path) as backend:
        assert all(backend.get(job_id) for job_id in ids)
        assert total(backend) == 8


def test_a_store_that_is_made_while_it_is_looked_at_is_no_foreign_file(path, monkeypatch):
    """Another process makes it right after the first look of this one, which found an empty file."""
    first = iter([True])

    def another_comes(ask):
        def asked(sql, statement, *bindings):
            answer = ask(sql, statement, *bindings)
            if "application_id" in statement and next(first, False):
                with child("create", path) as other:
                    assert line(other) == "ready"
                    tell(other)
                    line(other)
                    assert other.wait(20) == 0
            return answer

        return asked

    for name in ("rows", "value"):
        monkeypatch.setattr(Sql, name, another_comes(getattr(Sql, name)))
    with opened(path) as backend:
        put(backend)
        assert total(backend) == 2


def test_a_killed_producer_loses_nothing_that_it_acknowledged(path):
    acknowledged = []
    for round_ in range(10):
        with child("produce", path) as process:
            acknowledged += [line(process) for _ in range(20 + round_)]
            process.kill()
            acknowledged += process.stdout.read().split()
    with opened(path) as backend:
        assert all(backend.get(job_id) for job_id in acknowledged)
        assert len(acknowledged) <= total(backend) <= len(acknowledged) + 10
    assert peek(path, "PRAGMA integrity_check") == [("ok",)]


def test_processes_run_every_job_once_and_nobody_sees_a_lock(path):
    """Four processes with three threads each enqueue, claim and record on one store."""
    with ExitStack() as stack:
        children = [stack.enter_context(child("work", path, f"w{i}", 150, 600)) for i in range(4)]
        runs = [line(process).split() for process in children]
        assert [process.wait(30) for process in children] == [0] * 4
    ids = [job_id for ran in runs for job_id in ran]
    assert len(ids) == len(set(ids)) == 600
    with opened(path) as backend:
        assert backend.counts(now=time.time())["completed"] == 600


def test_a_short_lock_is_waited_for(backend, path):
    put(backend)
    with child("hold", path, 1) as process:
        assert line(process) == "held"
        assert put(backend)


def test_a_long_lock_ends_in_a_typed_error_within_the_callers_time(backend, path):
    put(backend)
    with child("hold", path, 6) as process:
        assert line(process) == "held"
        begin = time.monotonic()
        with pytest.raises(BackendUnavailableError) as caught:
            put(backend, timeout=1)
        assert time.monotonic() >= begin + 1
        assert quiet_seconds(begin + 1) < 0.5
        assert caught.value.reason == "locked"
        assert total(backend) == 1, "readers are not held up"


def test_a_full_disk_is_reported_and_passes(path):
    with child("fill", path, 800_000) as process:
        reason = line(process)
        stored, present = map(int, line(process).split())
        health = [line(process), line(process)]
        assert process.wait(20) == 0
    assert reason in ("full", "io")
    assert present == stored > 20
    assert health == ["False", "True"]


def test_a_quota_inside_the_database_is_told_as_full(backend):
    put(backend)
    backend._store.write(lambda sql: sql.rows("PRAGMA max_page_count = 40"))
    stored = 1
    with pytest.raises(BackendUnavailableError) as caught:
        while True:
            put(backend, payload=bytes(3000))
            stored += 1
    assert caught.value.reason == "full"
    assert total(backend) == stored
    backend._store.write(lambda sql: sql.rows("PRAGMA max_page_count = 4000"))
    put(backend)


# --- signs of life -----------------------------------------------------------------------------------


def record(owner, pid=1):
    now = time.time()
    return ProcessRecord(owner, pid, "here", now, now, b"{}")


def alive(backend):
    return {process.owner: process.alive for process in backend.processes()}


def test_a_killed_owner_is_rescued_from_at_once_and_a_living_one_not_at_all(backend, path):
    doomed, kept = put(backend), None
    with child("own", path, "dies", 1) as dies, child("own", path, "lives", 0) as lives:
        assert line(dies) == "1"
        assert line(lives) == "0"
        backend.announce(record("me"))
        kept = put(backend)
        assert backend.claim(None, now=time.time(), limit=1, owner="me", lease=3600)[0].id == kept
        assert backend.rescue(now=time.time(), max_rescues=3) == []
        assert alive(backend) == {"dies": True, "lives": True, "me": True}
        dies.kill()
        dies.wait(5)
        rescued = backend.rescue(now=time.time(), max_rescues=3)
        assert [(one.id, one.owner, one.state) for one in rescued] == [
            (doomed, "dies", StoredState.WAITING)
        ]
        assert alive(backend) == {"lives": True, "me": True}
    backend.withdraw("me")
    left = {p.name for p in path.with_name(path.name + ".live").iterdir()}
    assert left <= {"lives.lock", "lives.begun"}


def test_signs_of_life_of_one_process_do_not_end_each_other(backend, path):
    """Two runtimes in one process, and both look at each other: no descriptor drops a lock."""
    with opened(path) as second:
        backend.announce(record("one"))
        second.announce(record("two"))
        backend.announce(record("one"))
        for looking in (backend, second):
            assert alive(looking) == {"one": True, "two": True}
        with child("look", path) as process:
            assert line(process) == "one:True two:True"
        backend.withdraw("one")
        second.withdraw("two")


def test_a_cleaner_that_removes_the_signs_kills_nobody(backend, path):
    with child("own", path, "lives", 0) as lives:
        assert line(lives) == "0"
        known = put(backend)
        backend.claim(None, now=time.time(), limit=1, owner="lives", lease=3600)
        (path.with_name(path.name + ".live") / "lives.lock").unlink()
        assert backend.rescue(now=time.time(), max_rescues=3) == []
        assert backend.get(known).stored is StoredState.RUNNING


def test_a_record_without_a_sign_is_shown_by_its_age_and_dropped_in_the_end(path):
    clock = FakeClock(time.time())
    with opened(path, clock) as backend:
        with child("own", path, "lost", 0) as lost:
            assert line(lost) == "0"
        (path.with_name(path.name + ".live") / "lost.lock").unlink()
        assert alive(backend) == {"lost": True}
        clock.advance(time.time() - clock.now() + 125)  # since it was announced, however long ago
        assert alive(backend) == {"lost": False}
        backend.rescue(now=clock.now(), max_rescues=3)
        assert alive(backend) == {"lost": False}
        clock.advance(600)
        backend.rescue(now=clock.now(), max_rescues=3)
        assert alive(backend) == {}


def test_a_removed_sign_is_shown_again_at_the_next_announcement(backend, path):
    sign = path.with_name(path.name + ".live") / "me.lock"
    backend.announce(record("me"))
    sign.unlink()
    backend.announce(record("me"))
    assert sign.exists()
    assert alive(backend) == {"me": True}
    backend.withdraw("me")
    assert not sign.exists()


def test_leases_of_another_boot_have_ended(path):
    with opened(path) as backend:
        known = put(backend)
        backend.claim(None, now=time.time(), limit=1, owner="x", lease=3600)
        assert backend.rescue(now=time.time(), max_rescues=3) == []
    peek(path, "UPDATE meta SET value = 'an earlier boot' WHERE name = 'boot'")
    with opened(path) as backend:
        assert [one.id for one in backend.rescue(now=time.time(), max_rescues=3)] == [known]


# --- doorbell ----------------------------------------------------------------------------------------


def test_another_process_rings_for_what_is_due_soon_only(backend, path):
    bell = backend.open_doorbell("me")
    with child("ring", path) as process:
        assert line(process) == "later"
        assert not bell.wait(0.05)
        tell(process)
        assert bell.wait(5)
        assert line(process) == "now"
    assert not bell.wait(0)
    bell.close()


def test_a_second_runtime_of_the_same_process_hears_it_and_the_own_one_does_not(backend, path):
    with opened(path) as second:
        mine, other = backend.open_doorbell("me"), second.open_doorbell("other")
        put(backend)
        assert other.wait(5)
        assert not mine.wait(0)
        mine.close()
        other.close()


def test_a_job_claimed_at_once_rings_nowhere(backend, path):
    with opened(path) as second:
        bell = second.open_doorbell("other")
        backend.enqueue([job()], now=time.time() + 1, timeout=5, claim_for=ClaimFor("me", 60, 1))
        assert not bell.wait(0)
        bell.close()


def test_whatever_makes_a_job_claimable_rings(backend, path):
    now = time.time()
    with opened(path) as second:
        bell = second.open_doorbell("other")
        known = put(backend)
        assert bell.wait(5)
        (claim,) = backend.claim(None, now=now + 9, limit=1, owner="me", lease=60)
        assert not bell.wait(0)
        backend.record([Outcome(claim, Verb.RELEASE, now)], now=now)
        assert bell.wait(5)
        backend.pause("default")
        assert not bell.wait(0)
        backend.resume("default")
        assert bell.wait(5)
        backend.cancel(known, now=now)
        assert not bell.wait(0)
        backend.revive(known, run_at=now)
        assert bell.wait(5)
        rule = ScheduleRecord("s", "send", b"{}", "every 5 s", "default", 1, now)
        backend.put_schedule(rule)
        assert not bell.wait(0)
        backend.fire(rule, job(), next_due=now + 5)
        assert bell.wait(5)
        bell.close()


def test_a_closed_doorbell_wakes_who_waits_and_is_no_trouble_to_who_rings(backend, path):
    with opened(path) as second:
        bell = second.open_doorbell("other")
        answers = []
        thread = threading.Thread(target=lambda: answers.append(bell.wait(None)))
        thread.start()
        wait_until(lambda: bell._listening)
        put(backend)
        thread.join(5)
        assert answers == [True]
        thread = threading.Thread(target=lambda: answers.append(bell.wait(None)))
        thread.start()
        wait_until(lambda: bell._listening)
        bell.close()
        thread.join(5)
        assert answers == [True, False]
        bell.close()
        assert not bell.wait(0)
        put(backend)


def test_a_doorbell_whose_file_was_removed_is_found_again_after_the_next_announcement(backend, path):
    with opened(path) as second:
        second.announce(record("other"))
        bell = second.open_doorbell("other")
        answers = []

        def listen():
            while not answers and not bell._closed:
                answers.extend([True] if bell.wait(None) else [])

        thread = threading.Thread(target=listen)
        thread.start()
        wait_until(lambda: bell._listening)
        (path.with_name(path.name + ".live") / "other.bell").unlink()
        second.announce(record("other"))
        put(backend)
        thread.join(5)
        bell.close()
        thread.join(5)
        assert answers == [True]
        second.withdraw("other")
        assert os.listdir(f"{path}.live") == []


def test_a_bell_that_nobody_answers_never_holds_a_caller_up(backend, path):
    with opened(path) as second:
        bell = second.open_doorbell("other")
        begin = time.monotonic()
        for _ in range(600):
            backend._bells.ring()
        assert quiet_seconds(begin) < 2
        assert bell.wait(0)
        assert not bell.wait(0)
        bell.close()


def test_a_folder_too_deep_for_a_socket_address_has_doorbells(tmp_path):
    path = tmp_path / ("deep" * 25) / ("deeper" * 10) / "delayq.sqlite3"
    with opened(path) as backend, opened(path) as second:
        bell = second.open_doorbell("other")
        put(backend)
        assert bell.wait(5)
        bell.close()


# --- values and batches ------------------------------------------------------------------------------


def test_an_outcome_that_cannot_be_stored_fails_alone(backend):
    for _ in range(3):
        put(backend)
    claims = backend.claim(None, now=time.time(), limit=3, owner="me", lease=60)
    results = [b"1", "no bytes", b"3"]
    outcomes = [
        Outcome(claim, Verb.COMPLETE, time.time(), result=result)
        for claim, result in zip(claims, results, strict=True)
    ]
    assert backend.record(outcomes, now=time.time()) == [True, False, True]
    assert [backend.get(claim.id).result for claim in claims] == [b"1", None, b"3"]
    assert backend.get(claims[1].id).stored is StoredState.RUNNING


def test_moments_keep_every_digit(backend):
    moment = 1795238732.1234567
    known = put(backend, run_at=moment)
    assert backend.get(known).run_at == moment
    assert backend.next_due(None, owner="me") == moment


def test_many_threads_share_commits_and_lose_nothing(backend):
    def produce(ids):
        ids += [put(backend) for _ in range(50)]

    lists = [[] for _ in range(8)]
    threads = [threading.Thread(target=produce, args=(ids,)) for ids in lists]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({job_id for ids in lists for job_id in ids}) == total(backend) == 400


def test_it_opens_again_after_close(backend):
    first = put(backend)
    backend.close()
    backend.close()
    assert backend.get(first) is not None
    put(backend)
    assert total(backend) == 2


# --- health ------------------------------------------------------------------------------------------


def test_a_glance_makes_nothing(path):
    missing = path.parent / "instance" / path.name
    with opened(missing) as backend:
        assert backend.health(probe=False).ok
    assert list(path.parent.iterdir()) == []


def test_a_glance_waits_for_no_writer(backend, path):
    put(backend)
    with opened(path) as unused, child("hold", path, 20) as process:
        assert line(process) == "held"
        begin = time.monotonic()
        assert backend.health(probe=False).ok
        assert unused.health(probe=False).ok
        assert quiet_seconds(begin) < 0.5
        assert not unused._store.is_open


def test_a_glance_tells_of_a_lock_for_a_moment(backend, path, monkeypatch):
    """Later it says nothing: that others hold the lock just now may be the best of signs."""
    put(backend)
    with child("hold", path, 20) as process:
        assert line(process) == "held"
        with pytest.raises(BackendUnavailableError):
            put(backend, timeout=0.05)
        assert "is locked" in backend.health(probe=False).reason
        monkeypatch.setattr(health, "PROBE_AGAIN", 0.0)
        assert backend.health(probe=False).ok
        assert not backend.health().ok, "a person is told what a write meets"


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("reason", ["full", "io", "read-only"])
def test_a_glance_tells_what_the_last_write_met_until_one_succeeds(
    backend, monkeypatch, reason, is_open
):
    put(backend)
    backend._store._note(BackendUnavailableError("what it met", reason=reason))
    if not is_open:
        backend.close()  # as after an error after which the connections are not used any more
    assert backend.health(probe=False).reason == "what it met"
    assert not backend.health(probe=False).ok, "a stranger's question is no reason to write each time"
    monkeypatch.setattr(health, "PROBE_AGAIN", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(health, "_write_something", lambda sql: sql.rows("SELECT * FROM nowhere"))
        assert "nowhere" in backend.health(probe=False).reason
    assert backend.health(probe=False).ok
    assert backend._store.last_error is None


def test_a_glance_makes_no_store_of_an_empty_file(path, monkeypatch):
    path.touch()
    monkeypatch.setattr(health, "PROBE_AGAIN", 0.0)
    with opened(path) as backend:
        with child("hold", path, 20) as process:
            assert line(process) == "held"
            with pytest.raises(BackendUnavailableError):
                put(backend, timeout=0.1)
        for reason in ("locked", "full"):
            backend._store._note(BackendUnavailableError("what it met", reason=reason))
            assert backend.health(probe=False).ok
            assert path.stat().st_size == 0


def test_who_only_asks_makes_no_store(path):
    path = path.parent / "instance" / path.name
    with opened(path) as backend:
        for _ in range(2):
            assert backend.get("j1") is None
            assert backend.list(JobQuery(), now=1.0) == []
            assert backend.queues(now=1.0) == [] and backend.processes() == []
            assert backend.schedules() == [] and backend.audit() == []
            assert not any(backend.counts(now=1.0).values())
            assert backend.next_due(None) is None and backend.waiting_tasks() == []
            assert backend.prune(finished_before=9e9, failed_before=9e9, keep=None) == 0
            for probe in (True, False):
                found = backend.health(probe=probe)
                assert found.ok and found.notes == (health.NOT_MADE_YET,)
        assert not path.parent.exists(), "neither the file nor a folder"
        with child("put_when_told", path) as process:
            stored = line(process)
        assert backend.get(stored) is not None
        assert backend.health().notes == ()


def test_a_store_that_could_not_be_made_is_no_empty_one(path):
    path.write_bytes(b"")
    with opened(path / "below a file" / "delayq.sqlite3") as backend:
        for ask in (backend.processes, lambda: backend.get("j1")):
            with pytest.raises(BackendUnavailableError, match="set DELAYQ_URL"):
                ask()
        assert not backend.health().ok


def test_a_store_that_is_gone_while_in_use_is_no_empty_one(backend, path):
    put(backend)
    path.unlink()
    for _ in range(2):
        with pytest.raises(BackendUnavailableError, match="deleted or moved"):
            put(backend)
        with pytest.raises(BackendUnavailableError, match="deleted or moved"):
            backend.get("j1")
    assert not path.exists()


def test_a_glance_sees_that_the_file_is_gone(backend, path):
    put(backend)
    path.unlink()
    assert wait_until(lambda: "deleted" in backend.health(probe=False).reason, timeout=3)
    assert not path.exists()


@pytest.mark.parametrize("make, words", [(folder, "is a folder"), (pipe, "no regular file")])
def test_a_glance_sees_what_is_no_store(path, make, words):
    make(path)
    with opened(path) as backend:
        assert words in backend.health(probe=False).reason


def test_a_glance_sees_where_no_file_can_be_made(path):
    path.write_bytes(b"")
    with opened(path / "below a file" / "delayq.sqlite3") as backend:
        assert "set DELAYQ_URL" in backend.health(probe=False).reason


@pytest.mark.parametrize("verb", ["claim", "enqueue"])
def test_a_lease_begins_when_the_wait_for_the_store_is_over(path, monkeypatch, verb):
    clock = FakeClock()
    with opened(path, clock) as backend:
        write, wait = backend._store.write, 50.0

        def late(operation, **options):
            def run(sql):
                clock.advance(wait)
                return operation(sql)

            return write(run, **options)

        new = job()
        if verb == "claim":
            backend.enqueue([new], now=new.run_at, timeout=5)
            monkeypatch.setattr(backend._store, "write", late)
            (claim,) = backend.claim(None, now=new.run_at, limit=1, owner="me", lease=60)
        else:
            monkeypatch.setattr(backend._store, "write", late)
            wish = ClaimFor("me", 60, 1)
            (answer,) = backend.enqueue([new], now=new.run_at, timeout=5, claim_for=wish)
            claim = answer.claim
        monkeypatch.undo()
        assert claim.leased_at == clock.monotonic()
        clock.advance(59.0)
        assert backend.rescue(now=new.run_at, max_rescues=3) == []
        clock.advance(1.0)
        assert len(backend.rescue(now=new.run_at, max_rescues=3)) == 1
