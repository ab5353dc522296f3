"""What lies beside a sqlite store: signs of life, doorbells, folders, and paths that are links.

It must not test what jobs do with it.
"""

from __future__ import annotations

import os
import shutil
import stat
import time

import apsw
import pytest

from backends.sqlite_kit import child, line, opened, put, total
from flask_delayq.backends.sqlite.host import leftovers, liveness
from flask_delayq.backends.sqlite.host.liveness import SignsOfLife
from flask_delayq.errors import BackendUnavailableError, StoreMismatchError
from flask_delayq.job import ProcessRecord
from flask_delayq.testing import FakeClock

ANOTHER_USER = 65534


@pytest.fixture
def path(tmp_path):
    return tmp_path / "real" / "delayq.sqlite3"


@pytest.fixture
def linked(tmp_path, path):
    """The same path by way of a link to its folder."""
    path.parent.mkdir()
    (tmp_path / "current").symlink_to(path.parent)
    return tmp_path / "current" / path.name


@pytest.fixture
def give_away(monkeypatch):
    """Make a file another user's: really, or by looking at it as another user."""

    def give(path):
        if os.geteuid() == 0:
            os.lchown(path, ANOTHER_USER, ANOTHER_USER)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: ANOTHER_USER)

    return give


def record(owner):
    now = time.time()
    return ProcessRecord(owner, os.getpid(), "here", now, now, b"{}")


def seen_from_outside(path):
    with child("look", path) as process:
        return line(process)


# --- signs of life -----------------------------------------------------------------------------------


def test_two_spellings_of_one_store_end_no_sign(path, linked):
    with opened(path) as one, opened(linked) as two:
        one.announce(record("one"))
        two.announce(record("two"))
        for backend in (one, two):
            assert all(process.alive for process in backend.processes())
        assert seen_from_outside(path) == seen_from_outside(linked) == "one:True two:True"
        one.withdraw("one")
        two.withdraw("two")


def test_a_file_is_known_under_every_path(path, linked):
    """Where a path cannot be told to be the same one (a second mount), the file can."""
    one, two = (SignsOfLife(f"{p}.live", str(p)) for p in (path, linked))
    with opened(path) as backend:
        backend.announce(record("me"))
        assert two.alive("me")
        assert seen_from_outside(path) == "me:True"
        assert one.alive("me")
        backend.withdraw("me")


def test_a_sign_that_other_code_of_the_process_dropped_is_shown_again(path, tmp_path):
    with opened(path) as backend:
        backend.announce(record("me"))
        shutil.copytree(f"{path}.live", tmp_path / "copy")  # opens and closes the file
        assert seen_from_outside(path) == "me:False"
        backend.announce(record("me"))
        assert seen_from_outside(path) == "me:True"
        backend.withdraw("me")


def test_a_sign_has_its_name_only_while_it_is_locked(path, monkeypatch):
    """Whoever looks between the file's creation and its lock would take its owner for dead."""
    names = []
    lock = liveness._lock

    def look_then_lock(descriptor):
        names.extend(os.listdir(f"{path}.live"))
        return lock(descriptor)

    monkeypatch.setattr(liveness, "_lock", look_then_lock)
    with opened(path) as backend:
        backend.announce(record("me"))
        assert names == ["me.lock.new"]
        assert set(os.listdir(f"{path}.live")) == {"me.lock", "me.begun"}
        backend.withdraw("me")
    assert os.listdir(f"{path}.live") == []


def test_a_forged_owner_reaches_no_file_elsewhere(path, tmp_path):
    victims = [tmp_path / "victim.lock", tmp_path / "victim.bell"]
    for victim in victims:
        victim.touch()
    with opened(path) as backend:
        put(backend)
        backend.announce(record("me"))
        forged = "../../victim"
        connection = apsw.Connection(str(path))
        connection.execute(
            "INSERT INTO process (owner, pid, host, started_at, seen_at, info, marked)"
            " VALUES (?, 1, 'here', 0, 0, x'', 1)",
            (forged,),
        )
        connection.close()
        assert [p.owner for p in backend.processes() if p.alive] == ["me"]
        backend.rescue(now=time.time(), max_rescues=3)
        assert [p.owner for p in backend.processes()] == ["me"]
        assert backend.open_doorbell(forged) is None
        backend.withdraw("me")
    assert all(victim.exists() for victim in victims)


