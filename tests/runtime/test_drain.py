"""A drain is a small runtime: it shows a sign of life, renews, loses nothing, and Ctrl-C ends it alone.

Another process is played by a second backend on the same store.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_delayq import DelayQ, JobState, current_job, launch
from flask_delayq.backends import open_backend
from flask_delayq.clock import SystemClock
from flask_delayq.errors import BackendUnavailableError
from flask_delayq.job import StoredState, Verb
from flask_delayq.runtime import drain
from flask_delayq.runtime.loop import Loop
from flask_delayq.signals import job_completed
from flask_delayq.testing import FakeClock
from flask_delayq.testing.faults import Fault, install
from kit import make_app
from pace import quiet_seconds
from waiting import wait_until


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = request.node.callspec.params["url"]
    return f"sqlite:///{tmp_path / 'store.sqlite3'}" if name == "sqlite" else f"memory://{tmp_path.name}"


@pytest.fixture
def delayq(url: str) -> Iterator[DelayQ]:
    _app, delayq = make_app(url=url, lease=3)
    yield delayq
    delayq.state.close()


@pytest.fixture
def other(url: str) -> Iterator[Any]:
    backend = open_backend(url, clock=SystemClock())
    yield backend
    backend.close()


def lease_of(other: Any, job_id: str) -> float:
    """When its lease ends (monotonic)."""
    if other.url.startswith("memory"):
        return float(other._store.rows[job_id].lease_end)
    found = other._store.read(
        lambda sql: sql.value("SELECT lease_until FROM job WHERE id = ?", (job_id,))
    )
    return float(found)


@pytest.mark.parametrize("mode", ["manual", "inline"])
def test_a_job_of_a_drain_has_an_owner_that_lives_and_renews(url: str, other: Any, mode: str) -> None:
    _app, delayq = make_app(url=url, lease=3, mode=mode)
    seen: list[Any] = []

    @delayq.task
    def long() -> None:
        job_id = current_job.id
        first = lease_of(other, job_id)
        (process,) = other.processes()
        seen.append((process.owner == other.get(job_id).owner, process.alive))
        wait_until(lambda: lease_of(other, job_id) > first, 5, "it is renewed")
        assert other.rescue(now=SystemClock().now(), max_rescues=3) == []

    job = long.enqueue()
    if mode == "manual":
        delayq.drain()
    assert job.refresh().state is JobState.COMPLETED
    assert seen == [(True, True)]
    assert other.processes() == [], "it has withdrawn"
    delayq.state.close()


def test_a_drain_that_finds_nothing_writes_nothing(delayq: DelayQ, other: Any) -> None:
    faulty = install(delayq)
    assert delayq.drain() == []
    assert {"announce", "withdraw", "renew", "record"}.isdisjoint(faulty.calls)


@pytest.mark.parametrize("on_crash", ["retry", "fail"])
def test_ctrl_c_ends_the_drain_and_gives_the_job_back(delayq: DelayQ, other: Any, on_crash: Any) -> None:
    begun: list[str] = []

    @delayq.task(on_crash=on_crash)
    def long() -> None:
        begun.append(current_job.id)
        if len(begun) == 1:
            raise KeyboardInterrupt

    first, second = long.enqueue(), long.enqueue()
    with pytest.raises(KeyboardInterrupt):
        delayq.drain()
    assert begun == [first.id]
    record = other.get(first.id)
    assert (record.rescues, record.attempt, record.owner) == (0, 0, None)
    # It had begun, so one that must not be repeated is not.
    assert record.stored is (StoredState.FAILED if on_crash == "fail" else StoredState.WAITING)
    assert other.processes() == []
    delayq.drain()
    assert begun == [first.id, second.id] if on_crash == "fail" else [first.id, first.id, second.id]


@pytest.mark.parametrize(
    ("verb", "when"), [("claim", "after"), ("record", "before"), ("record", "after")]
)
def test_ctrl_c_between_two_jobs_loses_no_end_and_leaves_no_claim(
    delayq: DelayQ, other: Any, verb: str, when: str
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    ran: list[int] = []
    install(delayq, Fault(verb, 1, when=when, action=interrupt))
    job = delayq.task(name="t")(lambda: ran.append(1)).enqueue()
    with pytest.raises(KeyboardInterrupt):
        delayq.drain()
    record = other.get(job.id)
    assert record.stored is (StoredState.COMPLETED if ran else StoredState.WAITING)
    assert record.owner is None and record.rescues == 0
    delayq.drain()
    assert ran == [1] and job.refresh().state is JobState.COMPLETED


def test_a_store_that_goes_away_leaves_nothing_in_the_name_of_a_drain(
    delayq: DelayQ, other: Any
) -> None:
    """What ran is written by the second try, or not at all: then others take the job back."""
    ran: list[int] = []
    install(delayq, Fault("record", 1))
    job = delayq.task(name="t")(lambda: ran.append(1)).enqueue()
    with pytest.raises(BackendUnavailableError):
        delayq.drain()
    assert job.refresh().state is JobState.COMPLETED and ran == [1]


def test_an_enqueue_that_runs_inline_does_not_raise_once_the_job_is_stored(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    _app, delayq = make_app(url=url, mode="inline")
    install(delayq, Fault("claim", 1))
    job = delayq.task(name="t")(lambda: 1).enqueue()
    assert job.refresh().state is JobState.READY
    assert "could not be run inline" in caplog.text
    delayq.drain()
    assert job.refresh().state is JobState.COMPLETED
    delayq.state.close()


def test_a_job_taken_away_meanwhile_is_told_as_lost(delayq: DelayQ, other: Any) -> None:
    @delayq.task
    def taken() -> None:
        other.rescue(now=SystemClock().now(), max_rescues=3, asked_at=float("inf"))

    taken.enqueue()
    (outcome,) = delayq.drain(limit=1)
    assert outcome.verb is Verb.RESCUE


def test_a_drain_leaves_no_thread(delayq: DelayQ) -> None:
    before = set(threading.enumerate())
    delayq.task(name="t")(lambda: 1).enqueue()
    delayq.drain()
    assert set(threading.enumerate()) <= before


def test_without_threads_a_drain_runs_its_jobs_all_the_same(
    delayq: DelayQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under an old uWSGI without --enable-threads the start of one would wait for ever."""

    def never(thread: threading.Thread) -> None:
        raise AssertionError("no thread may be started")

    monkeypatch.setattr(launch, "reason_against_threads", lambda: "there are none")
    monkeypatch.setattr(threading.Thread, "start", never)
    job = delayq.task(name="t")(lambda: 1).enqueue()
    delayq.drain()
    assert job.refresh().state is JobState.COMPLETED


