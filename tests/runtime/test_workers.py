"""A worker that is hit from outside in the middle of its own lines: no claim, place or end is lost.

Libraries that limit the time of a call throw an exception into the thread and may come too late. Where
CPython delivers one (after a call, at the beginning of a function, at the end of a loop), each of these
tests throws one, in every such instant in turn.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import pytest

from flask_delayq.backends import open_backend
from flask_delayq.config import Settings
from flask_delayq.job import Claim, JobQuery, Outcome, StoredState
from flask_delayq.options import declare_task
from flask_delayq.runtime import executor, held, pool, recorder, workers
from flask_delayq.runtime.executor import Executor
from flask_delayq.runtime.held import HeldClaim, HeldClaims
from flask_delayq.runtime.recorder import Recorder
from flask_delayq.runtime.workers import Workers
from flask_delayq.task import Task, TaskRegistry
from flask_delayq.testing import FakeClock
from thrower import Thrower, instants

FILES = {module.__file__ for module in (held, executor, pool, recorder, workers)}


class Rig:
    """Workers without threads, on a store in memory."""

    def __init__(self) -> None:
        self.clock = FakeClock(now=1_800_000_000.0)
        self.settings = Settings(url="memory://", workers=2)
        self.backend: Any = open_backend("memory://", clock=self.clock)
        self.registry = TaskRegistry()
        self.claims = HeldClaims()
        self.recorded: list[Outcome] = []
        self.recorder = Recorder(
            backend=self.backend,
            clock=self.clock,
            claims=self.claims,
            on_recorded=self._on_recorded,
            wake=lambda: None,
        )
        self.workers = Workers(
            size=2,
            executor=Executor(
                registry=self.registry,
                backend=self.backend,
                settings=self.settings,
                clock=self.clock,
                scope=nullcontext,
                sender=self,
            ),
            claims=self.claims,
            recorder=self.recorder,
            clock=self.clock,
            freshness=10.0,
            on_free=lambda: None,
        )
        self.ran = 0
        self.registry.add(Task(self._run, declare_task("work"), lambda: None))  # type: ignore[arg-type, return-value]

    def _on_recorded(self, outcomes: Sequence[Outcome]) -> bool:
        self.recorded.extend(outcomes)
        return False

    def _run(self) -> int:
        self.ran += 1
        return 7

    def handed_over(self, name: str = "a") -> HeldClaim:
        """A claim on its way to a worker, its place taken."""
        from flask_delayq.job import NewJob

        now = self.clock.now()
        self.backend.enqueue([NewJob(name, "work", "default", 1, now, now, b"{}")], now=now, timeout=5)
        (claim,) = self.backend.claim(None, now=now, limit=1, owner="me", lease=60)
        assert self.workers.pool.reserve(1) == 1
        held = HeldClaim(claim, None, self.clock.monotonic(), self.clock.monotonic())
        self.claims.add(held)
        return held

    def work(self, held: HeldClaim, thrower: Thrower) -> None:
        """In a thread of its own: a worker dies of what it does not catch."""
        thrower.run(lambda: self.workers._work(held))

    def tidy(self) -> None:
        """What the dispatcher, the maintenance and the recorder do next."""
        self.workers.settle_dead()
        withdrawn = self.claims.withdraw(float("inf"))
        if withdrawn:
            self.workers.pool.give_back(len(withdrawn))
        self.recorder.turn(self.clock.now())


def work_once(thrower: Thrower) -> None:
    rig = Rig()
    rig.work(rig.handed_over(), thrower)


def test_whenever_an_exception_strikes_no_claim_and_no_place_is_lost() -> None:
    among = instants(work_once, FILES)
    assert among > 40
    ends, struck = set(), 0
    for nth in range(among):
        rig = Rig()
        thrower = Thrower(nth, FILES)
        rig.work(rig.handed_over(), thrower)
        struck += thrower.has_thrown
        rig.tidy()
        assert rig.workers.pool.busy == 0, nth
        assert rig.workers.pool.reserve(99) == rig.workers.pool.places == 2, nth
        (record,) = rig.backend.list(JobQuery(), now=rig.clock.now())
        ends.add(record.stored)
        assert len(rig.recorded) <= 1, nth
        if rig.claims.withdraw(float("inf")) or record.stored is StoredState.RUNNING:
            assert not rig.ran, f"{nth}: begun, and nothing says how it ended"
        assert rig.claims.held() == [], nth
        assert rig.ran or record.stored is not StoredState.COMPLETED, nth
    assert {StoredState.COMPLETED, StoredState.FAILED} <= ends
    # CPython 3.13 does not trace every step of every call.
    assert struck == among or (sys.version_info >= (3, 13) and struck >= 20)


@pytest.mark.parametrize("withdrawn", [False, True])
def test_a_thread_that_died_before_its_job_began_leaves_it_to_whoever_withdraws_it(
    withdrawn: bool,
) -> None:
    rig = Rig()
    held = rig.handed_over()
    rig.claims.working[1] = held  # its first step, in a thread that is no more
    if withdrawn:
        assert rig.claims.withdraw(float("inf")) == [held.claim]
        rig.workers.pool.give_back(1)
    rig.workers.settle_dead()
    assert rig.claims.working == {}
    assert rig.workers.pool.busy == (0 if withdrawn else 1)


def test_a_thread_that_is_given_the_ident_of_a_dead_one_ends_what_that_left() -> None:
    """It died after the others were settled; to whoever looks it is alive again."""
    rig = Rig()
    held = rig.handed_over()
    rig.workers.pool.stop()

    def run() -> None:
        ident = threading.get_ident()
        assert rig.claims.begin(held, rig.workers._executor.start(held.claim), ident)
        held.begun = True
        rig.workers.pool._run()  # here the new thread begins; it ends as there is nothing to do

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert (rig.claims.working, rig.workers.pool.busy) == ({}, 0)
    rig.recorder.turn(rig.clock.now())
    (record,) = rig.backend.list(JobQuery(), now=rig.clock.now())
    assert (record.stored, rig.ran) == (StoredState.FAILED, 0)


def test_a_thread_that_begins_while_the_dead_are_counted_is_none_of_them() -> None:
    """One replaces a dead thread while a stop settles what the dead have left."""
    rig = Rig()
    ident = threading.get_ident()

    class Threads(list[threading.Thread]):
        def __iter__(self) -> Iterator[threading.Thread]:
            threads = list(super().__iter__())  # before it begins
            held = rig.handed_over()
            rig.claims.begin(held, rig.workers._executor.start(held.claim), ident)
            return iter(threads)

    rig.workers.pool._threads = Threads()
    rig.workers.settle_dead()
    assert rig.recorder.backlog == 0 and ident in rig.claims.working


def test_a_thread_with_the_ident_of_one_that_ended_well_is_not_dead() -> None:
    """It ends while the dead are counted, and the next thread gets its ident and a job."""
    rig = Rig()
    first, second = rig.handed_over("a"), rig.handed_over("b")
    rig.claims.working[1] = first

    class Threads(list[threading.Thread]):
        def __iter__(self) -> Iterator[threading.Thread]:
            rig.claims.working[1] = second
            return super().__iter__()

    rig.workers.pool._threads = Threads()
    rig.workers.settle_dead()
    assert rig.recorder.backlog == 0 and rig.claims.working == {1: second}


def test_a_worker_that_was_taken_for_dead_frees_no_place_twice() -> None:

    class Settled(Rig):
        def _run(self) -> int:
            self.workers.settle_dead()  # of whose threads this is none
            return super()._run()

    rig = Settled()
    rig.workers._work(rig.handed_over())
    assert (rig.ran, rig.claims.working, rig.workers.pool.busy) == (1, {}, 0)


class Marks:
    """Notes which claims are marked as begun, and what happens meanwhile."""

    def __init__(self, rig: Rig, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.marked: list[str] = []
        self._meanwhile = meanwhile
        rig.backend.mark_begun = self._mark
        rig.backend.unmark_begun = lambda claim: self.marked.remove(claim.id)

    def _mark(self, claim: Claim) -> None:
        self._meanwhile()
        self.marked.append(claim.id)


def test_a_claim_is_marked_before_it_begins() -> None:
    rig = Rig()
    marks = Marks(rig, meanwhile=lambda: seen.append(rig.ran))
    seen: list[int] = []
    rig.workers._work(rig.handed_over())
    assert (marks.marked, seen, rig.ran) == (["a"], [0], 1)


@pytest.mark.parametrize("stood_still", [10.0, 10.001])
def test_a_thread_that_stood_still_before_its_mark_begins_nothing(stood_still: float) -> None:
    """Who took the job back meanwhile has seen no mark, and lets it run elsewhere."""
    rig = Rig()
    marks = Marks(rig, meanwhile=lambda: rig.clock.advance(stood_still))
    held = rig.handed_over()
    rig.workers._work(held)
    if stood_still == 10.0:
        assert (marks.marked, rig.ran) == (["a"], 1)
        return
    assert (marks.marked, rig.ran) == ([], 0), "a kill now charges nothing"
    assert rig.claims.withdraw(float("inf")) == [held.claim], "it is given back"


@pytest.mark.parametrize("why", ["too old", "closed", "withdrawn"])
def test_what_must_not_begin_is_never_marked(why: str) -> None:
    """A process that stood still refuses all that it had claimed; a kill then charges none."""
    rig = Rig()
    seen: list[str] = []
    marks = Marks(rig, meanwhile=lambda: seen.append("a"))
    held = rig.handed_over()
    if why == "too old":
        rig.clock.advance(10.001)
    elif why == "closed":
        rig.claims.close()
    else:
        rig.claims.withdraw(float("inf"))
    rig.workers._work(held)
    assert (seen, marks.marked, rig.ran) == ([], [], 0)


def test_a_claim_withdrawn_while_it_is_marked_keeps_no_mark() -> None:
    rig = Rig()
    marks = Marks(rig, meanwhile=lambda: rig.claims.withdraw(float("inf")))
    rig.workers._work(rig.handed_over())
    assert (marks.marked, rig.ran) == ([], 0)
