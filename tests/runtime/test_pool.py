"""Worker threads and their places: never more handed out than there are, none lost, no thread missing.

Must not know jobs; an item is a number or a function.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_delayq.runtime.pool import PREFETCH_MOST, WorkerPool
from pace import quiet_seconds
from runtime_parts import finish
from waiting import wait_until


class Thing:
    """Something that can be referred to weakly."""


class Rig:
    """A pool whose items are functions, called by its threads."""

    def __init__(self, size: int) -> None:
        self.freed = 0
        self.seconds = 1.0
        self.pool: WorkerPool[Callable[[], Any]] = WorkerPool(
            size=size, work=self.work, on_free=self.on_free, name="rig"
        )

    def work(self, item: Callable[[], Any]) -> None:
        try:
            item()
        finally:
            finish(self.pool, self.seconds)

    def on_free(self) -> None:
        self.freed += 1

    def hand_over(self, item: Callable[[], Any]) -> None:
        assert self.pool.reserve(1) == 1
        self.pool.put(item)


LONG = 5.0


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(2)
    rig.pool.start()
    yield rig
    rig.pool.stop()
    assert rig.pool.join(LONG)


def end(rig: Rig) -> None:
    rig.pool.stop()
    assert rig.pool.join(LONG)


# --- places -------------------------------------------------------------------------------------


def test_places_are_as_many_as_workers_at_first() -> None:
    pool = Rig(3).pool
    assert (pool.places, pool.busy) == (3, 0)
    assert pool.reserve(2) == 2
    assert pool.reserve(5) == 1
    assert pool.reserve(1) == 0
    assert pool.busy == 3


@pytest.mark.parametrize("wanted", [0, -1, -100])
def test_reserving_nothing_takes_nothing(wanted: int) -> None:
    pool = Rig(3).pool
    assert pool.reserve(wanted) == 0
    assert pool.busy == 0


def test_places_given_back_can_be_reserved_again() -> None:
    pool = Rig(2).pool
    assert pool.reserve(2) == 2
    pool.give_back(1)
    assert pool.reserve(2) == 1
    finish(pool, 1.0)
    finish(pool, 1.0)
    assert pool.busy == 0


def test_short_items_make_places_for_more_and_long_ones_take_them_back() -> None:
    pool = Rig(2).pool
    for _ in range(200):
        assert pool.reserve(1) == 1
        finish(pool, 0.00001)
    assert pool.places == 2 + PREFETCH_MOST
    assert pool.reserve(10_000) == 2 + PREFETCH_MOST
    for _ in range(200):
        finish(pool, 1.0)
    assert pool.places == 2
    assert pool.reserve(1) == 0, "more are taken than there are now"


def test_prefetching_stops_when_items_waited_too_long() -> None:
    pool = Rig(2).pool
    for _ in range(200):
        pool.reserve(1)
        finish(pool, 0.0001)
    pool.stop_prefetching()
    assert pool.places == 2
    pool.reserve(1)
    finish(pool, 0.0001)
    assert pool.places == 2


def test_places_that_were_taken_when_prefetching_stopped_do_not_come_back() -> None:
    pool = Rig(2).pool
    for _ in range(200):
        pool.reserve(1)
        finish(pool, 0.00001)
    taken = pool.reserve(10_000)
    assert taken > 100
    pool.stop_prefetching()
    pool.give_back(taken - 3)
    assert pool.reserve(10_000) == 0, "three are still taken, and there are two"
    finish(pool, 1.0)
    assert pool.reserve(1) == 0
    finish(pool, 1.0)
    assert pool.reserve(10_000) == 1
    assert pool.busy == 2


def test_no_place_is_lost_or_made_by_threads_that_race() -> None:
    pool = Rig(4).pool
    most: list[int] = []
    start = threading.Barrier(4)

    def churn() -> None:
        start.wait(5)
        for turn in range(2000):
            granted = pool.reserve(turn % 3 + 1)
            most.append(pool.busy)
            if granted:
                pool.give_back(granted - 1)
                finish(pool, 1.0)

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert pool.busy == 0
    assert max(most) <= 4


# --- threads ------------------------------------------------------------------------------------


def test_every_item_is_worked_on_once(rig: Rig) -> None:
    done: list[int] = []
    for number in range(200):
        wait_until(lambda: rig.pool.reserve(1), what="a free place")
        rig.pool.put(lambda number=number: done.append(number))  # type: ignore[misc]
    wait_until(lambda: rig.pool.busy == 0, what="all are done")
    assert sorted(done) == list(range(200))


def test_as_many_work_at_once_as_there_are_workers() -> None:
    rig = Rig(3)
    rig.pool.start()
    together = threading.Barrier(4)
    for _ in range(3):
        rig.hand_over(lambda: together.wait(5))
    together.wait(5)
    wait_until(lambda: rig.pool.busy == 0, what="all are done")
    assert len(rig.pool.threads) == 3
    assert {thread.name.rpartition("-")[0] for thread in rig.pool.threads} == {"rig-worker"}
    assert all(thread.daemon for thread in rig.pool.threads)
    end(rig)


@pytest.mark.parametrize("hungry", [True, False])
def test_it_tells_of_free_places_only_when_somebody_wants_them(rig: Rig, hungry: bool) -> None:
    rig.pool.hungry = hungry
    rig.hand_over(lambda: None)
    wait_until(lambda: rig.pool.busy == 0, what="it is done")
    end(rig)
    assert bool(rig.freed) is hungry


def test_it_tells_when_a_worker_has_nothing_to_do() -> None:
    rig = Rig(4)
    rig.pool.hungry = True
    assert rig.pool.reserve(4) == 4
    finish(rig.pool, 1.0)
    assert rig.freed == 1, "three long items must not hold up the short ones of the fourth worker"


def test_it_tells_when_half_of_the_places_are_free_and_not_before() -> None:
    rig = Rig(2)
    for _ in range(200):
        rig.pool.reserve(1)
        finish(rig.pool, 0.00001)
    places = rig.pool.places
    assert rig.pool.reserve(10_000) == places
    rig.pool.hungry = True
    for _ in range(places // 2 - 1):
        finish(rig.pool, 0.00001)
    assert rig.freed == 0
    finish(rig.pool, 0.00001)
    assert rig.freed == 1


def test_an_idle_worker_keeps_nothing_of_its_last_item(rig: Rig) -> None:
    thing = Thing()
    alive = weakref.ref(thing)
    worked = threading.Event()

    def item(thing: Thing = thing) -> None:
        worked.set()

    rig.hand_over(item)
    assert worked.wait(5)
    del item, thing
    gc.collect()
    wait_until(lambda: alive() is None, what="the item is forgotten")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_died_is_replaced(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def kill() -> None:
        raise SystemExit

    for _ in range(2):
        rig.hand_over(kill)
    wait_until(lambda: not any(t.is_alive() for t in rig.pool.threads), what="both are dead")
    assert rig.pool.replace_dead() == 2
    assert rig.pool.replace_dead() == 0
    done = threading.Event()
    rig.hand_over(done.set)
    assert done.wait(5)
    assert len(rig.pool.threads) == 2
    assert len(caplog.records) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_where_threads_are_short_the_dead_are_replaced_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.hand_over(lambda: (_ for _ in ()).throw(SystemExit))
    wait_until(lambda: sum(t.is_alive() for t in rig.pool.threads) == 1, what="one is dead")
    with monkeypatch.context() as patch:

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            rig.pool.replace_dead()
    assert rig.pool.replace_dead() == 1
    assert all(thread.is_alive() for thread in rig.pool.threads)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_is_known_before_it_takes_an_item(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who works and is not known is taken for dead, and its job for ended."""
    rig.hand_over(lambda: (_ for _ in ()).throw(SystemExit))
    wait_until(lambda: sum(t.is_alive() for t in rig.pool.threads) == 1, what="one is dead")
    known: list[bool] = []
    start = threading.Thread.start

    def look_and_start(thread: threading.Thread) -> None:
        known.append(thread in rig.pool.threads)
        rig.pool.stop()
        rig.pool.join(0.0)  # which finds one that has not begun
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", look_and_start)
    assert rig.pool.replace_dead() == 1
    assert known == [True]