def test_a_pipe_in_place_of_a_sign_holds_nobody_up(path):
    with opened(path) as backend:
        backend.announce(record("me"))
        os.mkfifo(f"{path}.live/other.lock")
        backend.announce(record("other"))
        assert backend._signs.alive("other")
        os.mkfifo(f"{path}.live/third.lock")
        assert backend._signs.alive("third") is False
        backend.withdraw("me")
        backend.withdraw("other")


def test_a_folder_that_another_user_made_is_not_used(path, give_away):
    folder = path.with_name(path.name + ".live")
    folder.mkdir(parents=True, mode=0o777)
    with opened(path) as backend:
        put(backend)
        give_away(folder)
        backend.announce(record("me"))
        assert list(folder.iterdir()) == []
        assert backend.open_doorbell("me") is None
        assert str(folder) in " ".join(backend.health().notes)


def test_one_that_shows_that_it_lives_in_the_middle_of_its_rescue_keeps_its_files(path, monkeypatch):
    with opened(path) as backend, child("own", path, "lives", 0) as lives:
        assert line(lives) == "0"
        answers = iter([False])
        alive = SignsOfLife.alive
        monkeypatch.setattr(
            SignsOfLife, "alive", lambda *who: next(answers, None) is not False and alive(*who)
        )
        backend.rescue(now=time.time(), max_rescues=3)
        assert backend.processes() == []
        assert {"lives.lock", "lives.begun"} <= set(os.listdir(f"{path}.live"))


# --- what the dead leave behind ----------------------------------------------------------------------


def in_the_middle(backend, step, call):
    """Let something happen between two steps of an announcement."""
    part = {"show": backend._signs, "write": backend._store, "open": backend._marks}[step]
    real = getattr(part, step)

    def run(*args, **options):
        setattr(part, step, real)
        if step == "show":
            answer = real(*args, **options)
            call()
            return answer
        call()
        return real(*args, **options)

    setattr(part, step, run)


@pytest.mark.parametrize("step", ["show", "write", "open"])
def test_an_owner_that_withdraws_while_it_is_announced_leaves_nothing(path, step):
    with opened(path) as backend:
        backend.announce(record("me"))
        in_the_middle(backend, step, lambda: backend.withdraw("me"))
        backend.announce(record("me"))
        assert backend.processes() == []
    assert os.listdir(path.with_name(path.name + ".live")) == []


@pytest.mark.parametrize("step", ["", "show", "write", "open"])
def test_an_owner_that_was_let_go_is_dead_whatever_is_announced_later(path, step):
    with opened(path) as backend:
        backend.announce(record("me"))
        if step:
            in_the_middle(backend, step, lambda: backend.let_go("me"))
        else:
            backend.let_go("me")
        backend.announce(record("me"))
        assert [process.alive for process in backend.processes()] == [False]


def test_files_that_no_record_tells_of_are_removed_in_the_end(path):
    clock = FakeClock(time.time())
    folder = path.with_name(path.name + ".live")
    left = [folder / name for name in ("a.lock", "a.begun", "a.bell", "b.lock.new", "b.begun.new")]
    others = [folder / name for name in ("known.begun", "notes.txt", ".hidden.lock")]
    with opened(path, clock) as backend, child("own", path, "lives", 0) as lives:
        assert line(lives) == "0"
        backend.announce(record("me"))
        backend.announce(record("known"))
        connection = apsw.Connection(str(path))
        connection.execute("DELETE FROM process WHERE owner = 'lives'")
        connection.close()
        for file in (*left, *others):
            file.touch()
        kept = set(folder.iterdir()) - set(left)
        backend.maintain()
        assert set(folder.iterdir()) == kept | set(left), "they may be of one that begins"
        clock.advance(leftovers.EVERY - 1)
        backend.maintain()
        assert set(folder.iterdir()) == kept | set(left), "it looks once an hour"
        clock.advance(1)
        backend.maintain()
        assert set(folder.iterdir()) == kept
        assert {"lives.lock", "lives.begun", "me.lock"} <= {file.name for file in kept}
        backend.withdraw("me")
        backend.withdraw("known")


