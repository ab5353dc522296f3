"""Signals of the runtime tell the truth: they come after the store has it, and harm nothing.

Receivers ask the store, as one does that pushes a job's state to a browser.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app, g

from flask_delayq import Cancel, DelayQ, JobState, Retry, Snooze, current_job, signals
from flask_delayq.job import Claim
from flask_delayq.runtime import signal_sender, troubles
from flask_delayq.signals import Signal, job_cancelled, job_completed, job_failed, job_retried
from flask_delayq.testing.faults import Fault, install
from kit import make_app
from waiting import wait_until

ENDS = (job_completed, job_failed, job_retried, job_cancelled)


@pytest.fixture(params=["memory", "sqlite"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Flask, DelayQ]]:
    name = request.node.callspec.params["made"]
    url = "memory://" if name == "memory" else f"sqlite:///{tmp_path / 'store.sqlite3'}"
    app, delayq = make_app(url=url)
    yield app, delayq
    delayq.state.close()


@contextmanager
def hearing(*heard: Signal, by: Callable[..., None]) -> Iterator[None]:
    """Receivers that tell ``by(name, sender, facts)``."""

    def receiver(name: str) -> Callable[..., None]:
        return lambda sender, **facts: by(name, sender, facts)

    receivers = [(signal, receiver(signal.name)) for signal in heard]
    for signal, receive in receivers:
        signal.connect(receive)
    try:
        yield
    finally:
        for signal, receive in receivers:
            signal.disconnect(receive)


def raising(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


CASES: dict[str, tuple[Callable[[], Any], str, JobState]] = {
    "completed": (lambda: 7, "job-completed", JobState.COMPLETED),
    "failed": (raising(ValueError("no")), "job-failed", JobState.FAILED),
    "cancelled": (raising(Cancel("enough")), "job-cancelled", JobState.CANCELLED),
    "retried": (raising(Retry(3600)), "job-retried", JobState.SCHEDULED),
    "snoozed": (raising(Snooze(3600)), "job-retried", JobState.SCHEDULED),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("how", ["runtime", "drain"])
def test_a_receiver_finds_the_store_as_the_signal_says(
    made: tuple[Flask, DelayQ], how: str, case: str
) -> None:
    app, delayq = made
    function, name, state = CASES[case]
    found: list[Any] = []

    def look(name: str, sender: Any, facts: dict[str, Any]) -> None:
        job = delayq.get(facts["job"].id)
        found.append((name, job.state, sender, current_app._get_current_object(), facts))

    task = delayq.task(name="t")(function)
    with hearing(*ENDS, by=look):
        if how == "runtime":
            delayq.start()
        task.enqueue()
        if how == "drain":
            delayq.drain()
        wait_until(lambda: found, what="the signal")
        delayq.stop(5)
    ((told, seen, sender, inside, facts),) = found
    assert (told, seen) == (name, state)
    assert sender is app and inside is app
    assert isinstance(facts.pop("job"), Claim)
    assert (
        facts.keys()
        == {
            "job-completed": {"result", "seconds"},
            "job-failed": {"error"},
            "job-retried": {"error", "run_at"},
            "job-cancelled": {"reason"},
        }[name]
    )
    if case == "completed":
        assert facts["result"] == 7
    if case == "cancelled":
        assert facts["reason"] == "enough"


@pytest.mark.parametrize("how", ["runtime", "drain"])
def test_nothing_is_told_of_an_end_that_was_not_recorded(
    made: tuple[Flask, DelayQ], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its job was taken away while it ran, and is somebody else's to end."""
    _app, delayq = made
    heard: list[str] = []

    @delayq.task
    def taken() -> None:
        backend, claim = delayq.state.backend, current_job.claim
        backend.rescue(now=delayq.state.clock.now(), max_rescues=3, asked_at=float("inf"))
        assert backend.get(claim.id).owner is None

    @delayq.task
    def next_one() -> None: ...

    with hearing(*ENDS, by=lambda name, sender, facts: heard.append(facts["job"].id)):
        job = taken.enqueue()
        if how == "drain":
            (outcome,) = delayq.drain(limit=1)
            assert outcome.verb.value == "rescue", "it says that it lost the job"
            delayq.state.backend.cancel(job.id, now=0)
            marker = next_one.enqueue()
            delayq.drain()
        else:
            delayq.pause("later")
            delayq.start()
            wait_until(lambda: "its claim was lost" in caplog.text, what="the end is refused")
            delayq.stop(5)
            assert job.refresh().state in (JobState.READY, JobState.RUNNING)
            delayq.state.backend.cancel(job.id, now=0)
            marker = next_one.enqueue()
            delayq.drain()
    assert job.id not in heard[: heard.index(marker.id)]


