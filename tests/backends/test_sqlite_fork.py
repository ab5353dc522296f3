"""Forks of a process that uses a sqlite store: nothing that anybody acknowledged may vanish.

It must not fork the test process itself; the children of `sqlite_child.py` do that.
"""

from __future__ import annotations

import subprocess
import threading

import apsw
import pytest

from backends.sqlite_kit import child, line, opened, tell, total
from flask_delayq.backends.sqlite.file.location import StoreFile
from flask_delayq.backends.sqlite.file.requests import State


@pytest.fixture
def path(tmp_path):
    return tmp_path / "delayq.sqlite3"


@pytest.mark.parametrize(
    "forks", [60, pytest.param(1000, marks=[pytest.mark.stress, pytest.mark.timeout(600)])]
)
def test_what_was_acknowledged_around_forks_is_present(path, forks):
    with child("fork", path, forks) as process:
        acknowledged, present = map(int, line(process).split())
        assert process.wait(30) == 0
    assert acknowledged == present > 2 * forks
    with opened(path) as backend:
        assert total(backend) == acknowledged
    connection = apsw.Connection(str(path))
    assert connection.pragma("integrity_check") == "ok"
    connection.close()


def test_a_child_forked_too_early_refuses_the_store_and_its_parent_goes_on(path):
    with child("fork_in_a_hurry", path) as process:
        assert [line(process) for _ in range(5)] == ["closed", "closed", "closed", "False", "2"]
        assert process.wait(20) == 0


def test_a_fork_waits_for_a_question_about_a_store_that_is_not_made_yet(path):
    """A child would inherit SQLite's locks for the whole process, and wait for them for ever."""
    with opened(path) as backend:
        store = backend._store

        def question(sql):
            fork = threading.Thread(target=store.before_fork, args=(0.0,))
            fork.start()
            fork.join(5)
            return store._ticket.state

        try:
            assert store.read(question) is not State.LEADING
        finally:
            store.after_fork_in_parent()
        assert backend.get("unknown") is None
    assert not path.exists()


def test_a_fork_beside_threads_that_make_backends_is_prepared(path):
    with child("fork_beside_makers", path, 5, stderr=subprocess.PIPE) as process:
        assert line(process) == "5 5"
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


def test_a_signal_handler_may_fork_in_the_middle_of_a_fork(path):
    with child("fork_in_a_fork", path) as process:
        assert [line(process) for _ in range(3)] == ["0", "0", "0"]
        assert process.wait(20) == 0


def test_an_exception_thrown_into_a_fork_leaves_no_later_one_unprepared(path):
    with child("cut_fork", path) as process:
        assert [line(process) for _ in range(4)] == ["0", "0", "0", "1 False"]
        assert process.wait(20) == 0


def test_a_child_forked_without_hooks_refuses_the_store_and_its_parent_goes_on(path):
    with child("fork_in_c", path) as process:
        assert [line(process) for _ in range(6)] == [*["closed"] * 4, "False False", "2"]
        assert process.wait(20) == 0


def test_in_a_child_all_that_are_on_one_path_still_open_it_one_at_a_time(path):
    held, *others = files = [StoreFile(str(path), str(path)) for _ in range(3)]
    other_path = StoreFile(f"{path}2", f"{path}2")
    assert held.guard.acquire()  # by a thread that the child does not have
    for file in files:
        file.forget_lock()
    assert {id(file.guard) for file in others} == {id(held.guard)} != {id(other_path.guard)}
    assert StoreFile(str(path), str(path)).guard is held.guard
    taken = []
    thread = threading.Thread(target=lambda: taken.append(held.guard.acquire(timeout=1)))
    thread.start()
    thread.join(5)
    assert taken == [True]


def test_a_child_tells_whether_its_parent_lives(path):
    with child("fork_owner", path) as process:
        assert sorted([line(process), line(process)]) == ["True", "[True]"]
        process.wait(5)
        tell(process)
        assert line(process) == "[False]"
