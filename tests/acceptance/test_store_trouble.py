"""The store in trouble, seen from the product: enqueue, jobs, pages, health and log; then all is well.

It must not repeat what `test_sqlite_store.py` asks of the store alone. Figures of trouble that lasts for
seconds are told by real locks, those that need years by a clock in the test's hands.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from werkzeug.test import TestResponse

from acceptance.product import Site, words
from flask_delayq import mounts
from flask_delayq.backends import open_backend
from flask_delayq.clock import Clock
from flask_delayq.errors import BackendError, BackendUnavailableError, StoreCorruptError
from flask_delayq.ids import new_id
from flask_delayq.job import JobQuery
from flask_delayq.runtime.loop import Loop
from flask_delayq.runtime.supervisor import Supervisor
from flask_delayq.testing import FakeClock
from kit import make_app
from pace import quiet_seconds
from servers import program
from waiting import wait_until

TOKEN = "a token for the tests"
AUTH = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/json"}

PADDING = "x" * 4000
"""An argument that needs a page of its own, so that it does not fit where there is hardly any room."""

RECOVERED = 8.0
"""Seconds in which all is well after the trouble; loops that fail look again every 5 s."""


class Product:
    """An app with a runtime on a file, its pages, and what its task did.

    :ivar ran: the numbers that jobs were given, in the order of their runs.
    """

    def __init__(self, store: Path, clock: Clock | None = None, **settings: Any) -> None:
        self.store = store
        settings = {"mode": "external", "workers": 2, "admin_token": TOKEN, **settings}
        self.app, self.delayq = make_app(clock, url=f"sqlite:///{store}", **settings)
        self.http = self.app.test_client()
        self.ran: list[int] = []
        self.accepted: list[int] = []
        self.begun, self.gate = threading.Event(), threading.Event()

        @self.delayq.task(name="work")
        def work(n: int, padding: str = "") -> None:
            self.ran.append(n)

        @self.delayq.task(name="hold")
        def hold(n: int) -> None:
            self.begun.set()
            assert self.gate.wait(60)
            self.ran.append(n)

        self.work, self.hold = work, hold

    def enqueue(self, padding: str = "") -> int:
        """Enqueue the next number; it counts as accepted once that has returned."""
        n = len(self.accepted)
        self.work.enqueue(n, padding)
        self.accepted.append(n)
        return n

    def post(self, padding: str = "") -> TestResponse:
        """Enqueue the next number over HTTP."""
        n = len(self.accepted)
        call = {"task": "work", "args": [n, padding]}
        answer = self.http.post("/delayq/produce", json=call, headers=AUTH)
        if answer.status_code == 202:
            self.accepted.append(n)
        return answer

    def get(self, path: str) -> TestResponse:
        return self.http.get(f"/delayq/{path}", headers=AUTH)

    def holds(self) -> None:
        """Have a job under way."""
        n = len(self.accepted)
        self.hold.enqueue(n)
        self.accepted.append(n)
        assert self.begun.wait(10)

    def refuses(self, *reasons: str, within: float) -> None:
        """Enqueue fails in time with a typed error, over HTTP as well, and health says why."""
        began = time.monotonic()
        with pytest.raises(BackendUnavailableError) as caught:
            self.enqueue(PADDING)
        assert quiet_seconds(began + within) < 1.0
        assert caught.value.reason in reasons
        answer = self.post(PADDING)
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.json["error"]["type"] == "BackendUnavailableError"
        health = self.get("health")
        assert health.status_code == 503
        assert health.json["health"]["reason"]

    def recovers(self) -> None:
        """Without help health is good again, and everything that was accepted runs once."""
        self.gate.set()
        wait_until(lambda: self.get("health").status_code == 200, RECOVERED, "health is good again")
        self.enqueue()
        assert self.post().status_code == 202
        wait_until(lambda: len(self.ran) >= len(self.accepted), RECOVERED, "all that was accepted ran")
        assert self.delayq.join(10)
        assert sorted(self.ran) == self.accepted
        counts = self.delayq.counts()
        assert counts["completed"] == sum(counts.values()) == len(self.accepted)

    def close(self) -> None:
        self.gate.set()
        self.delayq.state.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "delayq.sqlite3"


@pytest.fixture
def make(store: Path) -> Iterator[Callable[..., Product]]:
    """Make products on the store; all are closed at the end."""
    made: list[Product] = []

    def product(**settings: Any) -> Product:
        made.append(Product(store, **settings))
        return made[-1]

    yield product
    for one in made:
        one.close()


@contextlib.contextmanager
def another_writer(store: Path) -> Iterator[None]:
    """Hold the write lock, as a backup or a shell would."""
    connection = apsw.Connection(str(store))
    connection.set_busy_timeout(5000)  # the product itself may be writing just now
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
    finally:
        with contextlib.suppress(apsw.Error):
            connection.execute("ROLLBACK")
        connection.close()


@contextlib.contextmanager
def a_reader(store: Path) -> Iterator[None]:
    """Read for long, so that no copy of the WAL makes room in it."""
    connection = apsw.Connection(str(store))
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM job").fetchall()
        yield
    finally:
        connection.close()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What this package has logged as trouble."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("flask_delayq") and record.levelno >= logging.WARNING
    ]


# --- locked ------------------------------------------------------------------------------------------


def test_a_lock_shorter_than_the_callers_time_is_waited_out(
    make: Callable[..., Product], store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    product = make()
    product.delayq.start()
    product.enqueue()
    with contextlib.ExitStack() as stack:
        stack.enter_context(another_writer(store))
        timer = threading.Timer(1.0, stack.close)  # the trouble itself lasts a second
        timer.start()
        began = time.monotonic()
        product.enqueue()
        assert time.monotonic() > began + 0.9
        assert quiet_seconds(began + 1.0) < 2
        timer.join()
    product.recovers()
    assert told(caplog) == []


@pytest.mark.parametrize("seconds", [5, pytest.param(30, marks=pytest.mark.stress)])
def test_a_lock_longer_than_the_callers_time_is_told_and_passes(
    make: Callable[..., Product], store: Path, caplog: pytest.LogCaptureFixture, seconds: float
) -> None:
    product = make(enqueue_timeout=0.5)
    product.delayq.start()
    product.holds()
    with another_writer(store):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            product.refuses("locked", within=0.5)
            assert product.get("jobs").status_code == 200  # readers are not held up
            product.gate.set()  # the job under way ends well, and its end is kept
    product.recovers()
    assert len(told(caplog)) <= 12, told(caplog)


# --- no room -----------------------------------------------------------------------------------------


def fill(product: Product) -> None:
    """Enqueue until nothing fits: where a write that took others along did not, one alone still may."""
    for padding in (PADDING, ""):
        refused = 0
        while refused < 5:
            try:
                product.enqueue(padding)
            except BackendUnavailableError:
                refused += 1
            else:
                refused = 0


def test_a_full_disk_is_told_and_passes(
    make: Callable[..., Product], caplog: pytest.LogCaptureFixture
) -> None:
    product = make()
    product.delayq.start()
    product.holds()
    limit_pages(product, 60)
    fill(product)
    product.refuses("full", within=0)
    product.gate.set()
    limit_pages(product, 100_000)
    product.recovers()
    assert len(told(caplog)) <= 12, told(caplog)


def limit_pages(product: Product, pages: int) -> None:
    store = product.delayq.state.backend._store  # the limit is one of its own connection
    store.write(lambda sql: sql.rows(f"PRAGMA max_page_count = {pages}"))


def test_a_file_that_may_not_grow_is_told_and_passes(
    make: Callable[..., Product], store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    product = make()
    product.delayq.start()
    product.holds()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with a_reader(store):
            # Python ignores the signal that comes with it.
            resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
            fill(product)
            product.refuses("full", "io", within=0)
        product.gate.set()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    product.recovers()
    assert len(told(caplog)) <= 12, told(caplog)


# --- a file that may not be written, or is not there ------------------------------------------------


@contextlib.contextmanager
def as_somebody(folder: Path, folder_too: bool) -> Iterator[None]:
    """A user who may read the files only, and make none: root becomes somebody else for it."""
    for path in folder.iterdir():
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder.chmod(0o555 if folder_too else 0o777)
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)
        folder.chmod(0o777)
        for path in folder.iterdir():
            path.chmod(0o777 if path.is_dir() else 0o666)


@pytest.mark.parametrize("folder_too", [True, False])
def test_a_read_only_store_is_told_and_passes(
    caplog: pytest.LogCaptureFixture, folder_too: bool
) -> None:
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    product = Product(folder / "delayq.sqlite3")
    try:
        product.delayq.start()
        product.enqueue()
        assert product.delayq.join(10)
        assert product.delayq.stop(5)
        with as_somebody(folder, folder_too):
            product.delayq.start()  # as after a restart with another user
            product.refuses("read-only", within=0)
            assert "check owner and mode" in product.get("health").json["health"]["reason"]
            # SQLite reads a file with a WAL only beside an index, which it must be able to make.
            assert product.get("jobs").status_code == (503 if folder_too else 200)
        product.recovers()
        assert len(told(caplog)) <= 12, told(caplog)
    finally:
        product.close()
        shutil.rmtree(folder)


def test_a_store_that_was_moved_away_is_told_and_used_again_when_it_is_back(
    make: Callable[..., Product], store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    product = make()
    product.delayq.start()
    product.holds()
    away = store.with_name("away")
    store.rename(away)
    product.refuses("replaced", within=0)
    product.gate.set()
    assert not store.exists(), "a store that vanished must not be made anew"
    away.rename(store)
    product.recovers()
    assert len(told(caplog)) <= 12, told(caplog)


def test_a_store_replaced_by_a_backup_is_used_and_its_jobs_run(
    make: Callable[..., Product], store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backup = Product(tmp_path / "backup")
    backup.work.enqueue(1000)
    backup.close()
    product = make()
    product.delayq.start()
    product.enqueue()
    assert product.delayq.join(10)
    (tmp_path / "backup").rename(store)
    wait_until(lambda: product.ran == [0, 1000], RECOVERED, "the backup's job has run")
    wait_until(lambda: product.get("health").status_code == 200, RECOVERED, "health is good again")
    assert product.post().status_code == 202
    assert product.delayq.join(10)
    assert product.ran == [0, 1000, 1]
    assert len(told(caplog)) <= 12, told(caplog)


# --- a file that will not last ---------------------------------------------------------------------


def test_a_store_in_a_containers_own_files_is_told_at_the_start_and_by_check(
    make: Callable[..., Product],
    store: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = tmp_path / "mounts"
    table.write_text("overlay / overlay rw 0 0\n")
    monkeypatch.setattr(mounts, "TABLE", str(table))
    product = make()
    with caplog.at_level(logging.WARNING, "flask_delayq"):  # seen without any set-up of logging
        product.delayq.start()
        product.delayq.start()
    (line,) = [text for text in caplog.messages if "container" in text]
    assert str(store) in line
    assert "mount a volume" in line
    checked = product.app.test_cli_runner().invoke(args=["delayq", "check"])
    assert checked.exit_code == 0
    assert "lost when a deploy replaces the container; mount a volume" in checked.output


# --- damage ------------------------------------------------------------------------------------------


def damaged(store: Path, chance: random.Random) -> bytes:
    """A store of 300 jobs with some of its pages overwritten; its content."""
    product = Product(store)
    product.work.enqueue_many([(n, "x" * 100) for n in range(300)])
    product.close()
    content = bytearray(store.read_bytes())
    for page in chance.sample(range(1, len(content) // 4096), 4):
        content[page * 4096 : (page + 1) * 4096] = chance.randbytes(4096)
    store.write_bytes(content)
    return bytes(content)


@pytest.mark.parametrize("seed", range(8))
def test_damaged_pages_are_told_and_nothing_is_made_worse(
    make: Callable[..., Product],
    store: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    before = damaged(store, random.Random(seed))
    product = make()
    product.delayq.start()
    wait_until(lambda: product.get("health").status_code == 503, 10, "health tells")
    assert "damaged" in product.get("health").json["health"]["reason"]
    answer = product.post()
    assert answer.status_code in (202, 503)
    if answer.status_code == 503:
        assert answer.json["error"]["type"] == "StoreCorruptError"
        with contextlib.suppress(StoreCorruptError):  # or it needs none of the damaged pages
            product.work.enqueue(2)
    for path in ("", "jobs", "queues", "processes", "schedules"):
        assert product.get(path).status_code in (200, 503)
    began = time.monotonic()
    stopped = product.delayq.stop(0.5)
    assert quiet_seconds(began + 0.5) < 2
    if not stopped:  # jobs ran whose ends cannot be written: it goes on trying
        backend = product.delayq.state.backend
        monkeypatch.setattr(backend, "record", lambda outcomes, *, now: [True] * len(outcomes))
        wait_until(lambda: product.delayq.stop(0.5), 20, "all ends are out of its hands")
    assert len(told(caplog)) <= 20, told(caplog)
    assert len(store.read_bytes()) >= len(before), "nothing is deleted"


def copy_of(store: Path, name: str, wal: bytes) -> Path:
    """The store as it would be found after a power cut that left this much of the WAL."""
    copy = store.with_name(name)
    shutil.copyfile(store, copy)
    copy.with_name(f"{name}-wal").write_bytes(wal)
    return copy


def stored_in(copy: Path) -> list[str]:
    """The jobs that a backend finds in a store, in the order of their enqueueing; and it is sound."""
    backend: Any = open_backend(f"sqlite:///{copy}")
    try:
        found = [record.id for record in backend.list(JobQuery(limit=100), now=0.0)]
        sound = backend._store.read(lambda sql: sql.value("PRAGMA integrity_check"))
    finally:
        backend.close()
    for path in copy.parent.glob(f"{copy.name}*"):
        path.unlink()
    assert sound == "ok"
    return found[::-1]


CUTS = """
import os, signal, sys, time
from flask_delayq.backends import open_backend
from flask_delayq.job import NewJob
store = open_backend(sys.argv[1])
for job_id in sys.argv[2:]:
    now = time.time()
    store.enqueue([NewJob(job_id, "work", "default", 1, now, now, b'{"n":1}', None, False)],
        now=now, timeout=5)
    print(store._store.headroom.used, flush=True)  # the file is longer
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("step", [None, pytest.param(1, marks=pytest.mark.stress)])
def test_a_log_cut_anywhere_is_a_prefix_of_what_was_committed(store: Path, step: int | None) -> None:
    """The last three transactions are cut at 200 random points, under stress at every byte."""
    ids = [new_id() for _ in range(8)]
    found = subprocess.run(
        [sys.executable, "-c", CUTS, f"sqlite:///{store}", *ids], capture_output=True, text=True
    )
    assert found.returncode == -signal.SIGKILL, found.stderr
    sizes = [int(size) for size in found.stdout.split()]
    wal = store.with_name("delayq.sqlite3-wal").read_bytes()
    assert wal[sizes[-1] :].count(0) == len(wal) - sizes[-1] > 0, "zeros follow"
    cuts = (
        range(sizes[-4], sizes[-1] + 1, step)
        if step
        else sorted(random.Random(1).sample(range(sizes[-4], sizes[-1]), 197)) + sizes[-3:]
    )
    for cut in (*cuts, len(wal)):
        kept = sum(size <= cut for size in sizes)
        assert stored_in(copy_of(store, "cut", wal[:cut])) == ids[:kept], f"cut at byte {cut}"