def test_a_retry_that_somebody_cancelled_is_told_as_a_cancel(made: tuple[Flask, DelayQ]) -> None:
    _app, delayq = made
    heard: list[str] = []

    @delayq.task
    def again() -> None:
        delayq.state.backend.cancel(current_job.id, now=0)
        raise Retry(0)

    with hearing(*ENDS, by=lambda name, sender, facts: heard.append(name)):
        job = again.enqueue()
        delayq.drain()
    assert job.refresh().state is JobState.CANCELLED
    assert heard == ["job-cancelled"]


def test_a_cancel_is_told_once_also_if_the_retry_before_it_was_not_told_yet(
    made: tuple[Flask, DelayQ],
) -> None:
    """Who calls `cancel` tells of it in its own thread, while a slow receiver holds the others up."""
    _app, delayq = made
    called, go_on, caught_up = threading.Event(), threading.Event(), threading.Event()
    heard: list[tuple[str, str]] = []
    slow = delayq.task(name="slow")(lambda: None)
    last = delayq.task(name="last")(lambda: None)
    again = delayq.task(name="again")(raising(Retry(3600)))

    def hold(name: str, sender: Any, facts: dict[str, Any]) -> None:
        if facts["job"].task == "slow":
            called.set()
            go_on.wait(20)
        else:
            caught_up.set()

    def note(name: str, sender: Any, facts: dict[str, Any]) -> None:
        heard.append((name, facts.get("reason", "")))

    with hearing(job_completed, by=hold), hearing(job_retried, job_cancelled, by=note):
        delayq.start()
        slow.enqueue()
        assert called.wait(5)
        job = again.enqueue()
        wait_until(lambda: job.refresh().state is JobState.SCHEDULED, what="it waits again")
        assert job.cancel("not any more")
        last.enqueue().wait(5)
        go_on.set()
        assert caught_up.wait(5)
    assert heard == [("job-cancelled", "not any more")]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_receiver_that_raises_harms_neither_the_next_one_nor_the_runtime(
    made: tuple[Flask, DelayQ], error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    _app, delayq = made
    heard: list[int] = []

    def bad(name: str, sender: Any, facts: dict[str, Any]) -> None:
        raise error("clumsy")

    def good(name: str, sender: Any, facts: dict[str, Any]) -> None:
        heard.append(facts["result"])

    task = delayq.task(name="t")(lambda n: n)
    with hearing(job_completed, by=bad), hearing(job_completed, by=good):
        delayq.start()
        runtime = delayq.state.supervisor
        threads = dict(runtime._threads.by_name)
        jobs = [task.enqueue(n) for n in range(50)]
        wait_until(lambda: len(heard) == 50, what="all are told")
        assert all(runtime._threads.by_name[name] is thread for name, thread in threads.items())
        assert all(thread.is_alive() for thread in threads.values())
    assert sorted(heard) == list(range(50))
    assert all(job.refresh().state is JobState.COMPLETED for job in jobs)
    assert "a receiver of job-completed failed" in caplog.text


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["job_rescued", "job_enqueued", "job_failed"])
def test_a_receiver_that_exits_leaves_the_maintenance_at_work(
    name: str, error: type[BaseException]
) -> None:
    _app, delayq = make_app(max_rescues=1, lease=3)
    delayq.task(name="tick", every=1)(lambda: None)
    delayq.task(name="once", on_crash="fail")(lambda: None).enqueue()
    backend = delayq.state.backend
    (claim,) = backend.claim(None, now=delayq.state.clock.now(), limit=1, owner="gone", lease=1e-9)
    rescue, called = backend.rescue, threading.Event()
    backend.rescue = lambda **options: rescue(**{**options, "leases": True, "asked_at": None})  # type: ignore[method-assign]

    def bad(name: str, sender: Any, facts: dict[str, Any]) -> None:
        called.set()
        raise error

    with hearing(getattr(signals, name), by=bad):
        delayq.start()
        maintenance = wait_until(
            lambda: delayq.state.supervisor._threads.by_name["maintenance"], what="it"
        )
        assert called.wait(10)
        turned = delayq.state.supervisor._maintaining.turned_at
        wait_until(lambda: delayq.state.supervisor._maintaining.turned_at > turned, 10, "it turns")
    assert maintenance.is_alive()
    assert backend.get(claim.id).owner is None
    delayq.state.close()


