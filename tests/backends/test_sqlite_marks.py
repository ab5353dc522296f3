"""Begun marks: after a crash it is known which jobs had begun, and what spoils them spoils nothing else.

What they are for is tried with real kills in `acceptance/test_begun.py`.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import stat
import sys
import threading
import time

import apsw
import pytest

from backends.sqlite_kit import child, job, line, opened, put
from flask_delayq.backends.sqlite.host import marks
from flask_delayq.backends.sqlite.host.boots import boot_id
from flask_delayq.backends.sqlite.host.marks import Marks
from flask_delayq.config import Settings
from flask_delayq.errors import ConfigurationError
from flask_delayq.ids import new_id
from flask_delayq.job import Claim, Outcome, ProcessRecord, StoredState, Verb
from flask_delayq.runtime import pool, recorder
from flask_delayq.testing import FakeClock

LEASE = 60.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "delayq.sqlite3"


@pytest.fixture
def clock():
    return FakeClock(time.time())


@pytest.fixture
def backend(path, clock):
    with opened(path, clock) as backend:
        yield backend
        backend.withdraw("me")


def folder_of(path):
    return path.with_name(path.name + ".live")


def announce(backend, owner="me"):
    now = time.time()
    backend.announce(ProcessRecord(owner, 1, "here", now, now, b"{}"))


def claimed(backend, count=1, owner="me", **facts):
    now = time.time()
    backend.enqueue([job(**facts) for _ in range(count)], now=now, timeout=5)
    claims = backend.claim(None, now=now + 1, limit=count, owner=owner, lease=LEASE)
    assert len(claims) == count
    return claims


def taken_back(backend, clock):
    """Let every lease end; how often each lost job is charged now."""
    clock.advance(LEASE)
    return {one.id: one.rescues for one in backend.rescue(now=clock.now(), max_rescues=3)}


def of_this_store(path):
    return Marks(folder=str(folder_of(path)), store=str(path), boot=boot_id())


def claim_of(job_id, number=1, owner="me"):
    return Claim(job_id, "t", "q", b"", owner, number, 1, 0.0)


def began(path, *claims):
    may_have_begun = of_this_store(path).reader()
    return [may_have_begun(claim.owner, claim.id, claim.claim_no) for claim in claims]


# --- what is charged --------------------------------------------------------------------------------


@pytest.mark.parametrize("must_not_repeat", [False, True])
def test_of_a_killed_process_only_what_had_begun_is_charged(path, must_not_repeat):
    with opened(path) as backend:
        ids = [put(backend, fail_on_crash=must_not_repeat) for _ in range(5)]
        with child("begin", path, "dies", 2) as dies:
            assert line(dies) == "5"
            assert backend.rescue(now=time.time(), max_rescues=3) == []
            dies.kill()
            dies.wait(5)
            rescued = backend.rescue(now=time.time(), max_rescues=3)
        begun = StoredState.FAILED if must_not_repeat else StoredState.WAITING
        assert [(one.id, one.rescues, one.charged, one.state) for one in rescued] == [
            *((job_id, 1, True, begun) for job_id in ids[:2]),
            *((job_id, 0, False, StoredState.WAITING) for job_id in ids[2:]),
        ]
        assert backend.rescue(now=time.time(), max_rescues=3) == []
        claims = backend.claim(None, now=time.time(), limit=9, owner="next", lease=60)
        assert {claim.id for claim in claims} >= set(ids[2:])
    assert list(folder_of(path).iterdir()) == []


def test_an_owner_that_lives_and_let_its_lease_end_is_charged_likewise(backend, clock):
    announce(backend)
    first, second = claimed(backend, 2)
    backend.mark_begun(second)
    assert taken_back(backend, clock) == {first.id: 0, second.id: 1}


def test_an_interrupted_run_had_begun(backend, clock):
    announce(backend)
    (claim,) = claimed(backend, fail_on_crash=True)
    backend.mark_begun(claim)
    backend.record([Outcome(claim, Verb.INTERRUPT, clock.now())], now=clock.now())
    clock.advance(LEASE)
    (one,) = backend.rescue(now=clock.now(), max_rescues=3)
    assert (one.state, one.charged) == (StoredState.FAILED, False)


@pytest.mark.parametrize("verb", [Verb.RETRY, Verb.SNOOZE, Verb.RELEASE])
def test_a_mark_is_of_one_claim(backend, clock, verb):
    announce(backend)
    (claim,) = claimed(backend)
    backend.mark_begun(claim)
    backend.record([Outcome(claim, verb, clock.now(), run_at=clock.now())], now=clock.now())
    (again,) = backend.claim(None, now=clock.now() + 1, limit=1, owner="me", lease=LEASE)
    assert again.claim_no == 2
    assert taken_back(backend, clock) == {claim.id: 0}


def test_a_mark_that_is_taken_back_charges_nothing_and_frees_its_place(backend, clock, path):
    announce(backend)
    refused, begun = claimed(backend, 2)
    backend.mark_begun(refused)
    backend.unmark_begun(refused)
    assert began(path, refused) == [False]
    backend.mark_begun(begun)
    backend.unmark_begun(refused)  # its place is another's by now
    table = backend._marks._tables["me"]
    assert (len(table._places), len(table._free)) == (1, 0)
    assert taken_back(backend, clock) == {refused.id: 0, begun.id: 1}


@pytest.mark.parametrize("job_id", ["a", "x" * 28, "x" * 29, "x" * 128, "a\0b", "🙈"])
def test_any_id_can_be_marked(backend, clock, job_id):
    announce(backend)
    marked, other = claimed(backend, id=job_id)[0], claimed(backend, id=job_id + "2")[0]
    backend.mark_begun(marked)
    assert taken_back(backend, clock) == {marked.id: 1, other.id: 0}


def test_half_a_mark_is_none():
    """A kill may come between any two of its bytes; what stood there before is another's."""
    old, new = marks._entry_of(new_id(), 1), marks._entry_of(new_id(), 70_000)
    for before in (old, bytes(32)):
        for length in range(32):
            torn = new[:length] + before[length:]
            assert torn == before or torn == new or torn not in (old, new)
    assert marks._entry_of("a", 1) != marks._entry_of("a", 2)


