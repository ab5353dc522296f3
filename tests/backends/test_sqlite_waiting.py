"""Nobody waits for longer than the time that was given; what is thrown in leaves no lock behind.

It must not test what is stored, beyond that it is.
"""

from __future__ import annotations

import ctypes
import os
import random
import threading
import time

import apsw
import pytest

from backends.sqlite_kit import child, line, opened, put, total
from flask_delayq.backends.sqlite.host import doorbell
from flask_delayq.errors import BackendUnavailableError
from pace import quiet_seconds
from waiting import wait_until

FAR = 20.0
"""Seconds for which others hold what is waited for: a wait without a limit is told from one with it."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "delayq.sqlite3"


@pytest.fixture
def backend(path):
    with opened(path) as made:
        yield made


def in_threads(*calls):
    """Run calls at once; for each what it raised or answered, and how long it took."""
    found = []

    def run(call):
        begin = time.monotonic()
        try:
            answer = call()
        except BackendUnavailableError as error:
            answer = error
        found.append((answer, quiet_seconds(begin)))

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FAR * 2)
    return found


# --- the time of each caller -------------------------------------------------------------------------


def test_while_another_process_holds_the_lock_every_thread_returns_in_its_time(backend, path):
    """Waiters come to lead in the moment in which their time ends; that must not give them more."""
    put(backend)
    with child("hold", path, FAR) as process:
        assert line(process) == "held"
        for _ in range(4):
            found = in_threads(*[lambda: put(backend, timeout=0.3)] * 8, backend.health)
            assert max(seconds for _, seconds in found) < FAR / 4
            assert sum(isinstance(answer, BackendUnavailableError) for answer, _ in found) == 8
    assert total(backend) == 1


def test_a_store_that_cannot_be_opened_holds_no_other_one_up(tmp_path, path):
    with opened(path) as backend:
        put(backend)
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE meta SET value = 'an earlier boot' WHERE name = 'boot'")
    connection.close()
    with child("hold", path, FAR) as process, opened(path) as stuck, opened(path) as stuck_too:
        assert line(process) == "held"
        thread = threading.Thread(target=in_threads, args=(lambda: put(stuck, timeout=FAR),))
        thread.start()
        wait_until(lambda: stuck._store.writer._leader, what="the store is being opened")
        with opened(tmp_path / "other.sqlite3") as other:
            begin = time.monotonic()
            assert put(other, timeout=5)
            assert quiet_seconds(begin) < FAR / 4
        # Another backend on the same file has its own time as well.
        begin = time.monotonic()
        with pytest.raises(BackendUnavailableError):
            put(stuck_too, timeout=0.3)
        assert stuck_too.health(probe=False).facts
        assert quiet_seconds(begin) < FAR / 4
        process.kill()
        thread.join(FAR)


# --- signal handlers and finalizers ------------------------------------------------------------------


def test_a_signal_handler_and_a_finalizer_are_served_or_refused(path):
    with child("interrupted", path, 150) as process:
        served, refused = map(int, line(process).split())
        assert process.wait(30) == 0
    assert served + refused > 100
    assert served > 0


# --- what is thrown into a thread --------------------------------------------------------------------


class ThrownError(Exception):
    pass


def throw_into(thread):
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
    throw(ctypes.c_ulong(thread.ident), ctypes.py_object(ThrownError))


def test_an_interrupt_while_the_store_is_closed_leaves_it_usable(backend, monkeypatch):
    put(backend)

    def interrupt(deadline, *, checkpoint):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(backend._store.readers, "shut", interrupt)
        with pytest.raises(KeyboardInterrupt):
            backend.close()
    assert put(backend, timeout=1)
    assert backend._store.close(timeout=1)


@pytest.mark.parametrize(
    "trials", [150, pytest.param(3000, marks=[pytest.mark.stress, pytest.mark.timeout(600)])]
)
def test_exceptions_thrown_at_any_moment_keep_no_connection(backend, trials):
    """Into a thread that reads, closes and writes: afterwards everything can still be closed."""
    known = put(backend)
    rng = random.Random(11)
    hits = 0
    for _ in range(trials):
        running, gate, hit = threading.Event(), threading.Event(), []

        def victim(running=running, gate=gate, hit=hit):
            try:
                running.set()
                for turn in range(20):
                    backend.get(known)
                    if turn % 5 == 4:
                        backend._store.close(timeout=1)
                        put(backend)
                gate.wait(5)
            except ThrownError:
                hit.append(True)

        thread = threading.Thread(target=victim)
        thread.start()
        assert running.wait(5)
        time.sleep(rng.random() * 0.004)
        throw_into(thread)
        gate.set()
        thread.join(20)
        assert not thread.is_alive()
        hits += len(hit)
        assert backend._store.readers._loans == []
        assert backend._store.writer._leader is None
        assert backend.get(known)
    assert hits > trials / 2
    assert backend._store.close(timeout=1)


# --- doorbells ---------------------------------------------------------------------------------------


def test_a_doorbell_is_closed_where_shutdown_wakes_nobody(backend, monkeypatch):
    """As on macOS, which refuses to shut a datagram socket down that is not connected."""

    class Socket(doorbell.socket.socket):
        def shutdown(self, how):
            raise OSError(57, "Socket is not connected")

    monkeypatch.setattr(
        doorbell, "_socket", lambda: Socket(doorbell.socket.AF_UNIX, doorbell.socket.SOCK_DGRAM)
    )
    put(backend)
    bell = backend.open_doorbell("me")
    thread = threading.Thread(target=bell.wait, args=(None,))
    thread.start()
    wait_until(lambda: bell._listening)
    bell.close()
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize("step", ["wake", "unlink"])
def test_closing_a_doorbell_may_be_cut_off_and_repeated(backend, path, monkeypatch, step):
    bell = backend.open_doorbell("me")
    rang = []
    waiting = threading.Thread(target=lambda: rang.append(bell.wait(None)))
    waiting.start()
    wait_until(lambda: bell._listening)

    def throw(*arguments):
        raise KeyboardInterrupt

    if step == "wake":
        monkeypatch.setattr(bell, "_wake", throw)
    else:
        monkeypatch.setattr(doorbell.os, "unlink", throw)
    with pytest.raises(KeyboardInterrupt):
        bell.close()
    monkeypatch.undo()
    bell.close()
    waiting.join(5)
    assert rang == [False]
    assert not os.path.lexists(f"{path}.live/me.bell")


def test_a_doorbell_whose_file_is_gone_is_closed_like_any_other(backend, path):
    put(backend)
    bell = backend.open_doorbell("me")
    path.with_name(path.name + ".live").joinpath("me.bell").unlink()
    thread = threading.Thread(target=bell.wait, args=(None,))
    thread.start()
    wait_until(lambda: bell._listening)
    bell.close()
    thread.join(5)
    assert not thread.is_alive()