# --- stopping -----------------------------------------------------------------------------------


def test_stop_lets_items_under_way_end_and_grants_no_more_places() -> None:
    rig = Rig(1)
    rig.pool.start()
    inside, go_on = threading.Event(), threading.Event()

    def item() -> None:
        inside.set()
        assert go_on.wait(5)

    rig.hand_over(item)
    assert inside.wait(5)
    rig.pool.stop()
    rig.pool.stop()
    assert rig.pool.reserve(1) == 0
    assert not rig.pool.join(0.0), "the deadline is over and it still works"
    go_on.set()
    assert rig.pool.join(LONG)
    assert rig.pool.busy == 0


def test_what_was_handed_over_before_the_stop_is_worked_on() -> None:
    rig = Rig(1)
    done: list[int] = []
    for number in range(5):
        rig.pool.reserve(1)
        rig.pool.put(lambda number=number: done.append(number))  # type: ignore[misc]
    rig.pool.stop()
    rig.pool._add_thread()
    assert rig.pool.join(LONG)
    assert done == [0, 1, 2, 3, 4]


def test_a_thread_that_is_made_while_the_pool_stops_ends_as_well() -> None:
    rig = Rig(2)
    rig.pool.start()
    rig.pool.stop()
    rig.pool._add_thread()
    assert rig.pool.join(LONG)
    assert rig.pool.replace_dead() == 0, "nobody is missed after the stop"


def test_join_from_a_worker_does_not_wait_for_itself() -> None:
    rig = Rig(1)
    rig.pool.start()
    answers: list[bool] = []

    def item() -> None:
        rig.pool.stop()
        answers.append(rig.pool.join(LONG))

    began = time.monotonic()
    rig.hand_over(item)
    assert rig.pool.join(LONG)
    assert answers == [False] and quiet_seconds(began) < 4


def test_a_thread_that_is_just_beginning_is_not_joined() -> None:
    """CPython gives it its ident before it says that it has started; `join` refuses it in between."""
    rig = Rig(1)
    beginning = threading.Thread()
    beginning._ident = -1  # type: ignore[attr-defined]
    rig.pool._threads.append(beginning)
    assert rig.pool.join(0.0)


def test_a_thread_whose_start_was_cut_off_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython goes on listing it, though it never began."""
    rig = Rig(1)
    never = threading.Thread()
    monkeypatch.setitem(threading._limbo, never, never)  # type: ignore[attr-defined]
    rig.pool._threads.append(never)
    assert never in threading.enumerate()
    assert rig.pool.living() == []
    assert rig.pool.join(3600)