# --- how long a mark stands --------------------------------------------------------------------------


def test_a_long_run_keeps_its_mark_however_many_others_come_and_go(path):
    table = of_this_store(path)
    table.open("me")
    long = claim_of("long")
    table.mark(long)
    for number in range(marks.PLACES + 100):
        short = claim_of("short", number)
        table.mark(short)
        table.forget([Outcome(short, Verb.COMPLETE, 0.0)])
    assert began(path, long) == [True]


def test_a_mark_stands_until_the_outcome_is_stored(path):
    table = of_this_store(path)
    table.open("me")
    claims = [claim_of(new_id()) for _ in range(marks.PLACES)]
    for claim in claims:
        table.mark(claim)
    assert all(began(path, *claims))
    table.forget([Outcome(claims[7], Verb.INTERRUPT, 0.0)])
    table.forget([Outcome(claims[8], Verb.COMPLETE, 0.0)])
    late = claim_of("late")
    table.mark(late)
    assert began(path, late, claims[7], claims[9]) == [True, True, True]
    assert began(path, claim_of("never")) == [False]


def test_more_runs_than_there_are_places_count_all_as_begun(path):
    table = of_this_store(path)
    table.open("me")
    for number in range(marks.PLACES + 1):
        table.mark(claim_of("x", number))
    assert began(path, claim_of("never")) == [True]
    table.mark(claim_of("y"))
    table.forget([Outcome(claim_of("x", 1), Verb.COMPLETE, 0.0)])
    table.mark(claim_of("z"))
    assert began(path, claim_of("never")) == [True]
    table.let_go("me")
    table.remove("me")


def test_the_runtime_begins_fewer_runs_than_there_are_places():
    """Nothing begins once the recorder is full; what has a place by then may, and so may those who asked
    just before."""
    assert Settings.read({"DELAYQ_WORKERS": 1024}, folder="/tmp", testing=False).workers == 1024
    with pytest.raises(ConfigurationError, match="WORKERS"):
        Settings.read({"DELAYQ_WORKERS": 1025}, folder="/tmp", testing=False)
    places = 1024 + pool.PREFETCH_MOST
    assert recorder.BACKLOG_LIMIT + 1 + 2 * places < marks.PLACES


