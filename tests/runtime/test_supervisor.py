"""The supervisor with its real threads: start, stop in order, deadlines, troubles."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from flask_delayq import DelayQ, JobState
from flask_delayq.errors import BackendUnavailableError
from flask_delayq.job import Stored
from flask_delayq.testing.faults import Fault, install
from kit import make_app
from waiting import wait_until


@pytest.fixture
def delayq() -> Iterator[DelayQ]:
    _app, delayq = make_app()
    yield delayq
    delayq.state.close()


def test_stop_lets_running_jobs_end_and_begins_no_other(delayq: DelayQ) -> None:
    begun, go_on = threading.Event(), threading.Event()
    ended: list[str] = []

    @delayq.task
    def slow() -> None:
        begun.set()
        go_on.wait(5)
        ended.append("slow")

    quick = delayq.task(name="quick")(lambda: ended.append("quick"))
    delayq.start()
    job = slow.enqueue()
    assert begun.wait(5)
    stopper = threading.Thread(target=delayq.stop, args=(5,))
    stopper.start()
    wait_until(lambda: not delayq.state.supervisor.is_running, what="the stop has begun")
    later = quick.enqueue()
    go_on.set()
    stopper.join(5)
    assert ended == ["slow"]
    assert job.refresh().state is JobState.COMPLETED
    assert later.refresh().state is JobState.READY


def test_at_the_deadline_a_job_is_interrupted_and_still_ends_well_if_it_does(
    delayq: DelayQ,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @delayq.task
    def stubborn() -> str:
        begun.set()
        go_on.wait(10)
        return "late"

    delayq.start()
    job = stubborn.enqueue()
    assert begun.wait(5)
    before = time.monotonic()
    assert delayq.stop(0.1) is False
    assert time.monotonic() - before < 2.1
    record = delayq.client.record_of(job.id)
    assert record is not None
    assert (record.stored, record.interrupted) == (Stored.RUNNING, True)
    go_on.set()
    assert job.wait(5).result == "late"


def test_unstarted_claims_are_given_back_at_a_stop() -> None:
    _app, delayq = make_app(workers=1)
    begun, go_on = threading.Event(), threading.Event()

    @delayq.task
    def block() -> None:
        begun.set()
        go_on.wait(5)

    delayq.start()
    block.enqueue()
    assert begun.wait(5)
    jobs = [block.enqueue() for _ in range(20)]
    delayq.stop(0.05)
    assert all(job.refresh().state is JobState.READY for job in jobs)
    assert all(job.attempt == 0 for job in jobs)
    go_on.set()
    delayq.state.close()


def test_stopping_is_idempotent_and_thread_safe(delayq: DelayQ) -> None:
    delayq.start()
    threads = [threading.Thread(target=delayq.stop, args=(2,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert delayq.state.supervisor is None
    assert delayq.stop() is True


def test_start_and_stop_from_many_threads_leave_nothing_behind(delayq: DelayQ) -> None:
    def churn() -> None:
        for _ in range(10):
            delayq.start()
            delayq.stop(1)

    threads = [threading.Thread(target=churn) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    delayq.stop(1)
    delayq.start()
    task = delayq.task(name="t")(lambda: 1)
    assert task.enqueue().wait(5).result == 1


def test_a_store_that_is_away_for_a_while_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    _app, delayq = make_app()
    faulty = install(delayq, *(Fault("record", n) for n in range(1, 6)))
    task = delayq.task(name="t")(lambda: 5)
    with caplog.at_level(logging.WARNING):
        delayq.start()
        assert task.enqueue().wait(10).result == 5
    assert faulty.calls["record"] >= 6
    reports = [r for r in caplog.records if "recorder failed" in r.getMessage()]
    assert len(reports) == 1  # once, not once a try
    wait_until(lambda: "recorder works again" in caplog.text, what="the log says it is over")
    delayq.state.close()


def test_an_enqueue_that_fails_gives_its_place_back() -> None:
    _app, delayq = make_app(workers=1)
    install(delayq, *(Fault("enqueue", n) for n in range(1, 30)))
    task = delayq.task(name="t")(lambda: 5)
    delayq.start()
    wait_until(lambda: delayq.state.supervisor.dispatcher.open, what="ready")
    for _ in range(29):
        with pytest.raises(BackendUnavailableError):
            task.enqueue()
    assert delayq.state.supervisor.pool.busy == 0
    assert task.enqueue().wait(5).result == 5
    delayq.state.close()


@pytest.mark.parametrize("nth", range(1, 41))
def test_whichever_store_call_fails_once_every_job_is_done(nth: int) -> None:
    _app, delayq = make_app()
    install(delayq, Fault("*", nth))
    task = delayq.task(name="t", max_attempts=2, backoff=0.01)(lambda n: n)
    delayq.start()
    ids: list[str] = []
    try:
        for n in range(4):
            for _ in range(2):
                try:
                    ids.append(task.options(id=f"job-{n}").enqueue(n).id)
                    break
                except BackendUnavailableError:
                    continue
        inner = delayq.state.backend.inner
        wait_until(
            lambda: all(inner.get(f"job-{n}").stored is Stored.COMPLETED for n in range(4)),
            10,
            "all four are done",
        )
    finally:
        delayq.state.close()
    assert set(ids) == {f"job-{n}" for n in range(4)}


def test_health_tells_of_a_loop_that_fails() -> None:
    _app, delayq = make_app()
    faulty = install(delayq, *(Fault("rescue", n) for n in range(1, 10_000)))
    delayq.start()
    health = wait_until(lambda: not delayq.state.health().ok and delayq.state.health(), what="trouble")
    assert "maintenance fails" in health.reason
    faulty.faults.clear()
    wait_until(lambda: delayq.state.health().ok, 15, "it is well again")
    delayq.state.close()
