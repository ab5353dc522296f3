"""Enqueueing and the handle it returns: what is stored, what is refused, and what a job then tells.

On the memory backend, in manual mode, with a clock held by the test; must not know the runtime.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import threading
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from types import FrameType
from typing import Any

import msgspec
import pytest
from flask import Flask

from flask_delayq import Cancel, DelayQ, Job, JobState, bell, client, current_job
from flask_delayq.bell import Bell
from flask_delayq.clock import MAX_DELAY
from flask_delayq.errors import (
    ArgumentError,
    ConfigurationError,
    DelayError,
    InvalidNameError,
    InvalidTransitionError,
    JobConflictError,
    JobFailedError,
    JobNotFinishedError,
    JobNotFoundError,
    PayloadTooLargeError,
    QueueFullError,
    WaitInsideTaskError,
    WaitTimeoutError,
)
from flask_delayq.job import Claim, ClaimFor, NewJob, Outcome, StoredState, Verb
from flask_delayq.signals import job_cancelled, job_enqueued
from flask_delayq.testing import FakeClock
from kit import make_app
from waiting import wait_until

UTC = timezone.utc


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(now=1_800_000_000.0)


@pytest.fixture
def app_and_delayq(clock: FakeClock) -> Iterator[tuple[Flask, DelayQ]]:
    app, delayq = make_app(clock=clock)
    yield app, delayq
    delayq.state.close()


@pytest.fixture
def delayq(app_and_delayq: tuple[Flask, DelayQ]) -> DelayQ:
    return app_and_delayq[1]


@pytest.fixture
def app(app_and_delayq: tuple[Flask, DelayQ]) -> Flask:
    return app_and_delayq[0]


@dataclasses.dataclass
class Parcel:
    weight: float
    sent: date


def total(delayq: DelayQ) -> int:
    return sum(delayq.counts().values())


# --- what is stored -----------------------------------------------------------------------------


def test_a_new_job_tells_what_it_is(delayq: DelayQ, clock: FakeClock) -> None:
    @delayq.task(queue="mail", priority="high", name="mail.send")
    def send(to: str, *, copies: int = 1) -> None: ...

    job = send.enqueue("a@b.c", copies=2)
    assert (job.task, job.queue, job.priority, job.state) == ("mail.send", "mail", "high", "ready")
    assert (job.created, job.attempt, job.rescues, job.schedule) == (True, 0, 0, None)
    now = datetime.fromtimestamp(clock.now(), UTC)
    assert job.run_at == job.enqueued_at == now
    assert job.started_at is None and job.finished_at is None
    assert job.arguments == (("a@b.c",), {"copies": 2})
    assert job.error is None and job.progress == {} and not job.cancel_requested and not job.is_final
    assert repr(job) == f"<Job {job.id} mail.send ready>"
    stored = delayq.get(job.id)
    assert stored == job and hash(stored) == hash(job)
    assert stored.record == job.record
    assert not stored.created


@pytest.mark.parametrize("delay", [30, 30.0, timedelta(seconds=30)])
def test_a_delayed_job_is_scheduled_until_its_very_moment(
    delayq: DelayQ, clock: FakeClock, delay: Any
) -> None:
    job = delayq.task(name="t")(lambda: 5).enqueue_in(delay)
    assert job.run_at.timestamp() == clock.now() + 30
    clock.advance(30 - 1e-6)
    assert job.state is JobState.SCHEDULED and delayq.drain() == []
    clock.advance(1e-6)
    assert job.state is JobState.READY
    assert len(delayq.drain()) == 1
    assert job.refresh().result == 5


def test_a_moment_is_kept_and_the_past_is_now(delayq: DelayQ, clock: FakeClock) -> None:
    task = delayq.task(name="t")(lambda: None)
    when = datetime.fromtimestamp(clock.now() + 5, timezone(timedelta(hours=5)))
    assert task.enqueue_at(when).run_at == when
    past = task.enqueue_at(when - timedelta(days=400))
    assert past.run_at.timestamp() == clock.now() and past.state == "ready"


@pytest.mark.parametrize(
    "delay", [-1, math.nan, math.inf, True, "5", None, MAX_DELAY * 1.01, [5], timedelta(-1)], ids=str
)
def test_a_delay_that_is_none_stores_nothing(delayq: DelayQ, delay: Any) -> None:
    task = delayq.task(name="t")(lambda: None)
    with pytest.raises(DelayError):
        task.enqueue_in(delay)
    if delay is not None:
        with pytest.raises(DelayError):
            task.enqueue_many([()], delay=delay)
    assert total(delayq) == 0


@pytest.mark.parametrize(
    "when",
    [
        datetime(2030, 1, 1),
        None,
        5,
        "2030-01-01T00:00:00Z",
        date(2030, 1, 1),
        datetime(2099, 1, 1, tzinfo=UTC),
    ],
    ids=str,
)
def test_a_moment_that_is_none_stores_nothing(delayq: DelayQ, when: Any) -> None:
    with pytest.raises(DelayError):
        delayq.task(name="t")(lambda: None).enqueue_at(when)
    assert total(delayq) == 0


def test_call_options_change_one_call(delayq: DelayQ) -> None:
    task = delayq.task(name="t", queue="mail")(lambda: None)
    job = task.options(queue="slow", priority="low", max_attempts=4, id="my-job").enqueue()
    assert (job.id, job.queue, job.priority, job.record.max_attempts) == ("my-job", "slow", "low", 4)
    assert task.enqueue().queue == "mail"
    chained = task.options(queue="slow").options(priority="high").enqueue()
    assert (chained.queue, chained.priority) == ("slow", "high")


def test_delay_is_another_word_for_enqueue(delayq: DelayQ) -> None:
    job = delayq.task(name="t")(lambda x: None).delay(5)
    assert job.arguments == ((5,), {})


def test_parameters_may_have_any_name(delayq: DelayQ) -> None:
    @delayq.task
    def odd(
        self: int, delay: int, when: int, args: int, kwargs: int, task: int, options: int
    ) -> list[int]:
        return [self, delay, when, args, kwargs, task, options]

    names = {"self": 1, "delay": 2, "when": 3, "args": 4, "kwargs": 5, "task": 6, "options": 7}
    jobs = [
        odd.enqueue(**names),
        odd.enqueue_in(0, **names),
        odd.enqueue_at(datetime(2000, 1, 1, tzinfo=UTC), **names),
        odd.options(queue="q").enqueue(**names),
    ]
    delayq.drain()
    assert [job.refresh().result for job in jobs] == [[1, 2, 3, 4, 5, 6, 7]] * 4
    assert odd(**names) == [1, 2, 3, 4, 5, 6, 7]


# --- ids ----------------------------------------------------------------------------------------


def test_the_same_id_and_call_is_stored_once(delayq: DelayQ) -> None:
    runs: list[int] = []

    @delayq.task
    def note(x: int) -> int:
        runs.append(x)
        return x

    first = note.options(id="once").enqueue(5)
    second = note.options(id="once").enqueue(x=5)
    assert first.created and not second.created and first == second
    delayq.drain()
    third = note.options(id="once").enqueue(5)
    assert not third.created and third.state == "completed" and third.result == 5
    delayq.drain()
    assert runs == [5]


def test_the_same_id_for_another_call_is_a_conflict(delayq: DelayQ) -> None:
    task = delayq.task(name="t")(lambda x: None)
    other = delayq.task(name="u")(lambda x: None)
    task.options(id="once").enqueue(1)
    for call in (
        lambda: task.options(id="once").enqueue(2),
        lambda: other.options(id="once").enqueue(1),
    ):
        with pytest.raises(JobConflictError) as caught:
            call()
        assert caught.value.job_id == "once"
    assert total(delayq) == 1


@pytest.mark.parametrize("bad", ["", "a b", "../x", 5, "x" * 129])
def test_a_bad_id_is_refused_before_anything_is_stored(delayq: DelayQ, bad: Any) -> None:
    with pytest.raises(InvalidNameError):
        delayq.task(name="t")(lambda: None).options(id=bad).enqueue()
    assert total(delayq) == 0


# --- many ---------------------------------------------------------------------------------------


def test_many_are_stored_in_order(delayq: DelayQ, clock: FakeClock) -> None:
    task = delayq.task(name="t")(lambda x, y=0: x + y)
    jobs = task.enqueue_many([(1,), [2, 5], (3,)], delay=10)
    assert [job.arguments for job in jobs] == [((1,), {}), ((2, 5), {}), ((3,), {})]
    assert {job.run_at.timestamp() for job in jobs} == {clock.now() + 10}
    assert [job.id for job in jobs] == sorted(job.id for job in jobs)
    clock.advance(10)
    delayq.drain()
    assert [job.refresh().result for job in jobs] == [1, 7, 3]


def test_many_of_none(delayq: DelayQ) -> None:
    assert delayq.task(name="t")(lambda x: None).enqueue_many(iter(())) == []


@pytest.mark.parametrize(
    ("calls", "error"),
    [
        ([(1,), (math.nan,)], ArgumentError),
        ([(1,), ()], TypeError),
        ([(1,), (1, 2)], TypeError),
        ([(1,), "ab"], TypeError),
        ([(1,), {"x": 1}], TypeError),
        ([(1,), 5], TypeError),
        ("ab", TypeError),
        (5, TypeError),
        ([(1,), ("x" * 300_000,)], PayloadTooLargeError),
    ],
    ids=range(9),
)
def test_one_bad_call_among_many_stores_none(delayq: DelayQ, calls: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        delayq.task(name="t")(lambda x: None).enqueue_many(calls)
    assert total(delayq) == 0


def test_calls_that_come_from_a_generator_that_raises_store_none(delayq: DelayQ) -> None:
    def calls() -> Iterator[tuple[int]]:
        yield (1,)
        raise LookupError("no more rows")

    with pytest.raises(LookupError):
        delayq.task(name="t")(lambda x: None).enqueue_many(calls())
    assert total(delayq) == 0


def test_an_id_is_for_one_job(delayq: DelayQ) -> None:
    task = delayq.task(name="t")(lambda x: None).options(id="one")
    with pytest.raises(ConfigurationError, match="id"):
        task.enqueue_many([(1,), (2,)])
    assert total(delayq) == 0
    assert task.enqueue_many([(1,)])[0].id == "one"


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "fits"), [(64, True), (65, False)])
def test_the_payload_limit_is_exact(size: int, fits: bool) -> None:
    _, delayq = make_app(max_payload=64)
    task = delayq.task(name="t")(lambda x: None)
    text = "x" * (size - len('{"x":""}'))
    if fits:
        assert task.enqueue(text).created
    else:
        with pytest.raises(PayloadTooLargeError) as caught:
            task.enqueue(text)
        assert (caught.value.size, caught.value.limit) == (65, 64)
        assert total(delayq) == 0
    delayq.state.close()


def test_a_full_queue_refuses_the_whole_call() -> None:
    _, delayq = make_app(max_pending=3)
    task = delayq.task(name="t")(lambda x: None)
    task.enqueue_many([(1,), (2,)])
    with pytest.raises(QueueFullError) as caught:
        task.enqueue_many([(3,), (4,)])
    assert (caught.value.queue, caught.value.limit) == ("default", 3)
    assert total(delayq) == 2
    assert task.enqueue(3).created
    with pytest.raises(QueueFullError):
        task.enqueue_in(60, 4)
    assert task.options(queue="other").enqueue(4).created
    delayq.drain(limit=1)
    assert task.enqueue(5).created
    delayq.state.close()


def test_a_call_that_does_not_fit_stores_nothing(delayq: DelayQ) -> None:
    @delayq.task(name="t")
    def task(x: int) -> None: ...

    for args, kwargs in [((), {}), ((1, 2), {}), ((1,), {"y": 2}), (("a",), {})]:
        with pytest.raises(TypeError):
            task.enqueue(*args, **kwargs)
    assert total(delayq) == 0


# --- results ------------------------------------------------------------------------------------


def test_a_result_is_restored_by_the_return_annotation(delayq: DelayQ) -> None:
    @delayq.task
    def wrap(parcel: Parcel) -> list[Parcel]:
        return [parcel]

    parcel = Parcel(1.5, date(2026, 1, 1))
    job = wrap.enqueue(parcel)
    delayq.drain()
    assert job.refresh().result == [parcel]


def test_without_a_fitting_annotation_the_result_is_plain_json(delayq: DelayQ) -> None:
    @delayq.task(name="a")
    def plain() -> Any:
        return (1, 2)

    @delayq.task(name="b")
    def lying() -> date:
        return "soon"  # type: ignore[return-value]

    @delayq.task(name="c")
    def unresolvable() -> Missing:  # type: ignore[name-defined]  # noqa: F821
        return 5

    @delayq.task(name="d")
    def foreign() -> Flask:
        return {"a": 1}  # type: ignore[return-value]

    jobs: list[Job[Any]] = [task.enqueue() for task in (plain, lying, unresolvable, foreign)]
    delayq.drain()
    assert [job.refresh().result for job in jobs] == [[1, 2], "soon", 5, {"a": 1}]


def test_a_result_before_the_end_and_after_a_failure(delayq: DelayQ) -> None:
    @delayq.task
    def fail() -> None:
        raise ValueError("bad")

    job = fail.enqueue()
    with pytest.raises(JobNotFinishedError) as early:
        _ = job.result
    assert (early.value.job_id, early.value.state) == (job.id, "ready")
    delayq.drain()
    with pytest.raises(JobFailedError) as late:
        _ = job.refresh().result
    assert (late.value.state, late.value.error) == ("failed", "ValueError: bad")
    assert job.error is not None and job.error.type == "ValueError"


def test_a_cancelled_job_has_no_result(delayq: DelayQ) -> None:
    @delayq.task
    def give_up() -> None:
        raise Cancel("order is gone")

    job = give_up.enqueue()
    delayq.drain()
    with pytest.raises(JobFailedError, match="order is gone") as caught:
        _ = job.refresh().result
    assert caught.value.state == "cancelled"


def test_a_result_that_was_not_stored_is_none_and_the_error_says_why(delayq: DelayQ) -> None:
    job = delayq.task(name="t")(lambda: object()).enqueue()
    delayq.drain()
    assert job.refresh().result is None and job.state == "completed"
    assert job.error is not None and job.error.type == "ResultNotStored"


def test_a_snapshot_stays_until_it_is_refreshed(delayq: DelayQ) -> None:
    job = delayq.task(name="t")(lambda: 5).enqueue()
    delayq.drain()
    assert job.state == "ready"
    assert job.refresh() is job
    assert job.state == "completed" and job.started_at is not None and job.finished_at is not None


def test_a_job_from_a_list_tells_as_much_as_one_that_was_asked_for(delayq: DelayQ) -> None:
    """Backends may leave out of a list what is long."""

    @delayq.task
    def double(x: int) -> int:
        return 2 * x

    double.enqueue(4)
    delayq.drain()
    client = delayq.client
    whole = client.inspect.list
    emptied: dict[str, Any] = {"payload": b"", "result": None, "error": None}

    def without(*args: Any, **kwargs: Any) -> Any:
        return [msgspec.structs.replace(record, **emptied) for record in whole(*args, **kwargs)]

    client.backend.list = without  # type: ignore[attr-defined]
    (job,) = delayq.jobs("completed")
    assert job.arguments == ((4,), {}) and job.result == 8 and job.error is None
    assert delayq.jobs("failed") == []


def test_arguments_that_no_longer_fit_are_shown_by_name(delayq: DelayQ) -> None:
    old = delayq.task(name="t")(lambda x, y: None)
    job = old.enqueue(1, 2)
    delayq.tasks._tasks.clear()
    assert job.arguments == ((), {"x": 1, "y": 2})
    delayq.task(name="t")(lambda x: None)
    assert job.arguments == ((), {"x": 1, "y": 2})
    delayq.tasks._tasks.clear()

    @delayq.task(name="t")
    def broken(x: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert job.arguments == ((), {"x": 1, "y": 2})


# --- cancel and retry ---------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_at_once(delayq: DelayQ) -> None:
    runs: list[int] = []
    job = delayq.task(name="t")(lambda: runs.append(1)).enqueue()
    assert job.cancel("changed my mind") is True
    assert job.state == "cancelled" and job.error is not None and "changed my mind" in str(job.error)
    assert delayq.drain() == [] and runs == []
    assert job.cancel() is True, "it is cancelled, whoever did it"


def test_a_final_job_stays_as_it_is(delayq: DelayQ) -> None:
    job = delayq.task(name="t")(lambda: 5).enqueue()
    delayq.drain()
    assert job.cancel() is False
    assert job.state == "completed" and job.result == 5


def test_a_running_job_is_asked_to_stop(delayq: DelayQ) -> None:
    seen: list[Any] = []

    @delayq.task
    def task() -> None:
        me = delayq.get(current_job.id)
        seen.extend([me.state, me.attempt, me.cancel("please")])
        seen.extend([me.cancel_requested, current_job.cancel_requested])

    job = task.enqueue()
    delayq.drain()
    assert seen == ["running", 1, False, True, True]
    assert job.refresh().state == "completed"


def test_a_failed_or_cancelled_job_runs_again_by_a_persons_wish(delayq: DelayQ) -> None:
    runs: list[int] = []

    @delayq.task(max_attempts=2, backoff=0)
    def flaky() -> str:
        runs.append(1)
        if len(runs) <= 2:
            raise ValueError("bad")
        return "well"

    job = flaky.enqueue()
    delayq.drain()
    assert job.refresh().state == "failed" and job.attempt == 2
    assert job.retry() is job
    assert (job.state, job.attempt) == ("ready", 0)
    assert job.error is not None, "kept for reading"
    delayq.drain()
    assert job.refresh().result == "well" and job.error is None
    cancelled = flaky.enqueue()
    cancelled.cancel()
    assert cancelled.retry().state == "ready"


def test_only_what_failed_or_was_cancelled_can_be_retried(delayq: DelayQ) -> None:
    task = delayq.task(name="t")(lambda: None)
    job = task.enqueue_in(60)
    with pytest.raises(InvalidTransitionError) as caught:
        job.retry()
    assert (caught.value.state, caught.value.action) == ("scheduled", "retry")
    done = task.enqueue()
    delayq.drain()
    with pytest.raises(InvalidTransitionError, match="completed"):
        done.retry()


def test_a_job_that_is_gone_says_so(delayq: DelayQ, clock: FakeClock) -> None:
    job = delayq.task(name="t")(lambda: None).enqueue()
    delayq.drain()
    now = clock.now() + 1
    delayq.client.backend.prune(finished_before=now, failed_before=now, keep=None)
    for verb in (job.refresh, job.cancel, job.retry, job.wait, lambda: delayq.get(job.id)):
        with pytest.raises(JobNotFoundError) as caught:
            verb()
        assert caught.value.job_id == job.id


# --- waiting ------------------------------------------------------------------------------------


def test_waiting_for_what_is_final_returns_at_once(delayq: DelayQ) -> None:
    job = delayq.task(name="t")(lambda: 5).enqueue()
    delayq.drain()
    assert job.wait(0) is job and job.result == 5


@pytest.mark.parametrize("timeout", [0, 0.01, timedelta(milliseconds=5)])
def test_a_wait_ends_in_time(delayq: DelayQ, timeout: Any) -> None:
    job = delayq.task(name="t")(lambda: None).enqueue()
    with pytest.raises(WaitTimeoutError) as caught:
        job.wait(timeout)
    assert caught.value.job_id == job.id and isinstance(caught.value, TimeoutError)
    assert delayq.client._waiting == {}


@pytest.mark.parametrize("timeout", [-1, math.nan, math.inf, "5", True, [1]], ids=str)
def test_a_timeout_that_is_none_is_a_delay_error(delayq: DelayQ, timeout: Any) -> None:
    job = delayq.task(name="t")(lambda: None).enqueue()
    with pytest.raises(DelayError, match="timeout"):
        job.wait(timeout)
    with pytest.raises(DelayError, match="timeout"):
        delayq.join(timeout)


def test_a_wait_is_woken_by_the_end_of_the_job(delayq: DelayQ) -> None:
    job = delayq.task(name="t")(lambda: 7).enqueue()
    results: list[Any] = []
    waiters = [
        threading.Thread(target=lambda: results.append(delayq.get(job.id).wait(5).result))
        for _ in range(3)
    ]
    for waiter in waiters:
        waiter.start()
    wait_until(lambda: len(delayq.client._waiting.get(job.id, ())) == 3, what="three wait")
    delayq.drain()
    for waiter in waiters:
        waiter.join(5)
    assert results == [7, 7, 7]
    assert delayq.client._waiting == {}


def test_a_wait_is_woken_by_a_cancel(delayq: DelayQ) -> None:
    job = delayq.task(name="t")(lambda: 7).enqueue()
    states: list[str] = []
    waiter = threading.Thread(target=lambda: states.append(delayq.get(job.id).wait(5).state))
    waiter.start()
    wait_until(lambda: delayq.client._waiting, what="it waits")
    other = (
        Bell()
    )  # not the waiter's own, whose wait takes the ring; it might also have looked by itself
    delayq.client._waiting[job.id].append(other)
    job.cancel()
    assert other.wait(0)
    waiter.join(5)
    assert states == ["cancelled"]
    delayq.client._waiting.clear()


@pytest.mark.parametrize("nth", range(1, 60))
def test_a_signal_handler_may_cancel_the_job_that_its_thread_waits_for(delayq: DelayQ, nth: int) -> None:
    """In any line of the wait: here without a signal, and in a thread that may stand still."""
    job = delayq.task(name="t")(lambda: None).enqueue_in(60)
    files = {threading.__file__, client.__file__, bell.__file__}
    lines = 0

    def handle(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in files:
            return None
        if event == "line" and frame.f_code.co_name not in ("run", "_bootstrap_inner"):
            lines += 1
            if lines == nth:
                sys.settrace(None)
                job.cancel()
        return handle

    def wait() -> None:
        sys.settrace(handle)
        job.wait(5)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert job.state is JobState.CANCELLED


def test_waiting_inside_a_task_is_refused_unless_there_is_nothing_to_wait_for(delayq: DelayQ) -> None:
    @delayq.task
    def inner() -> int:
        return 5

    done = inner.enqueue()
    delayq.drain()

    @delayq.task
    def outer() -> int:
        assert done.wait(1).result == 5
        other = inner.enqueue_in(60)
        with pytest.raises(WaitInsideTaskError) as caught:
            other.wait(1)
        assert caught.value.job_id == other.id
        return 6

    job = outer.enqueue()
    delayq.drain()
    assert job.refresh().result == 6


# --- signals ------------------------------------------------------------------------------------


def test_what_was_stored_is_announced_once(delayq: DelayQ, app: Flask) -> None:
    told: list[tuple[Any, NewJob]] = []

    def receive(sender: Any, job: NewJob) -> None:
        told.append((sender, job))

    task = delayq.task(name="t")(lambda x: None)
    with job_enqueued.connected_to(receive):
        first = task.options(id="a").enqueue(1)
        task.options(id="a").enqueue(1)
        many = task.enqueue_many([(2,), (3,)])
        with pytest.raises(ArgumentError):
            task.enqueue(math.nan)
    assert [job.id for _, job in told] == [first.id, *(job.id for job in many)]
    assert all(sender is app for sender, _ in told)


def test_a_receiver_that_raises_does_not_undo_the_job(delayq: DelayQ) -> None:
    def receive(sender: Any, job: NewJob) -> None:
        raise ValueError("no")

    with job_enqueued.connected_to(receive):
        assert delayq.task(name="t")(lambda: None).enqueue().created
    assert total(delayq) == 1


def test_a_cancel_is_announced_when_it_happened(delayq: DelayQ) -> None:
    told: list[tuple[str, str]] = []

    def receive(sender: Any, job: Any, reason: str) -> None:
        told.append((job.id, reason))

    job = delayq.task(name="t")(lambda: None).enqueue()
    with job_cancelled.connected_to(receive):
        job.cancel("why not")
        job.cancel("again")
    assert told == [(job.id, "why not")]


@pytest.mark.parametrize("waits", [True, False], ids=["and waits again", "and cancels itself"])
def test_a_cancel_is_announced_by_whoever_did_it_though_the_job_moves_meanwhile(
    delayq: DelayQ, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """It runs when the call begins and waits after that, or the other way round."""
    told: list[str] = []
    state = delayq.state
    job = delayq.task(name="t")(lambda: None).enqueue()
    record_of, looks = state.client.record_of, iter([1])

    def claim() -> Claim:
        (taken,) = state.backend.claim(None, now=clock.now(), limit=1, owner="me", lease=60)
        return taken

    running = claim() if waits else None

    def look_and_let_it_move(job_id: str) -> Any:
        seen = record_of(job_id)
        if next(looks, None):
            verb, ran = (Verb.RELEASE, running) if running else (Verb.CANCEL, claim())
            assert state.backend.record([Outcome(ran, verb, clock.now())], now=clock.now()) == [True]
            clock.advance(1)
        return seen

    def receive(sender: Any, job: Any, reason: str) -> None:
        told.append(reason)

    monkeypatch.setattr(state.client, "record_of", look_and_let_it_move)
    with job_cancelled.connected_to(receive):
        state.client.cancel(job.id, "by hand")
    assert job.refresh().state == "cancelled"
    assert told == (["by hand"] if waits else [])


# --- a runner in this process -------------------------------------------------------------------


class Runner:
    """Takes what a client hands over, and remembers it."""

    def __init__(self, places: int = 0) -> None:
        self.places = places
        self.given: list[tuple[int, list[tuple[Claim, Any]]]] = []
        self.expected: list[tuple[str, float]] = []
        self.due_now = 0
        self.cancels: list[str] = []

    def reserve(self, jobs: int) -> ClaimFor | None:
        slots = min(jobs, self.places)
        return ClaimFor("me", 60.0, slots) if slots else None

    def hand_over(self, reserved: ClaimFor, claims: Any) -> None:
        self.given.append((reserved.slots, list(claims)))

    def expect(self, jobs: Any) -> None:
        self.expected.extend(jobs)

    def expect_now(self) -> None:
        self.due_now += 1

    def request_cancel(self, job_id: str) -> None:
        self.cancels.append(job_id)


def test_a_due_job_is_claimed_as_it_is_stored_if_there_is_a_place(delayq: DelayQ) -> None:
    runner = delayq.client.runner = Runner(places=2)
    task = delayq.task(name="t")(lambda x: None)
    job = task.enqueue(5)
    ((slots, [(claim, values)]),) = runner.given
    assert slots == 1 and claim.id == job.id and task.arguments.unpack(values) == ((5,), {})
    assert delayq.get(job.id).state == "running"
    assert runner.due_now == 0 and runner.expected == []


def test_without_a_place_it_waits_and_the_runner_is_told(delayq: DelayQ, clock: FakeClock) -> None:
    runner = delayq.client.runner = Runner(places=0)
    task = delayq.task(name="t")(lambda: None)
    assert delayq.get(task.enqueue().id).state == "ready"
    assert runner.due_now == 1
    later = task.enqueue_in(5)
    assert runner.expected == [(later.id, clock.now() + 5)]
    assert runner.given == [], "nothing is reserved for what is not due"


def test_of_many_as_many_are_claimed_as_there_are_places(delayq: DelayQ, clock: FakeClock) -> None:
    runner = delayq.client.runner = Runner(places=2)
    jobs = delayq.task(name="t")(lambda x: None).enqueue_many([(1,), (2,), (3,)])
    ((slots, given),) = runner.given
    assert slots == 2 and [claim.id for claim, _ in given] == [job.id for job in jobs[:2]]
    assert runner.expected == [(jobs[2].id, clock.now())]


@pytest.mark.parametrize("many", [False, True])
def test_places_come_back_when_storing_fails(delayq: DelayQ, many: bool) -> None:
    runner = delayq.client.runner = Runner(places=2)
    task = delayq.task(name="t")(lambda x: None)
    task.options(id="taken").enqueue_in(60, 1)
    with pytest.raises(JobConflictError):
        task.options(id="taken").enqueue(2)
    if many:
        delayq.client._max_pending = 1
        with pytest.raises(QueueFullError):
            task.enqueue_many([(1,), (2,)])
    assert [(slots, claims) for slots, claims in runner.given] == [(1, [])] + [(2, [])] * many


def test_a_job_that_was_known_is_neither_run_nor_expected_again(delayq: DelayQ) -> None:
    task = delayq.task(name="t")(lambda: None)
    task.options(id="a").enqueue()
    runner = delayq.client.runner = Runner(places=1)
    task.options(id="a").enqueue()
    assert runner.given == [(1, [])] and runner.due_now == 0 and runner.expected == []


def test_a_runner_hears_of_retries_and_of_cancels(delayq: DelayQ, clock: FakeClock) -> None:
    task = delayq.task(name="t")(lambda: None)
    job = task.enqueue()
    job.cancel()
    runner = delayq.client.runner = Runner(places=0)
    job.retry()
    assert runner.expected == [(job.id, clock.now())]
    client = delayq.client
    (claim,) = client.backend.claim(None, now=clock.now(), limit=1, owner="me", lease=60.0)
    assert job.cancel() is False
    assert runner.cancels == [claim.id]
    assert delayq.get(job.id).record.stored is StoredState.RUNNING


def test_how_runs_ended_is_returned_by_drain(delayq: DelayQ) -> None:
    delayq.task(name="t")(lambda: 5).enqueue()
    (outcome,) = delayq.drain()
    assert outcome.verb is Verb.COMPLETE and outcome.result == b"5"