@pytest.mark.parametrize("free_threaded", [False, True])
def test_threads_share_the_places(path, monkeypatch, free_threaded):
    if free_threaded:
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    table = of_this_store(path)
    table.open("me")
    gate = threading.Barrier(8)

    def work(name):
        gate.wait(10)
        for number in range(1000):
            claim = claim_of(f"{name}-short", number)
            table.mark(claim)
            table.forget([Outcome(claim, Verb.COMPLETE, 0.0)])
            table.mark(claim_of(f"{name}-long", number))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(began(path, *(claim_of(f"{n}-long", i) for n in range(8) for i in range(1000))))


# --- what cannot be relied on counts as begun ---------------------------------------------------------


def spoil_missing(file):
    file.unlink()


def spoil_cut(file):
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:5000])


def spoil_other_boot(file):
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content.replace(boot_id().encode(), b"8" * len(boot_id())))


def spoil_noise(file):
    size = file.stat().st_size
    file.unlink()
    file.write_bytes(os.urandom(size))


def spoil_link(file):
    file.rename(file.with_name("elsewhere"))
    file.symlink_to(file.with_name("elsewhere"))


def spoil_pipe(file):
    file.unlink()
    os.mkfifo(file)


def spoil_folder(file):
    file.unlink()
    file.mkdir()


SPOILS = [
    *(spoil_missing, spoil_cut, spoil_other_boot, spoil_noise, spoil_link, spoil_pipe, spoil_folder),
]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__[6:])
def test_marks_that_cannot_be_relied_on_charge_all(backend, clock, path, spoil):
    announce(backend)
    claims = claimed(backend, 2)
    backend.mark_begun(claims[0])
    spoil(folder_of(path) / "me.begun")
    backend.mark_begun(claims[1])
    backend._signs.let_go("me")  # it is dead: one that lives vouches for its boot
    assert set(taken_back(backend, clock).values()) == {1}


def test_an_owner_that_began_something_before_it_was_announced_has_no_marks(backend, clock):
    first, second = claimed(backend, 2)
    backend.mark_begun(first)
    announce(backend)
    announce(backend)
    assert set(taken_back(backend, clock).values()) == {1}
    assert second.id


def test_an_owner_that_was_never_announced_has_no_marks(backend, clock):
    claimed(backend, 2)
    assert set(taken_back(backend, clock).values()) == {1}


def test_marks_of_an_earlier_runtime_of_the_same_name_are_not_taken_for_ours(path, clock):
    with opened(path, clock) as earlier, opened(path, clock) as later:
        announce(earlier)
        (old,) = claimed(earlier)
        announce(later)
        (new,) = claimed(later)
        later.mark_begun(new)
        assert taken_back(later, clock) == {old.id: 1, new.id: 1}
        earlier.withdraw("me")
        later.withdraw("me")


@pytest.mark.parametrize("failing", ["fallocate", "map", "folder", "boot"])
def test_a_process_without_marks_goes_on_and_says_so(path, clock, monkeypatch, failing, caplog):
    def no_room(*args):
        raise OSError(errno.ENOSPC, "no space left")

    if failing == "fallocate":
        monkeypatch.setattr(os, "posix_fallocate", no_room)
    elif failing == "map":
        monkeypatch.setattr(mmap, "mmap", no_room)
    elif failing == "folder":
        folder_of(path).write_text("in the way")
    else:
        monkeypatch.setattr("flask_delayq.backends.sqlite.backend.boot_id", lambda: "unknown:here")
    with opened(path, clock) as backend:
        announce(backend)
        claims = claimed(backend, 2)
        backend.mark_begun(claims[0])
        if failing != "folder":
            assert not (folder_of(path) / "me.begun").exists()
        assert set(taken_back(backend, clock).values()) == {1}
        backend.withdraw("me")
    assert ("counts as begun" in caplog.text) == (failing != "boot")


@pytest.mark.parametrize("how", ["missing", "unsupported"])
def test_where_room_cannot_be_reserved_it_is_written(path, clock, monkeypatch, how):
    def unsupported(*args):
        raise OSError(errno.EOPNOTSUPP, "not here")

    if how == "missing":
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", unsupported)
    with opened(path, clock) as backend:
        announce(backend)
        found = (folder_of(path) / "me.begun").stat()
        first, second = claimed(backend, 2)
        backend.mark_begun(first)
        assert taken_back(backend, clock) == {first.id: 1, second.id: 0}
        backend.withdraw("me")
    assert found.st_blocks * 512 >= found.st_size


