"""The end of the interpreter: every app of the process drains, and none begins a job meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flask_delayq.backends import open_backend
from flask_delayq.backends.base import Inspectable
from flask_delayq.clock import SystemClock
from flask_delayq.job import JobQuery, StoredState

TESTS = Path(__file__).parents[1]

HEAD = f"""
import os, sys, threading, warnings
sys.path.insert(0, {str(TESTS)!r})
warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
from kit import make_app
from waiting import wait_until
"""


def program(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HEAD + code, *arguments], capture_output=True, text=True, timeout=60
    )


TWO_APPS = """
from flask_delayq.runtime.supervisor import Supervisor

stop = Supervisor.stop
draining, late = threading.Event(), threading.Event()
first = []

def tell_and_stop(supervisor, timeout):
    first.append(supervisor.owner)
    draining.set()
    return stop(supervisor, timeout)

Supervisor.stop = tell_and_stop

def make(url):
    _app, delayq = make_app(url=url, workers=1, drain_timeout=20)
    begun = threading.Event()

    @delayq.task(name="long")
    def long():
        begun.set()
        draining.wait(10)
        if first[0] == runtime.owner:
            late.wait(1)  # which nobody sets: the other app has time to begin a job

    @delayq.task(name="short", on_crash="fail")
    def short():
        late.set()
        print("a job began while the first app drained")

    delayq.start()
    runtime = delayq.state.supervisor
    long.enqueue()
    begun.wait(10)
    for _ in range(3):
        short.enqueue()
    return delayq

apps = [make(url) for url in sys.argv[1:]]
"""


def test_while_one_app_drains_at_the_end_no_other_begins_a_job(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / name}" for name in ("one.sqlite3", "two.sqlite3")]
    ran = program(TWO_APPS, *urls)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    now = SystemClock().now()
    for url in urls:
        with closing(open_backend(url, clock=SystemClock())) as store:
            store.rescue(now=now, max_rescues=3)
            assert isinstance(store, Inspectable)
            jobs = store.list(JobQuery(), now=now)
        short = [(job.stored, job.attempt, job.rescues) for job in jobs if job.task == "short"]
        assert short == [(StoredState.WAITING, 0, 0)] * 3, "they wait, uncharged"
        assert [job.stored for job in jobs if job.task == "long"] == [StoredState.COMPLETED]


IN_A_HURRY = """
import signal

def make(url):
    _app, delayq = make_app(url=url, workers=1, drain_timeout=60)
    begun = threading.Event()

    @delayq.task(name="long")
    def long():
        begun.set()
        threading.Event().wait(60)

    delayq.start()
    long.enqueue()
    begun.wait(10)
    return delayq

apps = [make(url) for url in sys.argv[1:]]

def interrupt():
    wait_until(lambda: any(app.state.supervisor._state == "stopping" for app in apps))
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there a signal ends the process")
def test_ctrl_c_while_apps_drain_at_the_end_interrupts_their_jobs(tmp_path: Path) -> None:
    """As at the end of the drain: they run again, and it is no crash of theirs."""
    urls = [f"sqlite:///{tmp_path / name}" for name in ("one.sqlite3", "two.sqlite3")]
    ran = program(IN_A_HURRY, *urls)
    assert ran.returncode in (0, 1), ran.stderr
    for url in urls:
        with closing(open_backend(url, clock=SystemClock())) as store:
            (rescued,) = store.rescue(now=SystemClock().now(), max_rescues=3)
            assert (rescued.state, rescued.charged) == (StoredState.WAITING, False)


FORK = """
from flask_delayq import at_exit

held, go_on = threading.Event(), threading.Event()

def stand_still():
    with at_exit._lock:
        held.set()
        go_on.wait(20)

_app, delayq = make_app()
thread = threading.Thread(target=stand_still)
thread.start()
assert held.wait(5)
pid = os.fork()
go_on.set()
if pid == 0:
    threading.Timer(10, os._exit, (3,)).start()  # the lock of a thread that is not here
    delayq.start()
    os._exit(0)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system knows no fork")
def test_a_child_starts_though_a_thread_of_its_parent_was_starting() -> None:
    ran = program(FORK)
    assert ran.returncode == 0, ran.stderr


LATE = """
_app, delayq = make_app(url=sys.argv[1], workers=1)
if sys.argv[2] == "before":
    delayq.start()
    delayq.stop()

@delayq.task(name="short", on_crash="fail")
def short():
    print("a job began that nobody would have stopped")

def start_late():
    threading.main_thread().join()
    try:
        delayq.start()
    except RuntimeError as error:
        print("refused:", error)
    short.enqueue()
    print(delayq.state.supervisor, delayq.state.health().ok)

threading.Thread(target=start_late).start()
"""


@pytest.mark.parametrize("started", ["before", "never"])
def test_when_the_main_thread_has_ended_a_start_is_refused_and_says_so(
    tmp_path: Path, started: str
) -> None:
    """Nothing would stop it at the real end, so its jobs would be cut off as by a crash."""
    ran = program(LATE, f"sqlite:///{tmp_path / 'store.sqlite3'}", started)
    assert ran.returncode == 0, ran.stderr
    refused, then = ran.stdout.splitlines()
    assert "the main thread of this process has ended" in refused
    assert then == "None False"


SERVES_ON = """
_app, delayq = make_app(url=sys.argv[1], mode="external", workers=1)

@delayq.task(name="short")
def short(): ...

def serve_on():
    threading.main_thread().join()
    wait_until(lambda: delayq.state.supervisor is None)
    short.enqueue()
    print(delayq.state.health().reason)

delayq.start()
threading.Thread(target=serve_on).start()
"""


def test_who_serves_on_after_the_main_thread_is_not_healthy_and_says_that_no_jobs_run(
    tmp_path: Path,
) -> None:
    ran = program(SERVES_ON, f"sqlite:///{tmp_path / 'store.sqlite3'}")
    assert ran.returncode == 0, ran.stderr
    assert "the main thread of this process has ended" in ran.stdout
    assert "a job was stored, but no process runs the jobs of" in ran.stderr


SERVED = """
import logging
from flask import Flask
from flask_delayq import DelayQ

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
app = Flask("served")
app.config["DELAYQ_URL"] = "memory://"
delayq = DelayQ(app)

def serve():
    from werkzeug.serving import make_server
    threading.main_thread().join()
    servers.append(make_server("127.0.0.1", 0, app, threaded=True))
    servers[0].serve_forever()

def end():
    wait_until(lambda: "delayq-launch" not in {one.name for one in threading.enumerate()})
    servers[0].shutdown()

servers = []
for target in (serve, end):  # now: Python 3.12.0 to 3.12.2 let no thread begin later
    threading.Thread(target=target).start()
"""


def test_a_server_without_a_main_thread_is_not_said_to_run_jobs() -> None:
    ran = program(SERVED)
    assert ran.returncode == 0, ran.stderr
    assert "the jobs of served cannot be run in this process" in ran.stdout
    assert "the main thread of this process has ended" in ran.stdout
    assert "running jobs of" not in ran.stdout
