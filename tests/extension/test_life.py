"""The life of a job as a program sees it, with real threads, on every backend that needs no server.

It must not know which threads there are.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from flask import current_app, g

from flask_delayq import Cancel, DelayQ, JobState, Retry, RetryPolicy, Snooze, current_job
from flask_delayq.errors import JobFailedError, WaitInsideTaskError
from kit import make_app, running
from pace import quiet_seconds
from waiting import wait_until


@pytest.fixture(params=["memory", "sqlite"])
def delayq(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DelayQ]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.sqlite3"
    _app, delayq = make_app(url=url)
    with running(delayq):
        yield delayq


def test_a_job_runs_and_returns_its_result(delayq: DelayQ) -> None:
    @delayq.task
    def add(a: int, b: int) -> int:
        return a + b

    job = add.enqueue(2, b=3).wait(5)
    assert job.result == 5
    assert job.state == "completed"
    assert job.attempt == 1
    assert job.started_at and job.finished_at and job.started_at <= job.finished_at


def test_a_delayed_job_runs_at_its_time_and_not_before(delayq: DelayQ) -> None:
    ran_at: list[float] = []
    ran: list[float] = []

    @delayq.task
    def note() -> None:
        ran_at.append(time.time())
        ran.append(time.monotonic())

    wait_until(lambda: delayq.state.supervisor.dispatcher.accepting, what="the runtime is ready")
    job = note.enqueue_in(0.3)
    assert job.state is JobState.SCHEDULED
    job.wait(5)
    assert ran_at[0] >= job.run_at.timestamp()
    late = ran_at[0] - job.run_at.timestamp()
    assert quiet_seconds(ran[0] - late, ran[0]) < 0.25


def test_a_moment_in_the_past_is_now(delayq: DelayQ) -> None:
    task = delayq.task(name="t")(lambda: "ran")
    job = task.enqueue_at(datetime(2001, 1, 1, tzinfo=timezone.utc))
    assert job.run_at == job.enqueued_at
    assert job.wait(5).result == "ran"


def test_delays_are_kept_in_order(delayq: DelayQ) -> None:
    task = delayq.task(name="t")(lambda n: n)
    jobs = [task.enqueue_in(timedelta(seconds=0.05 * (5 - n)), n) for n in range(5)]
    ended = [job.wait(5) for job in jobs]
    # Those claimed in one step share its moment and run in the order of their own.
    begun = sorted(ended, key=lambda job: (job.started_at, job.run_at))
    assert begun == sorted(ended, key=lambda job: job.run_at)
    assert all(job.started_at and job.started_at >= job.run_at for job in ended)


def test_many_jobs_in_one_step_run_once_each(delayq: DelayQ) -> None:
    seen: list[int] = []
    task = delayq.task(name="t")(lambda n: seen.append(n))
    task.enqueue_many([(n,) for n in range(300)])
    assert delayq.join(10)
    assert sorted(seen) == list(range(300))


def test_a_failing_job_is_repeated_as_its_policy_says(delayq: DelayQ) -> None:
    attempts: list[int] = []

    @delayq.task(retry=RetryPolicy(max_attempts=3, backoff=0.01, jitter=0))
    def fail() -> None:
        attempts.append(current_job.attempt)
        raise OSError("down")

    job = fail.enqueue().wait(5)
    assert attempts == [1, 2, 3]
    assert job.state is JobState.FAILED
    assert job.error is not None and "OSError: down" in str(job.error)
    assert "raise OSError" in job.error.traceback
    with pytest.raises(JobFailedError, match="down"):
        _ = job.result


def test_a_failed_job_can_be_run_again_by_a_person(delayq: DelayQ) -> None:
    broken = True

    @delayq.task
    def sometimes() -> str:
        if broken:
            raise ValueError("no")
        return "yes"

    job = sometimes.enqueue().wait(5)
    assert job.state is JobState.FAILED
    broken = False
    assert job.retry().wait(5).result == "yes"


def test_a_task_steers_itself(delayq: DelayQ) -> None:
    runs: list[int] = []

    @delayq.task
    def steer() -> str:
        runs.append(current_job.attempt)
        if len(runs) == 1:
            raise Snooze(0.01)
        if len(runs) == 2:
            raise Retry(0.01)
        if len(runs) == 3:
            return "done"
        raise AssertionError

    assert steer.enqueue().wait(5).result == "done"
    assert runs == [1, 1, 2]

    @delayq.task
    def give_up() -> None:
        raise Cancel("not worth it")

    job = give_up.enqueue().wait(5)
    assert job.state is JobState.CANCELLED
    assert "not worth it" in str(job.error)


def test_a_waiting_job_is_cancelled_at_once(delayq: DelayQ) -> None:
    ran: list[str] = []
    task = delayq.task(name="t")(lambda name: ran.append(name))
    job = task.enqueue_in(2, "cancelled")
    assert job.cancel() is True
    assert job.state is JobState.CANCELLED
    task.options(id="after").enqueue_at(job.run_at, "after").wait(10)
    assert ran == ["after"]


def test_a_running_job_is_asked_to_stop(delayq: DelayQ) -> None:
    begun = threading.Event()
    release = threading.Event()

    @delayq.task
    def long() -> str:
        begun.set()
        while not current_job.cancel_requested:
            if release.wait(0.01):
                return "never asked"
        raise Cancel("asked")

    job = long.enqueue()
    assert begun.wait(5)
    assert job.cancel() is False
    try:
        assert job.wait(5).state is JobState.CANCELLED
    finally:
        release.set()


def test_progress_is_seen_while_the_job_runs(delayq: DelayQ) -> None:
    half = threading.Event()
    go_on = threading.Event()

    @delayq.task
    def report() -> None:
        current_job.progress(5, 10, "halfway")
        half.set()
        go_on.wait(5)
        current_job.progress(10, 10)

    job = report.enqueue()
    assert half.wait(5)
    progress = delayq.get(job.id).progress
    go_on.set()
    assert (progress["done"], progress["total"], progress["note"]) == (5, 10, "halfway")
    assert job.wait(5).progress["done"] == 10


def test_each_job_has_an_app_context_of_its_own(delayq: DelayQ) -> None:
    @delayq.task
    def look() -> list[object]:
        before = "seen" in g
        g.seen = True
        return [current_app.name, before]

    for _ in range(6):
        assert look.enqueue().wait(5).result == ["kit", False]


def test_async_tasks_run(delayq: DelayQ) -> None:
    @delayq.task
    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return n * 2

    assert double.enqueue(21).wait(5).result == 42
    assert double(4) == 8


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, GeneratorExit, RecursionError])
def test_whatever_a_task_raises_the_workers_go_on(delayq: DelayQ, raised: type[BaseException]) -> None:
    @delayq.task
    def bad() -> None:
        if raised is RecursionError:
            bad()
        raise raised

    @delayq.task
    def good() -> int:
        return 1

    jobs = [bad.enqueue() for _ in range(8)]
    assert good.enqueue().wait(5).result == 1
    for job in jobs:
        assert job.wait(10).state is JobState.FAILED


def test_waiting_inside_a_task_is_refused(delayq: DelayQ) -> None:
    inner = delayq.task(name="inner")(lambda: 1)

    @delayq.task
    def outer() -> str:
        try:
            inner.enqueue_in(60).wait(1)
        except WaitInsideTaskError:
            return "refused"
        return "waited"

    assert outer.enqueue().wait(5).result == "refused"


def test_a_periodic_task_fires_once_per_occurrence(tmp_path: Path) -> None:
    _app, delayq = make_app(url=f"sqlite:///{tmp_path}/jobs.sqlite3")
    fired: list[float] = []

    @delayq.task(every=0.2)
    def tick() -> None:
        fired.append(time.time())

    with running(delayq):
        wait_until(lambda: len(fired) >= 4, 10, "four ticks")
        jobs = delayq.jobs(task=tick.name)
        moments = sorted(job.run_at.timestamp() for job in jobs)
    assert len(set(moments)) == len(moments)
    assert all(abs(moment / 0.2 - round(moment / 0.2)) < 1e-4 for moment in moments)


def test_an_id_makes_a_call_repeatable(delayq: DelayQ) -> None:
    seen: list[int] = []
    task = delayq.task(name="t")(lambda n: seen.append(n))
    first = task.options(id="once").enqueue(1)
    again = task.options(id="once").enqueue(1)
    assert (first.created, again.created) == (True, False)
    assert first == again
    assert delayq.join(5)
    assert seen == [1]


def test_a_paused_queue_waits(delayq: DelayQ) -> None:
    ran: list[str] = []
    task = delayq.task(name="t")(lambda name: ran.append(name))
    delayq.pause("slow")
    task.options(queue="slow").enqueue("slow")
    task.enqueue("other").wait(5)
    assert ran == ["other"]
    delayq.resume("slow")
    wait_until(lambda: ran == ["other", "slow"], what="the resumed queue runs")


def test_long_jobs_do_not_hold_short_ones_of_the_same_process_up(delayq: DelayQ) -> None:
    gate = threading.Event()
    block = delayq.task(name="block")(lambda: gate.wait(10) and None)
    quick = delayq.task(name="quick")(lambda: "quick")
    for _ in range(3):
        block.enqueue()
    try:
        assert [quick.enqueue().wait(5).result for _ in range(5)] == ["quick"] * 5
    finally:
        gate.set()


def test_a_stop_says_that_a_job_of_an_earlier_runtime_still_runs(delayq: DelayQ) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @delayq.task
    def long() -> str:
        begun.set()
        go_on.wait(10)
        return "late"

    delayq.stop(5)
    delayq.start()
    job = long.enqueue()
    assert begun.wait(5)
    assert delayq.stop(0) is False
    delayq.start()
    assert delayq.stop(0.1) is False, "the job of the first one"
    delayq.start()
    go_on.set()
    assert job.wait(5).result == "late"
    wait_until(lambda: not delayq.state._earlier, what="it has ended")
    assert delayq.task(name="t")(lambda: 5).enqueue().wait(5).result == 5
    assert delayq.stop(5) is True


def test_closures_run_in_the_background_with_an_app_context(delayq: DelayQ) -> None:
    assert delayq.submit(lambda: current_app.name).result(5) == "kit"
    assert list(delayq.map(lambda n: n * 2, [1, 2, 3])) == [2, 4, 6]
    assert delayq.join(5)
    delayq.executor.shutdown()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_exception_groups_are_kept_as_text(delayq: DelayQ) -> None:
    @delayq.task
    def group() -> None:
        raise ExceptionGroup("several", [ValueError("a"), OSError("b")])  # noqa: F821

    error = group.enqueue().wait(5).error
    assert error is not None
    assert "ValueError: a" in error.traceback and "OSError: b" in error.traceback


def test_jobs_from_a_list_know_as_much_as_any(delayq: DelayQ) -> None:
    @delayq.task
    def double(n: int) -> int:
        return n * 2

    @delayq.task
    def fail(n: int) -> None:
        raise ValueError("no")

    double.enqueue(4).wait(5)
    fail.enqueue(5).wait(5)
    failed, completed = delayq.jobs()
    assert (completed.result, completed.arguments) == (8, ((4,), {}))
    assert (failed.arguments, str(failed.error)) == (((5,), {}), "ValueError: no")