# --- of a process that was taken for dead -------------------------------------------------------------


def test_removed_marks_are_made_again_with_all_that_runs(backend, clock, path):
    announce(backend)
    running, ended, waiting, later = claimed(backend, 4)
    backend.mark_begun(running)
    backend.mark_begun(ended)
    file = folder_of(path) / "me.begun"
    file.unlink()
    backend.record([Outcome(ended, Verb.RELEASE, 0.0)], now=0.0)
    assert began(path, waiting) == [True], "as long as there is no file, all counts as begun"
    announce(backend)
    backend.mark_begun(later)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert taken_back(backend, clock) == {running.id: 1, waiting.id: 0, later.id: 1}
    assert [name for name in os.listdir(file.parent) if name.startswith("me.begun")] == ["me.begun"]


def test_marks_that_were_put_back_from_a_copy_are_made_again(backend, clock, path):
    """The copy has the name, and is not the file that the process stores into."""
    announce(backend)
    running, later, waiting = claimed(backend, 3)
    folder = folder_of(path)
    shutil.copytree(folder, copy := folder.with_name("copy"))
    backend.mark_begun(running)
    shutil.rmtree(folder)
    copy.rename(folder)
    announce(backend)
    backend.mark_begun(later)
    assert taken_back(backend, clock) == {running.id: 1, later.id: 1, waiting.id: 0}


def test_marks_that_are_in_their_place_are_left_there(backend, path):
    announce(backend)
    before = (folder_of(path) / "me.begun").stat()
    announce(backend)
    after = (folder_of(path) / "me.begun").stat()
    assert (before.st_ino, before.st_mtime) == (after.st_ino, after.st_mtime)


def test_what_begins_while_the_marks_are_made_again_is_in_the_file(path):
    """The owner that wrote a mark into the table of before writes it into the new one as well."""
    table = of_this_store(path)
    table.open("me")
    gate = threading.Barrier(5)

    def work(name):
        gate.wait(10)
        for number in range(1500):
            short = claim_of(f"{name}-short", number)
            table.mark(short)
            table.mark(claim_of(f"{name}-long", number))
            table.forget([Outcome(short, Verb.COMPLETE, 0.0)])

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    gate.wait(10)
    while any(thread.is_alive() for thread in threads):
        table.remove("me")
        table.open("me")
    assert began(path, claim_of("never")) == [False]
    assert all(began(path, *(claim_of(f"{n}-long", i) for n in range(4) for i in range(1500))))


def test_a_mark_on_its_way_into_the_old_table_is_in_the_new_one(path, monkeypatch):
    table = of_this_store(path)
    table.open("me")
    table.remove("me")
    mark = marks._Table.mark
    late = claim_of("late")

    def overtaken(old, entry):
        monkeypatch.undo()
        table.open("me")
        mark(old, entry)

    monkeypatch.setattr(marks._Table, "mark", overtaken)
    table.mark(late)
    assert began(path, late, claim_of("never")) == [True, False]


def test_a_run_that_is_marked_beside_its_copy_is_marked_once(path, monkeypatch):
    table = of_this_store(path)
    table.open("me")
    table.remove("me")
    mark = marks._Table.mark
    refused = claim_of("refused")

    def overtaken(old, run):
        monkeypatch.undo()
        mark(old, run)
        table.open("me")

    monkeypatch.setattr(marks._Table, "mark", overtaken)
    table.mark(refused)
    assert began(path, refused) == [True]
    table.unmark(refused)
    assert began(path, refused) == [False]


def test_a_run_that_ends_while_it_is_copied_leaves_no_place_taken(path, monkeypatch):
    table = of_this_store(path)
    table.open("me")
    ended = claim_of("ended")
    table.mark(ended)
    table.remove("me")
    runs = marks._Table.runs

    def overtaken(old):
        found = runs(old)
        table.forget([Outcome(ended, Verb.COMPLETE, 0.0)])
        return found

    monkeypatch.setattr(marks._Table, "runs", overtaken)
    table.open("me")
    assert not table._tables["me"].runs()