@pytest.mark.parametrize("limit", ["NEWS_LIMIT", "NEWS_BYTES"])
def test_a_receiver_that_does_not_return_holds_up_no_job(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: str
) -> None:
    """What it cannot keep up with is dropped, and the log and the health name it."""
    monkeypatch.setattr(signal_sender, limit, 20 if limit == "NEWS_LIMIT" else 20 * 5000)
    monkeypatch.setattr(troubles, "STALLED_AFTER", 0.0)
    _app, delayq = make_app(workers=1)
    inside, go_on = threading.Event(), threading.Event()
    heard: list[int] = []

    def stuck(name: str, sender: Any, facts: dict[str, Any]) -> None:
        inside.set()
        assert go_on.wait(40)
        heard.append(int(facts["result"]))

    task = delayq.task(name="t")(lambda n: f"{n:2500}")
    with hearing(job_completed, by=stuck):
        delayq.start()
        jobs = [task.enqueue(0)]
        assert inside.wait(10)
        jobs += [task.enqueue(n) for n in range(1, 200)]
        assert all(job.wait(20).state is JobState.COMPLETED for job in jobs)
        runtime = delayq.state.supervisor
        wait_until(lambda: runtime.signal_sender._dropped == 180, what="the recorder is through")
        assert not runtime.recorder.is_full
        health = delayq.state.health()
        assert not health.ok and "a receiver of job-completed, has not returned" in health.reason
        assert caplog.text.count("receivers are slower than the jobs") == 1
        assert "hearing.<locals>" in caplog.text, "it is named"
        go_on.set()
        wait_until(lambda: not delayq.state.supervisor.signal_sender.backlog, what="the others are told")
    assert len(heard) == 20
    assert heard == sorted(heard), "in the order in which they ended"
    delayq.state.close()


def test_what_has_happened_is_told_before_the_stop_returns(made: tuple[Flask, DelayQ]) -> None:
    _app, delayq = made
    heard: list[int] = []
    begun = threading.Event()

    @delayq.task
    def task(n: int) -> int:
        begun.set()
        return n

    with hearing(job_completed, by=lambda name, sender, facts: heard.append(facts["result"])):
        delayq.start()
        jobs = [task.enqueue(n) for n in range(20)]
        assert begun.wait(5)
        delayq.stop(5)
        done = sum(job.refresh().state is JobState.COMPLETED for job in jobs)
    assert len(heard) == done > 0


def test_a_receiver_may_stop_the_runtime(made: tuple[Flask, DelayQ]) -> None:
    _app, delayq = made
    stopped = threading.Event()

    def stop(name: str, sender: Any, facts: dict[str, Any]) -> None:
        delayq.stop(0)
        stopped.set()

    with hearing(job_completed, by=stop):
        delayq.start()
        delayq.task(name="t")(lambda: 1).enqueue()
        assert stopped.wait(10)
        wait_until(lambda: delayq.state.supervisor is None, what="it has ended")


def test_nothing_of_a_failed_call_is_kept_after_it_was_told() -> None:
    _app, delayq = make_app()
    seen: list[Any] = []

    class Local:
        """Something that a failed call held."""

    def fails() -> None:
        local = Local()
        raise ValueError(repr(local))

    def look(name: str, sender: Any, facts: dict[str, Any]) -> None:
        seen.append(facts["error"])
        assert facts["error"].__traceback__ is not None, "as reports of errors want it"

    with hearing(job_failed, by=look):
        delayq.start()
        delayq.task(name="t")(fails).enqueue()
        wait_until(lambda: seen, what="it is told")
        wait_until(lambda: seen[0].__traceback__ is None, what="its frames are free")
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, Local)]
    delayq.state.close()


def test_receivers_of_a_beginning_are_in_the_context_of_the_job(made: tuple[Flask, DelayQ]) -> None:
    _app, delayq = made

    def begin(name: str, sender: Any, facts: dict[str, Any]) -> None:
        g.noted = (current_job.id, facts["attempt"])

    with hearing(signals.job_started, by=begin):
        job = delayq.task(name="t")(lambda: list(g.noted)).enqueue()
        delayq.drain()
    assert job.refresh().result == [job.id, 1]


def test_while_the_store_is_away_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    _app, delayq = make_app()
    faulty = install(delayq, *(Fault("record", n) for n in range(1, 4)))
    at: list[int] = []
    task = delayq.task(name="t")(lambda: 5)
    with (
        hearing(job_completed, by=lambda name, sender, facts: at.append(faulty.calls["record"])),
        caplog.at_level(logging.CRITICAL),
    ):
        delayq.start()
        task.enqueue()
        wait_until(lambda: at, 10, "it is told")
    assert at == [4]
    delayq.state.close()
