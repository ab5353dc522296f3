"""A stop that passes in the middle of an enqueue or a claim: nothing is charged, failed or raised.

Each test lets the whole stop happen at one named point; another process then judges what is left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from flask_delayq import DelayQ, Job
from flask_delayq.backends import open_backend
from flask_delayq.clock import SystemClock
from flask_delayq.job import StoredState
from flask_delayq.runtime import supervisor
from flask_delayq.testing.faults import Fault, install
from kit import make_app
from waiting import wait_until


@pytest.fixture(params=["sqlite", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = request.node.callspec.params["url"]
    return f"sqlite:///{tmp_path / 'store.sqlite3'}" if name == "sqlite" else f"memory://{tmp_path.name}"


@pytest.fixture
def delayq(url: str) -> Iterator[DelayQ]:
    _app, delayq = make_app(url=url)
    yield delayq
    delayq.state.close()


@pytest.fixture
def other(url: str) -> Iterator[Any]:
    """The store as another process has it."""
    backend = open_backend(url, clock=SystemClock())
    yield backend
    backend.close()


def once(delayq: DelayQ, ran: list[int]) -> Any:
    """A task that must not be repeated after a crash."""
    return delayq.task(name="once", on_crash="fail")(lambda: ran.append(1))


def started(delayq: DelayQ) -> None:
    delayq.start()
    wait_until(lambda: delayq.state.supervisor.dispatcher.accepting, what="it is ready")


def stop(delayq: DelayQ, other: Any) -> None:
    """The whole stop, and the next turn of another process."""
    delayq.stop(1)
    other.rescue(now=SystemClock().now(), max_rescues=3)


def stop_at(faults: list[Fault], delayq: DelayQ, other: Any) -> Callable[[], None]:
    def strike() -> None:
        faults.clear()  # what follows is not struck again
        stop(delayq, other)

    return strike


def waits_uncharged(other: Any, job_id: str) -> None:
    """Nothing is left to rescue, and the job is as if nobody had claimed it."""
    other.rescue(now=SystemClock().now(), max_rescues=3)
    record = other.get(job_id)
    assert (record.stored, record.rescues, record.attempt, record.owner) == (
        StoredState.WAITING,
        0,
        0,
        None,
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_whole_stop_passes_around_the_commit_of_an_enqueue(
    delayq: DelayQ, other: Any, when: str
) -> None:
    faults: list[Fault] = []
    faulty = install(delayq)
    faulty.faults = faults
    ran: list[int] = []
    task = once(delayq, ran)
    started(delayq)
    nth = faulty.calls.get("enqueue", 0) + 1
    faults.append(Fault("enqueue", nth, when=when, action=stop_at(faults, delayq, other)))
    job: Job[Any] = task.enqueue()
    waits_uncharged(other, job.id)
    assert ran == []


def test_the_whole_stop_passes_before_a_claim_is_handed_over(
    delayq: DelayQ, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    task = once(delayq, ran)
    started(delayq)
    runtime = delayq.state.supervisor
    add = runtime.claims.add
    passed = threading.Event()

    def stop_and_add(held: Any) -> None:
        monkeypatch.undo()
        stop(delayq, other)
        add(held)
        passed.set()

    monkeypatch.setattr(runtime.claims, "add", stop_and_add)
    job = task.enqueue()
    assert passed.wait(10)  # in the dispatcher's thread, if it made the claim
    wait_until(lambda: other.get(job.id).stored is StoredState.WAITING, what="the claim is given back")
    waits_uncharged(other, job.id)
    assert ran == []
    # A turn of the dispatcher that outlasted the stop gives back what it had reserved.
    wait_until(lambda: runtime.pool.busy == 0, what="every place is free")


def test_an_enqueue_that_a_stop_overtakes_does_not_raise_when_the_store_goes_away(
    delayq: DelayQ, other: Any
) -> None:
    """The job is stored, so an error would make the caller store it again."""
    faults: list[Fault] = []
    faulty = install(delayq)
    faulty.faults = faults
    ran: list[int] = []
    task = once(delayq, ran)
    started(delayq)

    def strike() -> None:
        stop(delayq, other)
        faults[:] = [Fault("record", faulty.calls.get("record", 0) + n) for n in range(1, 99)]

    faults.append(Fault("enqueue", faulty.calls.get("enqueue", 0) + 1, when="after", action=strike))
    job = task.enqueue()
    waits_uncharged(other, job.id)
    assert ran == []


def test_a_claim_that_waits_for_the_store_until_its_owner_has_gone_claims_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "TIDYING", 0.2)
    store = tmp_path / "store.sqlite3"
    _app, delayq = make_app(url=f"sqlite:///{store}")
    ran: list[int] = []
    task = once(delayq, ran)
    started(delayq)
    runtime = delayq.state.supervisor
    asked, locked = threading.Event(), threading.Event()
    claim = delayq.state.backend.claim

    def tell_and_claim(*args: Any, **options: Any) -> Any:
        asked.set()
        assert locked.wait(5)
        return claim(*args, **options)

    monkeypatch.setattr(delayq.state.backend, "claim", tell_and_claim)
    with closing(apsw.Connection(str(store))) as guest:
        delayq.client.runner = None  # as if another process had stored it
        job = task.enqueue()
        runtime.dispatcher.ring()
        assert asked.wait(5)
        guest.set_busy_timeout(5000)
        guest.execute("BEGIN IMMEDIATE")
        locked.set()
        delayq.stop(0)
        guest.execute("ROLLBACK")
    wait_until(
        lambda: not runtime._threads.by_name["dispatcher"].is_alive(), what="the claim has returned"
    )
    other = open_backend(f"sqlite:///{store}", clock=SystemClock())
    waits_uncharged(other, job.id)
    assert ran == []
    other.close()
    delayq.state.close()
