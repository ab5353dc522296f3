"""The supervisor with its real threads: start, stop in order, deadlines, troubles."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_delayq import DelayQ, JobState
from flask_delayq.errors import BackendUnavailableError
from flask_delayq.job import StoredState
from flask_delayq.runtime.loop import Loop
from flask_delayq.runtime.loop_threads import LoopThreads
from flask_delayq.testing import FakeClock
from flask_delayq.testing.faults import Fault, install
from kit import make_app
from pace import quiet_seconds
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


def test_the_thread_of_a_loop_that_is_just_beginning_is_neither_joined_nor_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CPython gives it its ident before it says that it has started."""
    loop = Loop("it", lambda now: None, clock := FakeClock())
    threads = LoopThreads(clock)
    beginning = threads.by_name["it"] = threading.Thread()
    beginning._ident = -1  # type: ignore[attr-defined]
    monkeypatch.setitem(threading._limbo, beginning, beginning)  # type: ignore[attr-defined]
    threads.join(loop, until=clock.monotonic())
    threads.replace_if_dead(loop)
    assert threads.by_name["it"] is beginning


def test_a_loop_that_ends_while_its_thread_is_looked_for_has_not_died(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    threads = LoopThreads(FakeClock())
    threads.start(loop := Loop("it", lambda now: None, FakeClock()))
    ended = threads.by_name["it"]

    def stopped_meanwhile() -> list[threading.Thread]:
        loop.stop()
        ended.join(5)
        return []

    with monkeypatch.context() as patch:
        patch.setattr(threading, "enumerate", stopped_meanwhile)
        threads.replace_if_dead(loop)
    assert threads.by_name["it"] is ended and not caplog.records


def test_a_stop_ends_at_its_deadline_also_where_the_clock_stands_still() -> None:
    _app, delayq = make_app(FakeClock())
    begun, go_on = threading.Event(), threading.Event()

    @delayq.task
    def stubborn() -> None:
        begun.set()
        go_on.wait(10)

    delayq.start()
    stubborn.enqueue()
    assert begun.wait(5)
    before = time.monotonic()
    assert delayq.stop(0.1) is False
    assert quiet_seconds(before + 0.1) < 2
    go_on.set()
    wait_until(lambda: delayq.state.supervisor is None, what="it has retired")
    delayq.state.close()


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
    assert quiet_seconds(before + 0.1) < 2
    record = delayq.client.record_of(job.id)
    assert record is not None
    assert (record.stored, record.interrupted) == (StoredState.RUNNING, True)
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
    wait_until(lambda: delayq.state.supervisor.dispatcher.accepting, what="ready")
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
            lambda: all(inner.get(f"job-{n}").stored is StoredState.COMPLETED for n in range(4)),
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


# --- a start that fails, threads that die, and the end --------------------------------------------


@pytest.mark.parametrize("nth", range(1, 10))
def test_a_start_that_cannot_have_its_threads_leaves_nothing_and_can_be_repeated(
    nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _app, delayq = make_app(workers=4)
    task = delayq.task(name="t")(lambda: 5)
    job = task.enqueue()
    begin = threading.Thread.start
    begun: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        if len(begun) + 1 == nth:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        delayq.start()
    assert len(begun) == nth - 1
    assert delayq.state.supervisor is None and delayq.client.runner is None
    assert not any(thread.is_alive() for thread in begun)
    health = delayq.state.health()
    assert not health.ok and "can't start new thread" in health.reason
    monkeypatch.undo()
    delayq.start()
    assert job.wait(5).result == 5
    assert delayq.state.health().ok
    delayq.state.close()


@pytest.mark.parametrize("name", ["maintenance", "dispatcher", "recorder", "renewer", "signals"])
def test_a_loop_whose_thread_died_is_replaced(
    delayq: DelayQ, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the one that replaces the others."""
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    delayq.start()
    task = delayq.task(name="t")(lambda: 5)
    assert task.enqueue().wait(5).result == 5
    runtime = delayq.state.supervisor
    thread = runtime._threads.by_name[name]
    kill(thread)
    (loop,) = (loop for loop in runtime.loops if loop.name == name)
    loop.wake()
    wait_until(lambda: not thread.is_alive(), what="the thread is gone")
    wait_until(lambda: runtime._threads.by_name[name].is_alive(), what="another one turns")
    assert task.enqueue().wait(5).result == 5


def refuse_once(name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The system has no thread of this name, once; returns what was refused."""
    start = threading.Thread.start
    refused: list[str] = []

    def start_unless(thread: threading.Thread) -> None:
        if thread.name == name and not refused:
            refused.append(name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_unless)
    return refused


@pytest.mark.parametrize("name", ["maintenance", "recorder"])
def test_a_loop_for_which_no_thread_is_to_be_had_is_replaced_later(
    delayq: DelayQ, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    delayq.start()
    runtime = delayq.state.supervisor
    wait_until(lambda: runtime.dispatcher.accepting, what="it is ready")
    refused = refuse_once(f"delayq-{name}", monkeypatch)
    thread = runtime._threads.by_name[name]
    kill(thread)
    (loop,) = (loop for loop in runtime.loops if loop.name == name)
    loop.wake()
    wait_until(lambda: refused, what="no thread is to be had")
    wait_until(lambda: runtime._threads.by_name[name].is_alive(), 10, "another one turns")
    assert delayq.task(name="t")(lambda: 5).enqueue().wait(5).result == 5


def test_a_doorbell_for_which_no_thread_is_to_be_had_is_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _app, delayq = make_app(url=f"sqlite:///{tmp_path / 'store.sqlite3'}")
    faulty = install(delayq)
    refused = refuse_once("delayq-doorbell", monkeypatch)
    delayq.start()
    runtime = delayq.state.supervisor
    listening = runtime._listening.name
    wait_until(lambda: refused, what="no thread is to be had")
    wait_until(
        lambda: listening in runtime._threads.by_name and runtime._threads.by_name[listening].is_alive(),
        10,
    )
    assert faulty.calls["open_doorbell"] == 1
    delayq.state.close()


def kill(thread: threading.Thread) -> None:
    """Throw an exception into a thread where it waits for its next turn."""

    class Killed(BaseException):
        pass

    loop = thread._target.__self__  # type: ignore[attr-defined]
    bell = loop._bell

    class Once:
        ring = bell.ring

        def wait(self, timeout: float | None) -> bool:
            loop._bell = bell
            raise Killed

    loop._bell = Once()


def test_an_outcome_that_woke_nobody_is_written_all_the_same(delayq: DelayQ) -> None:
    """What an exception that strikes a worker can do: the last outcome of a quiet process."""
    delayq.start()
    runtime = delayq.state.supervisor
    runtime.recorder._wake = lambda: None
    assert delayq.task(name="t")(lambda: 5).enqueue().wait(10).result == 5


def test_a_stop_writes_an_outcome_that_woke_nobody(delayq: DelayQ) -> None:
    delayq.start()
    runtime = delayq.state.supervisor
    wait_until(lambda: runtime.dispatcher.accepting, what="it is ready")
    runtime.recorder._wake = lambda: None
    job = delayq.task(name="t")(lambda: 5).enqueue()
    wait_until(lambda: runtime.recorder.backlog, what="it has ended")
    assert delayq.stop(5) is True
    assert job.refresh().state is JobState.COMPLETED


def test_a_stop_says_that_outcomes_could_not_be_written(delayq: DelayQ) -> None:
    faulty = install(delayq, *(Fault("record", n) for n in range(1, 99)))
    delayq.start()
    runtime = delayq.state.supervisor
    wait_until(lambda: runtime.dispatcher.accepting, what="it is ready")
    delayq.task(name="t")(lambda: 5).enqueue()
    wait_until(lambda: runtime.recorder.backlog, what="it has ended")
    assert delayq.stop(0) is False
    faulty.faults.clear()
    wait_until(lambda: delayq.state.supervisor is None, what="it is written, and all has ended")


def test_a_stop_writes_what_could_not_be_written_before_if_the_store_is_back(delayq: DelayQ) -> None:
    """Also in the middle of the pause that follows many failures."""
    faulty = install(delayq, *(Fault("record", n) for n in range(1, 999)))
    delayq.start()
    runtime = delayq.state.supervisor
    wait_until(lambda: runtime.dispatcher.accepting, what="it is ready")
    runtime._recording._failures = 8  # as after half a minute: it pauses for 5 s
    job = delayq.task(name="t", on_crash="fail")(lambda: 5).enqueue()
    wait_until(lambda: runtime._recording.failing, what="it pauses")
    faulty.faults.clear()
    assert delayq.stop(1) is True
    assert job.refresh().state is JobState.COMPLETED


def test_whatever_a_turn_raises_its_loop_goes_on(delayq: DelayQ) -> None:
    faulty = install(delayq, *(Fault("rescue", n, action=leave) for n in range(1, 4)))
    delayq.start()
    thread = wait_until(
        lambda: delayq.state.supervisor._threads.by_name["maintenance"], what="it is there"
    )
    wait_until(lambda: faulty.calls.get("rescue", 0) > 3, 10, "it turns again")
    assert thread.is_alive()


def leave() -> None:
    raise SystemExit(3)


def test_who_is_told_to_begin_no_more_is_not_opened_by_being_ready() -> None:
    """A worker gets SIGTERM before its first look at the store has ended."""
    _app, delayq = make_app()
    announcing, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        announcing.set()
        assert go_on.wait(5)

    faulty = install(delayq, Fault("announce", 1, action=slowly))
    task = delayq.task(name="t")(lambda: 5)
    job = task.enqueue()
    delayq.start()
    runtime = delayq.state.supervisor
    assert announcing.wait(5)
    runtime.begin_no_more()
    go_on.set()
    wait_until(lambda: faulty.calls.get("rescue", 0) > 1, 5, "it was ready long ago")
    assert not runtime.dispatcher.accepting
    assert task.enqueue().refresh().state is JobState.READY
    assert job.refresh().state is JobState.READY and job.attempt == 0
    assert runtime.is_idle
    delayq.state.close()


def test_the_last_job_retires_the_runtime_even_if_its_end_is_written_first(
    delayq: DelayQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends long after the stop, and its worker stands still between handing its end on and
    leaving."""
    begun, go_on = threading.Event(), threading.Event()
    recorded = threading.Event()

    @delayq.task
    def late() -> None:
        begun.set()
        assert go_on.wait(10)

    delayq.start()
    runtime = delayq.state.supervisor
    late.enqueue()
    assert begun.wait(5)
    assert delayq.stop(0) is False
    add = runtime.recorder.add

    def add_and_stand_still(ended: object) -> None:
        add(ended)
        wait_until(lambda: not runtime.recorder.backlog, what="the end is written")
        recorded.set()
        wait_until(lambda: runtime.recorder._asleep, what="the recorder has looked who works")

    monkeypatch.setattr(runtime.recorder, "add", add_and_stand_still)
    go_on.set()
    assert recorded.wait(5)
    wait_until(lambda: delayq.state.supervisor is None, what="it has retired")
    wait_until(lambda: delayq.state.backend.processes() == [], what="it has withdrawn")


STEPS = [
    ("dispatcher.release", "closing"),
    ("pool.stop", "stopping"),
    ("pool.join", "stopping"),
    ("recorder.await_empty", "stopping"),
    ("_backend.withdraw", "stopped"),
    ("_on_end", "stopped"),
]


@pytest.mark.parametrize(("step", "state"), STEPS)
def test_a_stop_that_ctrl_c_cuts_off_is_repeated_by_the_next_one(
    delayq: DelayQ, step: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delayq.start()
    runtime = delayq.state.supervisor
    wait_until(lambda: runtime.dispatcher.accepting, what="it is ready")
    *path, name = step.split(".")
    part = getattr(runtime, path[0]) if path else runtime
    main = threading.current_thread()

    def interrupted(*_args: object) -> None:
        if threading.current_thread() is main:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(part, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            delayq.stop(5)
    assert runtime._state == state
    assert delayq.state.supervisor is runtime
    assert delayq.stop(5) is True
    assert (runtime._state, delayq.state.supervisor) == ("ended", None)
    assert not any(
        thread.is_alive() for thread in [*runtime.pool.threads, *runtime._threads.by_name.values()]
    )
    assert delayq.state.backend.processes() == []


def test_a_signal_handler_may_stop_in_the_middle_of_a_stop(delayq: DelayQ) -> None:
    """In more of a hurry: it does not wait for the stop that it interrupts."""
    delayq.start()
    runtime = delayq.state.supervisor
    begun, go_on = threading.Event(), threading.Event()

    @delayq.task
    def stubborn() -> None:
        begun.set()
        go_on.wait(10)

    job = stubborn.enqueue()
    assert begun.wait(5)
    join = runtime.pool.join
    answers: list[bool] = []

    def struck(seconds: float) -> bool:
        runtime.pool.join = join
        answers.append(delayq.stop(0))
        go_on.set()
        return join(seconds)

    runtime.pool.join = struck
    before = time.monotonic()
    assert delayq.stop(30) is True
    assert answers == [False] and quiet_seconds(before) < 10
    assert job.refresh().state is JobState.COMPLETED
    wait_until(lambda: delayq.state.supervisor is None, what="it has retired")


def test_every_state_is_left_forward_only(delayq: DelayQ) -> None:
    delayq.start()
    runtime = delayq.state.supervisor
    seen = [runtime._state]
    runtime.begin_no_more()
    seen.append(runtime._state)
    runtime.stop(1)
    seen.append(runtime._state)
    runtime.start()
    runtime.begin_no_more()
    assert [*seen, runtime._state] == ["running", "closing", "ended", "ended"]