# --- time --------------------------------------------------------------------------------------------

HOUR, YEARS = 3600.0, 10 * 366 * 86_400.0


@pytest.mark.parametrize("step", [-1.0, -HOUR, -YEARS, HOUR, YEARS])
def test_a_clock_that_steps_neither_loses_nor_repeats_a_job(
    make: Callable[..., Product], step: float, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    product = make(clock=clock)
    beats: list[float] = []

    @product.delayq.task(name="beat", every=60)
    def beat() -> None:
        beats.append(clock.now())

    product.delayq.start()
    product.holds()
    later = product.work.enqueue_in(30, 100)
    clock.step_wall(step)
    product.enqueue()
    wait_until(lambda: 1 in product.ran, 10, "what was enqueued after the step has run")
    if step > 0:
        assert later.wait(10)
        wait_until(lambda: beats, 10, "one occurrence has run for all that were missed")
    else:
        assert str(product.delayq.get(later.id).state) == "scheduled"
        clock.step_wall(-step)
        clock.advance(30)  # within the lease of what still runs
        assert later.wait(10)
    product.gate.set()
    assert product.delayq.join(10)
    assert sorted(product.ran) == [0, 1, 100]
    rows = product.delayq.jobs(limit=100)
    assert [row.record.rescues for row in rows] == [0] * len(rows)
    assert [row.record.claim_no for row in rows] == [1] * len(rows)
    assert len(beats) <= 2
    assert product.get("health").status_code == 200
    assert told(caplog) == []


def test_a_schedule_goes_on_after_a_clock_was_years_ahead(make: Callable[..., Product]) -> None:
    """As on a machine whose clock is set right some moments after the start."""
    clock = FakeClock()
    product = make(clock=clock)
    beats: list[float] = []

    @product.delayq.task(name="beat", every=60)
    def beat() -> None:
        beats.append(clock.now())

    right = clock.now()
    clock.step_wall(YEARS)
    product.delayq.start()
    clock.advance(60)
    wait_until(lambda: len(beats) == 1, 10, "an occurrence of the wrong year has run")
    clock.step_wall(-YEARS)
    clock.advance(60)  # how often schedules are looked after

    def ahead() -> float:
        return product.delayq.state.backend.schedules()[0].next_due - right

    wait_until(lambda: ahead() < HOUR, 10, "the schedule is back in the present")
    for count in (2, 3, 4):
        clock.advance(60)
        wait_until(lambda n=count: len(beats) >= n, 10, f"occurrence {count} has run")
    assert len(beats) == len(set(beats)) == 4
    assert beats[-1] < right + HOUR


def test_a_process_that_stood_still_for_longer_than_its_lease_does_no_harm(tmp_path: Path) -> None:
    site = Site(tmp_path, lease=3, workers=1)
    other = tmp_path / "other"
    other.mkdir()
    (other / "app.py").write_text((tmp_path / "app.py").read_text())
    command = words("-m flask delayq worker")
    with program(command, folder=tmp_path, env=site.env) as still:
        (job,) = site.leave("hold", "gate")
        assert site.begun(job).pid == still.pid
        with program(command, folder=other, env=site.env) as awake:
            still.send(signal.SIGSTOP)
            again = site.begun(job, times=2)
            assert again.pid == awake.pid
            (tmp_path / "gate").touch()
            site.completed([job])
            still.send(signal.SIGCONT)
            # It hears that the claim is lost, drops what it did, and works on.
            wait_until(lambda: "claim was lost" in still.output(), 10, "it has noticed")
            assert awake.terminate() == 0
        later = site.leave("quick", count=5)
        site.completed(later)
        assert {site.runs()[one][0].pid for one in later} == {still.pid}
        assert still.terminate() == 0
    row = site.rows()[job]
    assert (row.attempt, row.rescues, row.claim_no) == (1, 1, 2)


# --- the log -----------------------------------------------------------------------------------------

TEN_MINUTES = 600.0


@pytest.mark.parametrize("trouble", ["vanished", "full", "damaged"])
def test_ten_minutes_of_trouble_are_some_lines_in_the_log(
    make: Callable[..., Product],
    store: Path,
    caplog: pytest.LogCaptureFixture,
    trouble: str,
) -> None:
    """All loops of a runtime, turn by turn, while a clock in the test's hands runs for ten minutes."""
    clock = FakeClock()
    product = make(clock=clock)
    state = product.delayq.state
    product.enqueue()
    if trouble == "vanished":
        store.unlink()
    elif trouble == "full":
        limit_pages(product, 1)
    else:
        state.backend.close()
        content = store.read_bytes()
        store.write_bytes(content[:4096] + bytes(len(content) - 4096))
    runtime = Supervisor(
        backend=state.backend,
        registry=state.registry,
        settings=state.settings,
        clock=clock,
        scope=product.app.app_context,
        sender=product.app,
        on_recorded=state.client.announce_end,
        role="test",
    )
    runtime.dispatcher.accepting = True
    loops = [*runtime.loops[:2], Loop("maintenance", runtime._maintenance.turn, clock), runtime.loops[3]]
    turns = 0
    due = dict.fromkeys(loops, clock.monotonic())
    end = clock.monotonic() + TEN_MINUTES
    while (moment := min(due.values())) < end:
        clock.advance(max(0.0, moment - clock.monotonic()) + 0.001)
        for loop in [loop for loop, at in due.items() if at <= clock.monotonic()]:
            pause = loop._one_turn()  # what its thread repeats
            due[loop] = clock.monotonic() + (1.0 if pause is None else pause)
            turns += 1
        with contextlib.suppress(BackendError):
            product.work.enqueue(1)
        assert turns < 3000, "the loops spin"
    with contextlib.suppress(BackendError):
        state.backend.withdraw(runtime.owner)
    lines = told(caplog)
    assert turns > 100
    assert 0 < len(lines) < 60, (len(lines), lines[:10])
