"""Every way to stop: what runs may end, nothing begins, the rest runs elsewhere, and all of it in time.

It must not know how a runtime stops. Cases with programs run side by side, each on a store of its own.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM

import apsw
import pytest

from acceptance.product import APP, Case, Site, enqueue, is_gone, side_by_side, words
from flask_delayq import DelayQ
from flask_delayq.testing.faults import Fault, install
from kit import make_app
from pace import quiet_seconds
from servers import APPS, Program, program, server
from waiting import wait_until

pytestmark = pytest.mark.timeout(900)  # the first test of the module waits for all its cases

AT_ONCE = 4

DRAIN = 1.5
"""Seconds that running jobs get in these cases."""

SLACK = 2.0
"""Seconds of a quiet machine that a stop may take beyond the drain, and another process to take over."""

REFUSES_EARLY = (3, 12) <= sys.version_info < (3, 12, 3)
"""Whether no thread may begin once the main thread has ended: a job that needs one runs again then."""

CUT_OFF = "was interrupted by the end of its process and runs again elsewhere"

WORKER = "-m flask delayq worker"
FLASK_RUN = "-m flask run --port {port}"
GUNICORN = "-m gunicorn -b 127.0.0.1:{port} app:app"
WAITRESS = "-m waitress --listen=127.0.0.1:{port} app:app"


def another_worker(stack: ExitStack, site: Site) -> Program:
    """Start a worker beside what runs on the site; returns once it is announced."""
    folder = site.folder / "another"
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    worker = stack.enter_context(program(words(WORKER), folder=folder, env=site.env))
    with site.open() as delayq:
        backend = delayq.state.backend
        wait_until(lambda: worker.pid in [p.pid for p in backend.processes()], 20, "a second worker")
    return worker


def started(stack: ExitStack, site: Site, command: str) -> Program:
    run = server if "{port}" in command else program
    return stack.enter_context(run(words(command), folder=site.folder, env=site.env))


def stops(command: str, number: signal.Signals, *, status: int, orderly: bool = True) -> Case:
    """A case: a signal comes while one job is short and one is long, and another process is there.

    :param orderly: whether the process drains; one that just dies is a crash, and counted as one.
    """

    def case(folder: Path) -> None:
        site = Site(folder, drain_timeout=DRAIN, workers=2)
        with ExitStack() as stack:
            running = started(stack, site, command)
            (long,) = site.leave("hold", "long")
            (short,) = site.leave("hold", "short")
            first = site.begun(long)
            assert site.begun(short).pid == first.pid
            other = another_worker(stack, site)
            running.send(number)
            asked = time.monotonic()
            if orderly:
                (folder / "short").touch()
            later = []
            while not is_gone(first.pid):
                later += site.leave("quick")
                assert quiet_seconds(asked + DRAIN) < SLACK + 5, "it does not end"
                threading.Event().wait(0.05)  # the load: some jobs at any moment of the stop
            gone = time.monotonic()
            again = site.begun(long, times=2)
            for gate in ("long", "short"):
                (folder / gate).touch()
            assert running.wait() == status, running.output()
            site.ran([long, short, *later])
            site.check_runs([long, short, *later])
        drain = DRAIN if orderly else 0.0
        assert quiet_seconds(asked + drain, gone) <= SLACK
        assert quiet_seconds(gone, again.began) <= SLACK
        assert again.pid == other.pid
        runs, rows = site.runs(), site.rows()
        # The long job kept it for the whole drain, so that had begun by then: nothing else begins.
        assert [
            job for job in later if runs[job][0].pid == first.pid and runs[job][0].began > gone - drain
        ] == []
        assert (len(runs[short]), rows[short].rescues, rows[long].rescues) == (
            (1, 0, 0) if orderly else (2, 1, 1)
        )
        assert "Traceback" not in running.output() or number is SIGINT

    return case


def repaired_at_the_next_start(folder: Path) -> None:
    """A development server that is ended by SIGTERM, and nobody else is there."""
    site = Site(folder)
    command = words(FLASK_RUN)
    with server(command, folder=folder, env=site.env) as running:
        (job,) = enqueue(running, "hold", "gate")
        site.begun(job)
        assert running.terminate(SIGTERM) == -SIGTERM
    with server(command, folder=folder, env=site.env) as running:
        ready = time.monotonic()
        again = site.begun(job, times=2)
        (folder / "gate").touch()
        site.check_runs([job])
    assert quiet_seconds(ready, again.began) <= SLACK
    assert site.rows()[job].rescues == 1


def a_second_signal_is_in_a_hurry(folder: Path) -> None:
    site = Site(folder)
    with program(words(WORKER), folder=folder, env=site.env) as running:
        (job,) = site.leave("hold", "gate")
        site.begun(job)
        running.send(SIGTERM)
        wait_until(lambda: "jobs get 25 s to end" in running.output(), 10, "the worker drains")
        running.send(SIGTERM)
        asked = time.monotonic()
        assert running.wait(10) == 1
        assert quiet_seconds(asked + 1.0) <= SLACK
        assert "unfinished jobs will run again elsewhere" in running.output()
    row = site.rows()[job]
    assert (row.attempt, row.rescues, row.interrupted) == (0, 0, True)


GENERATIONS = 4
"""Processes that must have run jobs, of those that hang-ups start and end."""


def pids(site: Site) -> set[int]:
    return {run.pid for ran in site.runs().values() for run in ran}


def hang_ups(seconds: float) -> Case:
    """A case: gunicorn replaces its workers once a second while requests enqueue."""

    def case(folder: Path) -> None:
        site = Site(folder, drain_timeout=3)
        env = {**site.env, "PRODUCT_BEAT": "1"}
        stored: list[str] = []
        over = threading.Event()

        def produce(running: Program) -> None:
            while not over.is_set():
                stored.extend(enqueue(running, "quick", count=2))
                stored.extend(enqueue(running, "slow", 0.1))
                over.wait(0.02)

        with server(words(GUNICORN + " -w 2"), folder=folder, env=env) as running:
            with ThreadPoolExecutor(2) as pool:
                producing = [pool.submit(produce, running) for _ in range(2)]
                until = time.monotonic() + seconds
                while time.monotonic() < until or len(pids(site)) < GENERATIONS:
                    before = pids(site)
                    running.send(SIGHUP)
                    threading.Event().wait(1.0)  # the load itself: one hang-up a second
                    # On a busy machine fewer: processes that never get to run jobs show nothing.
                    wait_until(lambda old=before: pids(site) - old, 20, "new processes run jobs")
                over.set()
                for future in producing:
                    future.result()
            site.completed(stored, 30)
            assert "WORKER TIMEOUT" not in running.output()
            assert "Traceback" not in running.output()
        runs = site.runs()
        assert [job for job in stored if len(runs[job]) != 1] == []
        site.check_runs(stored)
        site.check_beats()

    return case


def exits(times: int) -> Case:
    """A case: so many interpreters end while jobs run; see `exits.py`."""

    def case(folder: Path) -> None:
        site = Site(folder, drain_timeout=5)
        command = words(f"{APPS / 'exits.py'} {times}")
        with program(command, folder=folder, env=site.env) as running:
            assert running.wait(20 + times) == 0, running.output()
            told = running.output().splitlines()
            # Without logging set up, the bare lines of warnings and errors.
            # Who enqueues after the drain, in the last moment, is told that nobody runs that job now.
            told = [line for line in told if not line.startswith("a job was stored, but no process")]
            assert [line for line in told if not (REFUSES_EARLY and CUT_OFF in line)] == []
        reaped = site.notes("reaped")
        assert [event.words[1] for event in reaped] == ["0"] * times
        for end in site.notes("exits"):  # a pid may come back
            gone = [e.at for e in reaped if int(e.words[0]) == end.pid and e.at > end.at]
            assert quiet_seconds(end.at + 5, min(gone)) <= SLACK
        stored = [event.words[0] for event in site.notes("ack")]
        with program(words(WORKER), folder=folder, env=site.env):
            site.completed(stored, 20 + len(stored) / 100)
        site.check_runs(stored)
        assert {row.rescues for row in site.rows().values()} == {0}
        if not REFUSES_EARLY:
            assert [job for job, runs in site.runs().items() if len(runs) != 1] == []

    return case


def starts_too_late(folder: Path) -> None:
    """Nothing would stop what began now: it is refused, and says why."""
    late = "import atexit\natexit.register(app.extensions['delayq'].start)\n"
    site = Site(folder, APP + late)
    (job,) = site.leave("quick")
    with program(words("app.py"), folder=folder, env=site.env) as running:
        assert running.wait(20) == 0
        told = running.output().splitlines()
    assert told[0].startswith("Exception ignored in atexit callback")
    assert "the main thread of this process has ended" in told[-1]
    assert site.rows()[job].claim_no == 0


CASES: dict[str, Case] = {
    "a start at the end": starts_too_late,
    "worker, SIGTERM": stops(WORKER, SIGTERM, status=1),
    "worker, SIGINT": stops(WORKER, SIGINT, status=1),
    "gunicorn, SIGTERM": stops(GUNICORN, SIGTERM, status=0),
    "gunicorn, SIGINT": stops(GUNICORN, SIGINT, status=0),
    "flask run, SIGINT": stops(FLASK_RUN, SIGINT, status=0),
    "flask run, SIGTERM": stops(FLASK_RUN, SIGTERM, status=-SIGTERM, orderly=False),
    "waitress, SIGINT": stops(WAITRESS, SIGINT, status=0),
    "waitress, SIGTERM": stops(WAITRESS, SIGTERM, status=-SIGTERM, orderly=False),
    "flask run, SIGTERM, alone": repaired_at_the_next_start,
    "worker, a second signal": a_second_signal_is_in_a_hurry,
    "gunicorn, hang-ups": hang_ups(8),
    "interpreters end": exits(100),
}
STRESS: dict[str, Case] = {
    "gunicorn, hang-ups for minutes": hang_ups(300),
    "interpreters end, often": exits(1000),
}


@pytest.fixture(scope="module")
def trials(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    yield side_by_side(request, tmp_path_factory, {**CASES, **STRESS}, AT_ONCE)


@pytest.mark.parametrize("name", CASES)
def test_a_stop_keeps_the_promise(name: str, trials: dict[str, Future[None]]) -> None:
    trials[name].result()


@pytest.mark.stress
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", STRESS)
def test_a_stop_keeps_the_promise_under_stress(name: str, trials: dict[str, Future[None]]) -> None:
    trials[name].result()


# --- inside one process ----------------------------------------------------------------------------


class Runtime:
    """An app on a store with a task that notes its runs and can be held."""

    def __init__(self, store: Path, **settings: object) -> None:
        self.app, self.delayq = make_app(url=f"sqlite:///{store}", **settings)
        self.ran: list[str] = []
        self.begun = threading.Event()
        self.gate = threading.Event()

        @self.delayq.task(name="held")
        def held(name: str) -> None:
            self.ran.append(name)
            self.begun.set()
            assert self.gate.wait(30)

        @self.delayq.task(name="noted")
        def noted(name: str) -> None:
            self.ran.append(name)

        self.held, self.noted = held, noted

    def close(self) -> None:
        self.gate.set()
        self.delayq.state.close()


@pytest.fixture
def runtimes(tmp_path: Path) -> Iterator[tuple[Runtime, Runtime]]:
    """Two runtimes on one store, as in two processes."""
    pair = (Runtime(tmp_path / "store", workers=1), Runtime(tmp_path / "store", workers=1))
    yield pair
    for one in pair:
        one.close()


def state_of(delayq: DelayQ, job_id: str) -> str:
    return str(delayq.get(job_id).state)


def test_what_still_runs_at_the_deadline_is_run_by_nobody_else(
    runtimes: tuple[Runtime, Runtime],
) -> None:
    one, other = runtimes
    one.delayq.start()
    long = one.held.enqueue("long")
    assert one.begun.wait(10)
    waiting = [one.noted.enqueue(str(n)) for n in range(5)]
    asked = time.monotonic()
    assert one.delayq.stop(0.3) is False
    assert time.monotonic() >= asked + 0.3
    assert quiet_seconds(asked + 0.3) <= SLACK
    assert [state_of(one.delayq, job.id) for job in waiting] == ["ready"] * 5
    other.delayq.start()
    assert all(delayed.wait(10) for delayed in [other.delayq.get(job.id) for job in waiting])
    # Its process lives and its thread runs: turn after turn the other runtime leaves the job alone.
    beside = [other.noted.enqueue("beside") for _ in range(3)]
    assert all(job.wait(10) for job in beside)
    assert state_of(other.delayq, long.id) == "running"
    one.gate.set()
    assert other.delayq.get(long.id).wait(10)
    record = other.delayq.get(long.id).record
    assert (record.attempt, record.rescues, record.claim_no) == (1, 0, 1)
    assert one.ran == ["long"]
    assert other.ran == [str(n) for n in range(5)] + ["beside"] * 3


def test_what_was_being_claimed_when_the_stop_came_is_given_back_at_once(tmp_path: Path) -> None:
    one = Runtime(tmp_path / "store", workers=2)
    stopping = threading.Thread(target=one.delayq.stop, args=(20,))

    def stop() -> None:
        stopping.start()
        wait_until(lambda: not one.delayq.state.supervisor.dispatcher.accepting, 5, "the stop has begun")

    faulty = install(one.delayq)
    try:
        one.held.enqueue("long")
        one.delayq.start()
        assert one.begun.wait(10)
        faulty.faults.append(Fault("claim", faulty.calls["claim"] + 1, when="after", action=stop))
        other = Runtime(tmp_path / "store")  # what it enqueues is found by a claim
        jobs = [other.noted.enqueue("claimed") for _ in range(3)]
        wait_until(lambda: stopping.ident, 10, "a claim was made")
        wait_until(lambda: other.delayq.counts()["ready"] == 3, 2, "what it took waits again")
        assert one.ran == ["long"]
        other.delayq.start()
        assert all(job.wait(10) for job in jobs)
        assert {other.delayq.get(job.id).record.rescues for job in jobs} == {0}
    finally:
        one.gate.set()
        stopping.join()
        other.close()
        one.close()


def test_fifty_stops_at_once_are_one(runtimes: tuple[Runtime, Runtime]) -> None:
    one, _ = runtimes
    one.delayq.start()
    job = one.held.enqueue("long")
    assert one.begun.wait(10)
    with ThreadPoolExecutor(50) as pool:
        answers = [pool.submit(one.delayq.stop, 5) for _ in range(50)]
        wait_until(lambda: not one.delayq.state.supervisor.is_running, 5, "the stop has begun")
        one.gate.set()
        assert [answer.result(10) for answer in answers] == [True] * 50
    assert one.delayq.stop() is True
    assert state_of(one.delayq, job.id) == "completed"


@pytest.mark.parametrize("busy", [True, False])
def test_a_stop_while_the_store_is_locked_ends_in_time(
    runtimes: tuple[Runtime, Runtime], busy: bool
) -> None:
    one, other = runtimes
    one.delayq.start()
    job = one.held.enqueue("long")
    assert one.begun.wait(10)
    if not busy:
        one.gate.set()
        assert job.wait(10)
    lock = apsw.Connection(one.delayq.state.backend.url.removeprefix("sqlite:///"))
    lock.execute("BEGIN IMMEDIATE")
    try:
        asked = time.monotonic()
        one.delayq.stop(0.5)
        overdue = quiet_seconds(asked + 0.5)
    finally:
        lock.execute("ROLLBACK")
        lock.close()
    assert overdue <= SLACK
    one.gate.set()
    other.delayq.start()
    assert other.delayq.get(job.id).wait(10)
    assert (one.ran, other.ran) == (["long"], [])


def test_no_signal_handler_is_touched(runtimes: tuple[Runtime, Runtime]) -> None:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    one, _ = runtimes
    one.delayq.start()
    one.noted.enqueue("a").wait(10)
    one.delayq.stop()
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