def test_a_drain_that_gets_no_thread_says_so_and_runs_its_jobs(
    delayq: DelayQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    job = delayq.task(name="t")(lambda: 1).enqueue()
    delayq.drain()
    assert job.refresh().state is JobState.COMPLETED
    assert "not renewed: can't start new thread" in caplog.text


# --- before a job of it begins ---------------------------------------------------------------------


def test_a_drain_shows_that_it_lives_before_its_first_claim(delayq: DelayQ, other: Any) -> None:
    """What a kill right after the claim leaves behind is known as not begun."""
    seen: list[tuple[bool, int]] = []
    faulty = install(
        delayq,
        Fault(
            "claim",
            1,
            action=lambda: seen.append((other.processes()[0].alive, faulty.calls["announce"])),
        ),
    )
    delayq.task(name="t")(lambda: 1).enqueue()
    delayq.drain()
    assert seen == [(True, 1)]


@pytest.mark.parametrize(("stood_still", "claims"), [(0.5, 1), (0.501, 2)])
def test_a_drain_that_stood_still_after_its_claim_asks_again(
    url: str, stood_still: float, claims: int
) -> None:
    """Somebody else may have taken the job back meanwhile."""
    clock = FakeClock()
    _app, delayq = make_app(clock, url=url, lease=3)
    faulty = install(delayq, Fault("claim", 1, when="after", action=lambda: clock.advance(stood_still)))
    ran: list[int] = []
    job = delayq.task(name="t")(lambda: ran.append(1)).enqueue()
    (outcome,) = delayq.drain()
    assert (outcome.verb, outcome.claim.claim_no, ran) == (Verb.COMPLETE, claims, [1])
    assert faulty.calls["mark_begun"] == 1, "the refused claim was not marked"
    assert job.refresh().state is JobState.COMPLETED
    delayq.state.close()


def test_a_drain_never_begins_what_was_taken_from_it(url: str) -> None:
    clock = FakeClock()
    _app, delayq = make_app(clock, url=url, lease=3)
    other = open_backend(url, clock=clock)

    def stand_still() -> None:
        clock.advance(3)
        assert len(other.rescue(now=clock.now(), max_rescues=3)) == 1
        assert len(other.claim(None, now=clock.now(), limit=1, owner="other", lease=3)) == 1

    install(delayq, Fault("claim", 1, when="after", action=stand_still))
    ran: list[int] = []
    job = delayq.task(name="t")(lambda: ran.append(1)).enqueue()
    assert (delayq.drain(), ran) == ([], [])
    assert other.get(job.id).owner == "other"
    other.close()
    delayq.state.close()


# --- its end ---------------------------------------------------------------------------------------


def test_an_end_that_cannot_be_written_is_tried_until_it_is(
    delayq: DelayQ, other: Any, caplog: pytest.LogCaptureFixture
) -> None:
    before = set(threading.enumerate())
    ran: list[int] = []
    install(delayq, *(Fault("record", nth) for nth in range(1, 5)))
    job = delayq.task(name="t", on_crash="fail")(lambda: ran.append(1)).enqueue()
    with pytest.raises(BackendUnavailableError):
        delayq.drain()
    assert other.rescue(now=SystemClock().now(), max_rescues=3) == [], "nobody else runs it meanwhile"
    wait_until(lambda: job.refresh().state is JobState.COMPLETED, 10, "its end is written")
    wait_until(lambda: set(threading.enumerate()) <= before, 10, "the thread has ended")
    assert (ran, other.processes()) == ([1], [])
    assert "the outcomes of 1 jobs of a drain are not written yet" in caplog.text


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("on_crash", ["retry", "fail"])
@pytest.mark.parametrize("interrupted", [False, True])
def test_without_threads_what_cannot_be_written_is_left_to_others(
    url: str, other: Any, monkeypatch: pytest.MonkeyPatch, on_crash: Any, interrupted: bool
) -> None:
    """As if the process had died: so it is when a second Ctrl-C ends it while the store is busy."""
    monkeypatch.setattr(launch, "reason_against_threads", lambda: "there are none")
    _app, delayq = make_app(url=url, lease=60)
    install(delayq, Fault("record", 1), Fault("record", 2))

    @delayq.task(on_crash=on_crash)
    def work() -> None:
        if interrupted:
            raise KeyboardInterrupt

    job = work.enqueue()
    with pytest.raises(KeyboardInterrupt if interrupted else BackendUnavailableError):
        delayq.drain()
    (one,) = other.rescue(now=SystemClock().now(), max_rescues=3)
    assert one.state is (StoredState.FAILED if on_crash == "fail" else StoredState.WAITING)
    if on_crash == "retry":
        assert one.charged is not interrupted
    assert job.refresh().state is (JobState.FAILED if on_crash == "fail" else JobState.READY)
    delayq.state.close()


def test_a_second_ctrl_c_does_not_cut_off_what_the_first_one_has_to_say(
    delayq: DelayQ, other: Any
) -> None:
    is_out = threading.Event()

    def busy() -> None:
        # CPython misses one that comes right before it begins to wait; so the person presses again.
        for _ in range(10):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            if is_out.wait(4):
                return

    install(delayq, Fault("record", 1, action=busy))

    @delayq.task
    def long() -> None:
        raise KeyboardInterrupt

    job = long.enqueue()
    with pytest.raises(KeyboardInterrupt):
        delayq.drain()
    assert other.get(job.id).stored is StoredState.RUNNING, "it is not written yet"
    is_out.set()
    wait_until(lambda: other.get(job.id).stored is StoredState.WAITING, 10, "it is given back")
    assert other.get(job.id).rescues == 0
    wait_until(lambda: other.processes() == [], 10, "it has withdrawn")


@pytest.mark.parametrize("threads", [True, False])
def test_an_end_that_ctrl_c_cut_off_after_it_was_stored_is_told(
    delayq: DelayQ, threads: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not threads:
        monkeypatch.setattr(launch, "reason_against_threads", lambda: "there are none")

    def ctrl_c() -> None:
        raise KeyboardInterrupt

    install(delayq, Fault("record", 1, when="after", action=ctrl_c))
    told: list[str] = []

    def hear(sender: object, job: Any, **facts: object) -> None:
        told.append(job.id)

    job_completed.connect(hear)
    job = delayq.task(name="t")(lambda: 5).enqueue()
    with pytest.raises(KeyboardInterrupt):
        delayq.drain()
    assert told == [job.id]
    assert job.refresh().state is JobState.COMPLETED
    assert "its claim was lost" not in caplog.text


def test_a_drain_does_not_wait_for_the_pause_of_its_thread_after_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _app, delayq = make_app(lease=600)
    monkeypatch.setattr(drain, "LONGEST_PAUSE", 60.0)  # longer than a drain has patience
    loops: list[Loop] = []

    class Tired(Loop):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            loops.append(self)

        def _failed(self, error: BaseException) -> float:
            self._failures = 10  # as if it had failed for long: the pause is the longest
            return super()._failed(error)

    monkeypatch.setattr(drain, "Loop", Tired)
    monkeypatch.setattr(drain, "ANNOUNCE_EVERY", 0.0)
    install(delayq, *(Fault("announce", n) for n in range(2, 99)))
    job = delayq.task(name="t")(lambda: bool(wait_until(lambda: loops[0].failing))).enqueue()
    began = time.monotonic()
    delayq.drain()
    assert quiet_seconds(began) < 4
    assert job.refresh().state is JobState.COMPLETED


def test_a_long_drain_shows_again_and_again_that_it_lives(
    delayq: DelayQ, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "ANNOUNCE_EVERY", 0.01)

    @delayq.task
    def long() -> None:
        (first,) = other.processes()
        wait_until(lambda: other.processes()[0].seen_at > first.seen_at, 10, "it is seen again")

    job = long.enqueue()
    delayq.drain()
    assert job.refresh().state is JobState.COMPLETED
