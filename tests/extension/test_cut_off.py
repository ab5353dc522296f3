"""Starts and stops that an exception cuts off (Ctrl-C, a time limit).

Nothing may go on that nobody can stop any more.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_delayq import DelayQ, app_state, at_exit
from flask_delayq.runtime.pool import WorkerPool
from flask_delayq.runtime.supervisor import Supervisor
from kit import make_app
from waiting import wait_until


@pytest.fixture
def delayq() -> Iterator[DelayQ]:
    _app, delayq = make_app()
    yield delayq
    delayq.state.close()


def started(delayq: DelayQ) -> Supervisor:
    delayq.start()
    runtime = delayq.state.supervisor
    assert runtime is not None
    wait_until(lambda: runtime.dispatcher.accepting, what="it is ready")
    return runtime


def our_threads() -> list[str]:
    """Of a runtime; the launch watcher is none of it."""
    names = {thread.name for thread in threading.enumerate() if thread.name.startswith("delayq-")}
    return sorted(names - {"delayq-launch"})


def after(call: Callable[..., Any]) -> Callable[..., Any]:
    """Like `call`, with a Ctrl-C the moment it has returned."""

    def call_and_cut(*args: Any, **kwargs: Any) -> Any:
        call(*args, **kwargs)
        raise KeyboardInterrupt

    return call_and_cut


@pytest.mark.parametrize("where", ["runtime", "exit hook"])
def test_a_start_that_is_cut_off_leaves_no_runtime(
    delayq: DelayQ, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "runtime":
        monkeypatch.setattr(Supervisor, "start", after(Supervisor.start))
    else:
        monkeypatch.setattr(app_state, "drain_at_exit", after(at_exit.drain_at_exit))
    with pytest.raises(KeyboardInterrupt):
        delayq.start()
    monkeypatch.undo()
    assert our_threads() == []
    assert delayq.state.supervisor is None
    job = delayq.task(name="t")(lambda: None).enqueue()
    assert job.refresh().state == "ready"
    started(delayq)
    job.wait(5)
    assert delayq.stop(5)
    assert delayq.state.supervisor is None and delayq.state._earlier == []


class CutLock:
    """A reentrant lock; what `cut` names is cut off once, right after it is done."""

    def __init__(self, lock: Any, cut: str, when: Callable[[], bool]) -> None:
        self.lock, self.cut, self.when = lock, cut, when

    def done(self, what: str) -> None:
        if what == self.cut and self.when():
            self.cut = ""
            raise KeyboardInterrupt

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        got: bool = self.lock.acquire(*args, **kwargs)
        self.done("acquire")
        return got

    def release(self) -> None:
        self.lock.release()

    def _is_owned(self) -> bool:
        return bool(self.lock._is_owned())

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        self.done("exit")


def test_a_stop_that_is_cut_off_at_its_last_step_is_ended_by_the_next(delayq: DelayQ) -> None:
    runtime = started(delayq)
    runtime._lock = CutLock(runtime._lock, "exit", lambda: runtime._state == "ended")  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        delayq.stop(1)
    assert delayq.stop(1)
    assert our_threads() == [] and delayq.state.supervisor is None


def test_a_stop_that_is_cut_off_at_its_first_step_is_no_obstacle_to_other_threads(
    delayq: DelayQ,
) -> None:
    runtime = started(delayq)
    runtime._stops = CutLock(runtime._stops, "acquire", lambda: True)
    with pytest.raises(KeyboardInterrupt):
        delayq.stop(1)
    answers: list[bool] = []
    other = threading.Thread(target=lambda: answers.append(delayq.stop(1)))
    other.start()
    other.join(10)
    assert answers == [True]
    assert our_threads() == [] and runtime.has_ended


def test_a_stop_after_the_deadline_gives_what_still_runs_no_more_time(delayq: DelayQ) -> None:
    """The end of the interpreter stops every app once more: it must not wait twice."""
    release, begun = threading.Event(), threading.Event()

    @delayq.task
    def long() -> None:
        begun.set()
        release.wait(30)

    started(delayq)
    job = long.enqueue()
    assert begun.wait(5)
    assert not delayq.stop(0.0)
    before = time.monotonic()
    assert not delayq.stop(20)
    assert time.monotonic() - before < 10
    release.set()
    wait_until(lambda: job.refresh().state == "completed")
    wait_until(lambda: delayq.state.supervisor is None)


def test_apps_may_start_while_all_that_run_are_listed() -> None:
    stop = threading.Event()
    kept: list[Any] = []

    class Quiet:
        """Something to add to the set."""

    def add() -> None:
        while not stop.is_set():
            kept.append(Quiet())
            with at_exit._lock:
                at_exit._running.add(kept[-1])

    adding = threading.Thread(target=add)
    adding.start()
    try:
        wait_until(lambda: len(kept) > 500)
        for _ in range(50):
            at_exit.all_running()
    finally:
        stop.set()
        adding.join()
        for one in kept:
            at_exit._running.discard(one)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals wake no thread here")
def test_ctrl_c_in_a_stop_that_waits_ends_no_job_and_the_next_stop_waits_for_it(
    delayq: DelayQ,
) -> None:
    """CPython up to 3.12 takes a thread for ended after that, though it runs."""
    begun, go_on = threading.Event(), threading.Event()

    @delayq.task(name="long")
    def long() -> str:
        begun.set()
        go_on.wait(30)
        return "done"

    main = threading.get_ident()

    def once_it_joins(act: Callable[[], Any]) -> threading.Thread:
        def joins() -> bool:
            frame = sys._current_frames()[main].f_back  # whoever called what waits, at least
            while frame is not None and frame.f_code is not WorkerPool.join.__code__:
                frame = frame.f_back
            return frame is not None

        def wait_and_act() -> None:
            wait_until(joins, what="it joins")
            act()

        thread = threading.Thread(target=wait_and_act)
        thread.start()
        return thread

    started(delayq)
    job = long.enqueue()
    assert begun.wait(5)
    hurry = once_it_joins(lambda: signal.pthread_kill(main, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        delayq.stop(20)
    hurry.join()
    assert job.refresh().state == "running"
    leisure = once_it_joins(go_on.set)
    assert delayq.stop(20), "it waits for the job"
    leisure.join()
    assert job.refresh().result == "done"