def test_what_is_left_is_found_at_the_first_look(path):
    with opened(path) as backend:
        put(backend)
        folder = path.with_name(path.name + ".live")
        folder.mkdir()
        (folder / "a.begun").touch()
        os.utime(folder / "a.begun", (0, 0))
        backend.maintain()
        assert list(folder.iterdir()) == []


# --- folders and links -------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["enqueue", "announce", "doorbell"])
def test_every_folder_that_is_made_is_for_its_owner_only(tmp_path, first):
    path = tmp_path / "new" / "instance" / "delayq.sqlite3"
    before = os.umask(0)
    try:
        with opened(path) as backend:
            if first == "enqueue":
                put(backend)
            elif first == "announce":
                backend.announce(record("me"))
                backend.withdraw("me")
            else:
                backend.open_doorbell("me").close()
            modes = {stat.S_IMODE(p.stat().st_mode) for p in (path.parent, path.parent.parent)}
    finally:
        os.umask(before)
    assert modes == {0o700}


@pytest.mark.parametrize("first", ["enqueue", "announce", "read", "health"])
@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_link_that_leads_nowhere_is_told_and_nothing_is_made_behind_it(tmp_path, first, what):
    path = tmp_path / "instance" / "delayq.sqlite3"
    link = path.parent if what == "folder" else path
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "volume")
    with opened(path) as backend:
        if first == "health":
            assert "is a link to" in backend.health().reason
        else:
            with pytest.raises(BackendUnavailableError, match="is a link to"):
                {
                    "enqueue": lambda: put(backend),
                    "announce": lambda: backend.announce(record("me")),
                    "read": lambda: backend.get("x"),
                }[first]()
        assert not (tmp_path / "volume").exists()
        backend._signs.let_go("me")
        backend._signs.remove("me")


def test_a_store_behind_a_link_is_looked_after_like_any_other(path, linked):
    with opened(linked) as backend:
        put(backend, payload=bytes(66 * 2**20))
        assert backend.health().facts["wal_bytes"] > 64 * 2**20
        for _ in range(3):
            backend.maintain()
        assert backend.health().facts["wal_bytes"] == 0
    linked_file = path.with_name("link.sqlite3")
    linked_file.symlink_to(path)
    with opened(linked_file) as backend:
        assert total(backend) == 1
        put(backend, payload=bytes(66 * 2**20))
        for _ in range(3):
            backend.maintain()
        assert backend.health().facts["wal_bytes"] == 0


@pytest.mark.parametrize("planted", ["file", "link"])
def test_what_another_user_put_into_an_open_folder_is_refused(tmp_path, path, give_away, planted):
    folder = tmp_path / "for all"
    folder.mkdir()
    folder.chmod(0o777)
    bait = folder / "delayq.sqlite3"
    with opened(path) as backend:
        put(backend)
    if planted == "file":
        shutil.copy(path, bait)
    else:
        bait.symlink_to(path)
    give_away(bait)
    with opened(bait) as backend:
        with pytest.raises(StoreMismatchError, match="belongs to user id"):
            put(backend)
        assert not backend.health().ok


def test_an_own_store_in_an_open_folder_is_used(tmp_path):
    folder = tmp_path / "for all"
    folder.mkdir()
    folder.chmod(0o1777)
    for _ in range(2):
        with opened(folder / "delayq.sqlite3") as backend:
            put(backend)
