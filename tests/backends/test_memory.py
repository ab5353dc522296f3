"""The memory backend: the whole specification, and what it alone promises.
Must not repeat what the specification covers."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import Any

import pytest

from backends.conformance import (
    HIGH,
    LEASE,
    LOW,
    NOW,
    BackendConformance,
    InspectableConformance,
    SchedulableConformance,
    end,
    make_suspects,
    new,
    put,
    some,
    started,
    take,
    take_one,
)
from flask_delayq.backends import open_backend
from flask_delayq.backends.memory import MemoryBackend, rows, schedules
from flask_delayq.backends.memory.rows import Line
from flask_delayq.errors import BackendUnavailableError, ConfigurationError
from flask_delayq.job import (
    Claim,
    ClaimFor,
    JobQuery,
    JobState,
    NewJob,
    Outcome,
    ScheduleRecord,
    Verb,
)
from flask_delayq.testing import FakeClock

_numbers = itertools.count()


@pytest.fixture
def fresh(clock: FakeClock) -> Callable[[], MemoryBackend]:
    return lambda: MemoryBackend("memory://", clock=clock)


@pytest.fixture
def url() -> str:
    return f"memory://shared-{next(_numbers)}"


@pytest.fixture
def reopen(url: str, clock: FakeClock) -> Callable[[], MemoryBackend]:
    return lambda: MemoryBackend(url, clock=clock)


@pytest.fixture
def backend(reopen: Callable[[], MemoryBackend]) -> MemoryBackend:
    return reopen()


class TestMemory(BackendConformance, InspectableConformance, SchedulableConformance):
    """Everything the contract says."""


def test_it_is_opened_by_url() -> None:
    backend = open_backend("memory://")
    assert isinstance(backend, MemoryBackend)
    assert backend.url == "memory://"


@pytest.mark.parametrize("url", ["memory:///a", "memory://a/b", "memory://a?b=c", "memory:"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="memory://name"):
        open_backend(url)


def test_options_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="synchronous"):
        open_backend("memory://", synchronous="FULL")


def test_without_a_name_each_object_is_its_own_store(clock: FakeClock) -> None:
    first, second = (MemoryBackend("memory://", clock=clock) for _ in range(2))
    put(first, new("a"))
    assert take(second) == []


def test_a_shared_store_goes_with_its_last_object(clock: FakeClock) -> None:
    jobs = some(3)
    before = sys.getrefcount(jobs[0])
    first = MemoryBackend("memory://going", clock=clock)
    put(first, *jobs)
    take(first, 1)
    del first
    gc.collect()
    after = sys.getrefcount(jobs[0])  # not within the assert, which keeps a reference of its own
    assert after == before
    assert take(MemoryBackend("memory://going", clock=clock)) == []


@pytest.mark.parametrize("by", ["cancel", "purge"])
def test_cancelled_jobs_that_were_pruned_hold_no_memory(backend: MemoryBackend, by: str) -> None:
    put(backend, new("first"))
    for _ in range(10):
        jobs = some(100, run_at=NOW + 1e6)
        put(backend, *jobs)
        if by == "purge":
            backend.purge("default", now=NOW)
            put(backend, new("first"))
        else:
            for job in jobs:
                backend.cancel(job.id, now=NOW)
        backend.prune(finished_before=NOW + 1, failed_before=NOW, keep=None)
    (queue,) = backend._store.queues.values()
    assert sum(len(line._queue) + len(line._heap) for line in queue.all_lines()) < 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # other tests' threads may live on
def test_a_forked_child_has_an_empty_store_that_works(backend: MemoryBackend) -> None:
    put(backend, new("a"))
    with backend._store.lock:  # as another thread might hold it at this moment
        pid = os.fork()
        if pid == 0:
            ok = take(backend) == [] and put(backend, new("b"))[0].created and len(take(backend)) == 1
            os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(take(backend)) == 1


# --- code that comes in the middle: finalizers, signal handlers, exceptions from outside --------------


def test_a_use_inside_another_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = MemoryBackend("memory://", clock=FakeClock())
    refused: list[str | None] = []
    join = Line.join

    def finalize(*args: Any) -> None:
        with pytest.raises(BackendUnavailableError) as caught:
            backend.enqueue([new("inside")], now=NOW, timeout=5)
        refused.append(caught.value.reason)
        join(*args)

    monkeypatch.setattr(Line, "join", finalize)
    thread = threading.Thread(
        target=lambda: backend.enqueue([new("outside")], now=NOW, timeout=5), daemon=True
    )
    thread.start()
    thread.join(5)
    assert refused == ["locked"]
    assert backend.get("inside") is None
    assert backend.get("outside")


MEMORY = os.path.dirname(rows.__file__)


class TooLong(BaseException):
    """What a time limit throws into a thread."""


def strike(after: int, call: Callable[[], Any]) -> bool:
    """Throw TooLong where CPython delivers it: after the so-many-th call; whether there were so many."""
    left = after

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal left
        # No exception comes where `__enter__` returns, nor before a call of C.
        entered = event == "return" and frame.f_code.co_name == "__enter__"
        if event != "c_call" and not entered and MEMORY in frame.f_code.co_filename:
            left -= 1
            if left == 0:
                sys.setprofile(None)
                raise TooLong

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    except TooLong:
        return True
    finally:
        sys.setprofile(before)
    return False


@pytest.mark.parametrize("slots", [0, 3])
@pytest.mark.parametrize("many", [1, 3])
def test_an_enqueue_that_is_cut_off_stores_all_or_nothing_and_may_be_repeated(
    many: int, slots: int
) -> None:
    jobs = [new(f"j{n}") for n in range(many)]
    wish = ClaimFor("me", 60, slots)
    for point in count(1):
        backend = MemoryBackend("memory://", clock=FakeClock())
        struck = strike(
            point, lambda backend=backend: backend.enqueue(jobs, now=NOW, timeout=5, claim_for=wish)
        )
        assert len([job for job in jobs if backend.get(job.id)]) in (0, many)
        backend.enqueue(jobs, now=NOW, timeout=5)
        backend.withdraw("me")
        counts = backend.counts(now=NOW)
        assert (counts["ready"], counts["running"]) == (many, 0), point
        claims = backend.claim(None, now=NOW, limit=10, owner="other", lease=60)
        assert sorted(claim.id for claim in claims) == [job.id for job in jobs], point
        assert backend.counts(now=NOW)["ready"] == 0
        if not struck:
            assert point > 5
            break


def a_mixed_store() -> tuple[MemoryBackend, Claim]:
    """Jobs in every line, some that left theirs, and a claim that is held."""
    clock = FakeClock()
    backend = MemoryBackend("memory://", clock=clock)
    make_suspects(backend, clock, new("suspect", queue="b"))
    put(backend, new("dead"), new("interrupted"))
    take(backend, owner="dead", limit=1)
    end(backend, take_one(backend), Verb.INTERRUPT)
    clock.advance(LEASE)
    held = started(backend, "held")
    for job_id, verb in {"f": Verb.FAIL, "e": Verb.COMPLETE, "off": Verb.CANCEL}.items():
        end(backend, started(backend, job_id), verb)
    put(backend, new("a", priority=LOW), new("b", queue="b"), new("c"), new("d"), new("e2"))
    put(backend, new("left", priority=HIGH), new("left too"), new("delayed", run_at=NOW + 99))
    put(backend, new("ahead", run_at=NOW + 50, enqueued_at=NOW + 50))
    for job_id in ("left", "left too"):
        backend.cancel(job_id, now=NOW)
    return backend, held


MOVES: dict[str, Callable[[MemoryBackend, Claim], Any]] = {
    "claim": lambda b, _: b.claim(None, now=NOW, limit=2, owner="new", lease=60),
    "claim by task": lambda b, _: b.claim(None, now=NOW, limit=9, owner="new", lease=60, tasks=["t"]),
    "next_due": lambda b, _: b.next_due(None, owner="new", tasks=["t"]),
    "record": lambda b, held: b.record([Outcome(held, Verb.FAIL, NOW)], now=NOW),
    "retry": lambda b, held: b.record([Outcome(held, Verb.RETRY, NOW, NOW + 1)], now=NOW),
    "renew": lambda b, _: b.renew("me", [], lease=60),
    "rescue": lambda b, _: b.rescue(now=NOW, max_rescues=3),
    "withdraw": lambda b, _: b.withdraw("me"),
    "bring_forward": lambda b, _: b.bring_forward(now=NOW),
    "revive a failed one": lambda b, _: b.revive("f", run_at=NOW),
    "revive a cancelled one": lambda b, _: b.revive("left", run_at=NOW),
    "cancel": lambda b, _: b.cancel("a", now=NOW, reason="why"),
    "purge": lambda b, _: b.purge("default", now=NOW),
    "prune": lambda b, _: b.prune(finished_before=NOW + 1, failed_before=NOW + 1, keep=1),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_verb_that_is_cut_off_loses_no_job(name: str) -> None:
    for point in count(1):
        backend, held = a_mixed_store()
        before = {job.id for job in backend.list(JobQuery(limit=99), now=NOW)}
        struck = strike(point, lambda backend=backend, held=held: MOVES[name](backend, held))
        jobs = {job.id: job for job in backend.list(JobQuery(limit=99), now=NOW)}
        assert jobs.keys() == before or name == "prune", point
        assert backend.audit() == [], point
        states = Counter(job.state_at(NOW).value for job in jobs.values())
        assert backend.counts(now=NOW) == {state.value: states[state.value] for state in JobState}, point
        if struck and name.startswith("claim"):
            taken = [job_id for job_id, job in jobs.items() if job.owner == "new"]
            assert not taken or len(taken) >= 2, point
        for owner in ("me", "new", "dead"):
            backend.withdraw(owner)
        open_jobs = {job.id for job in jobs.values() if not job.stored.is_final}
        claims = [
            claim.id
            for owner in ("one", "two", "three")  # each may run one suspect
            for claim in backend.claim(None, now=NOW + 100, limit=99, owner=owner, lease=60)
        ]
        assert sorted(claims) == sorted(open_jobs), point
        if not struck:
            assert point > 5
            break


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_occurrence_that_is_cut_off_is_taken_once(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    clock = FakeClock()
    backend: Any = open_backend("memory://", clock=clock)
    now = clock.now()
    schedule = ScheduleRecord("s", "work", b"{}", b"{}", "default", 1, now)
    stored = backend.put_schedule(schedule)
    enqueue = schedules._enqueue

    def cut(*args: Any) -> Any:
        if when == "after":
            enqueue(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(schedules, "_enqueue", cut)
    with pytest.raises(KeyboardInterrupt):
        backend.fire(stored, NewJob("a", "work", "default", 1, now, now, b"{}"), next_due=now + 60)
    monkeypatch.undo()
    (again,) = backend.schedules()
    backend.fire(stored, NewJob("b", "work", "default", 1, now, now, b"{}"), next_due=now + 60)
    assert again.next_due == (now + 60 if when == "after" else now)
    assert [job.id for job in backend.list(JobQuery(), now=now)] == ["a" if when == "after" else "b"]