@pytest.mark.parametrize("step", ["runs", "erase"])
def test_a_run_that_is_refused_while_the_marks_are_made_again_keeps_none(path, monkeypatch, step):
    table = of_this_store(path)
    table.open("me")
    refused, running = claim_of("refused"), claim_of("running")
    table.mark(refused)
    table.mark(running)
    table.remove("me")
    real = getattr(marks._Table, step)

    def runs(old):
        found = real(old)
        table.unmark(refused)
        return found

    def erase(old, entry):
        monkeypatch.undo()
        table.open("me")
        real(old, entry)

    monkeypatch.setattr(marks._Table, step, locals()[step])
    if step == "runs":
        table.open("me")
    else:
        table.unmark(refused)
    assert began(path, refused, running) == [False, True]


def test_marks_that_had_no_room_are_not_made_again(path):
    table = of_this_store(path)
    table.open("me")
    for number in range(marks.PLACES + 1):
        table.mark(claim_of("x", number))
    table.open("me")
    assert began(path, claim_of("never")) == [True]


# --- the files ----------------------------------------------------------------------------------------


def test_the_file_is_private_whole_and_gone_in_the_end(backend, path):
    old = os.umask(0)
    try:
        announce(backend)
    finally:
        os.umask(old)
    file = folder_of(path) / "me.begun"
    found = file.stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert stat.S_IMODE(folder_of(path).stat().st_mode) == 0o700
    assert found.st_blocks * 512 >= found.st_size, "its room is reserved"
    (claim,) = claimed(backend)
    backend.mark_begun(claim)
    assert backend.record([Outcome(claim, Verb.COMPLETE, 0.0)], now=0.0) == [True]
    backend.withdraw("me")
    assert not file.exists()
    backend.mark_begun(claim)  # late, and harmless
    backend.withdraw("me")


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="this system lists no mappings")
def test_nothing_stays_mapped_or_open(backend):
    def count():
        with open("/proc/self/maps") as maps:
            return sum(".begun" in text for text in maps), len(os.listdir("/proc/self/fd"))

    announce(backend, "first")
    backend.withdraw("first")
    before = count()
    for number in range(20):
        announce(backend, f"owner-{number}")
        assert count()[0] == 1
        backend.withdraw(f"owner-{number}")
    assert count() == before
    assert before[0] == 0


def test_a_forged_owner_leads_to_no_other_file(backend, clock, path):
    """The name comes out of the store, which somebody may have changed."""
    outside = path.with_name("victim.begun")
    announce(backend)
    outside.write_bytes((folder_of(path) / "me.begun").read_bytes())
    (claim,) = claimed(backend)
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE job SET owner = '../victim'")
    connection.execute(
        "INSERT INTO process VALUES"
        " ('../victim', 1, 'here', 0, 0, x'7b7d', 0), ('', 1, 'here', 0, 0, x'', 0)"
    )
    connection.close()
    assert taken_back(backend, clock) == {claim.id: 1}
    backend.rescue(now=clock.now(), max_rescues=3)
    assert outside.exists()
    backend.withdraw("../victim")
    assert outside.exists()
    announce(backend, "../other")
    assert not path.with_name("other.begun").exists()


def test_a_fork_does_not_mark_for_its_parent(path):
    with opened(path) as backend:
        put(backend)
        put(backend)
        with child("fork_marks", path, "dies") as dies:
            mine, other = line(dies).split()
            dies.kill()
            dies.wait(5)
        rescued = backend.rescue(now=time.time(), max_rescues=3)
    assert {one.id: one.rescues for one in rescued} == {mine: 1, other: 0}


def test_a_fork_waits_for_a_file_that_is_being_made(backend, monkeypatch):
    """Its descriptor would be the child's as well, and nobody there would close it."""
    begun, go_on, forked = threading.Event(), threading.Event(), threading.Event()
    reserve = marks._reserve

    def reserve_slowly(descriptor):
        begun.set()
        assert go_on.wait(10)
        reserve(descriptor)

    def fork():
        backend._marks.before_fork(10)
        forked.set()
        backend._marks.after_fork_in_parent()

    monkeypatch.setattr(marks, "_reserve", reserve_slowly)
    making = threading.Thread(target=announce, args=(backend, "slow"))
    making.start()
    assert begun.wait(5)
    forking = threading.Thread(target=fork)
    forking.start()
    assert not forked.wait(0.1)
    go_on.set()
    assert forked.wait(5)
    for thread in (making, forking):
        thread.join(5)
    backend.withdraw("slow")
