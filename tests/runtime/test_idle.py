"""Threads that wait for items: the latest is woken first, and none sleeps while there is an item for it.

Must not know what an item is.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest

from flask_delayq.runtime.idle import IdleThreads
from flask_delayq.runtime.pool import WorkerPool
from waiting import wait_until

Item = Callable[[], Any]


@contextmanager
def pool_of(size: int) -> Iterator[WorkerPool[Item]]:
    def work(item: Item) -> None:
        item()
        pool.free(None)

    pool: WorkerPool[Item] = WorkerPool(size=size, work=work, on_free=lambda: None, name="idle")
    pool.start()
    wait_until(lambda: len(pool._idle.locks) == size, what="all wait")
    try:
        yield pool
    finally:
        pool.stop()
        assert pool.join(5.0)


def test_the_thread_that_worked_last_works_again() -> None:
    with pool_of(4) as pool:
        seen: list[int] = []
        for number in range(100):
            pool.put(lambda: seen.append(threading.get_ident()))
            wait_until(lambda number=number: len(seen) > number, what="it ran")
            wait_until(lambda: len(pool._idle.locks) == 4, what="it waits again")
        assert len(set(seen)) == 1


def test_items_that_are_put_at_once_run_side_by_side() -> None:
    with pool_of(4) as pool:
        for _ in range(50):
            together = threading.Barrier(5)
            for _ in range(4):
                pool.put(partial(together.wait, 5))
            together.wait(5)


def test_one_wake_up_is_enough_for_two_items() -> None:
    with pool_of(2) as pool:
        together = threading.Barrier(3)
        pool._items.extend([partial(together.wait, 5)] * 2)
        pool._idle.wake_one()  # the thread that is woken finds one more and wakes the other
        together.wait(5)


def test_an_item_whose_thread_was_cut_off_before_it_woke_anybody_runs_at_the_next_count() -> None:
    with pool_of(2) as pool:
        ran = threading.Event()
        pool._items.append(ran.set)
        assert not ran.is_set()
        pool.settle(0)
        assert ran.wait(5)


def test_a_thread_that_died_on_its_way_holds_nobody_up() -> None:
    with pool_of(2) as pool:
        dead = threading.Thread(target=lambda: None)
        dead.start()
        dead.join()
        pool._threads.append(dead)
        pool._idle.locks.append(threading.Lock())  # what it left: woken, and seen by nobody
        ran = threading.Event()
        pool.put(ran.set)
        assert not ran.is_set()
        assert pool.replace_dead() == 1
        assert ran.wait(5)
        wait_until(lambda: len(pool._idle.locks) == 3, what="all wait again")
        assert all(lock.locked() for lock in pool._idle.locks)


def test_a_thread_that_died_before_it_waited_keeps_nobody_from_ending() -> None:
    with pool_of(2) as pool:
        pool._idle.locks.append(locked := threading.Lock())
        locked.acquire()  # it hides those below it until somebody begins anew
        pool.stop()
        assert pool.join(5.0)


def test_a_thread_that_waits_again_while_all_are_woken_is_not_forgotten() -> None:
    idle = IdleThreads(deque())

    class Waiting:
        def release(self) -> None:
            with suppress(ValueError):
                idle.locks.remove(self)
            idle.locks.append(self)

    idle.locks.append(waiting := Waiting())
    idle.wake_all()
    assert idle.locks == [waiting]


def test_a_dead_thread_that_cannot_be_replaced_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise RuntimeError("can't start new thread")

    with pool_of(2) as pool:
        pool._threads.append(threading.Thread())
        pool._idle.locks.append(threading.Lock())
        ran = threading.Event()
        pool.put(ran.set)
        assert not ran.is_set()
        with monkeypatch.context() as patch:
            patch.setattr(pool, "_add_thread", refused)
            with pytest.raises(RuntimeError):
                pool.replace_dead()
        assert ran.wait(5)
        assert pool.replace_dead() == 1


def test_a_finalizer_in_the_middle_of_a_wait_may_put_an_item() -> None:
    with pool_of(1) as pool:
        ran = threading.Event()
        idle = pool._idle

        class Locks(list[Any]):
            def append(self, lock: Any) -> None:
                super().append(lock)
                idle.locks = real
                real.append(lock)
                pool.put(ran.set)

        real = idle.locks
        first = threading.Event()
        idle.locks = Locks(real)
        pool.put(first.set)
        assert first.wait(5) and ran.wait(5)


def test_no_item_waits_while_a_thread_does() -> None:
    """Many threads put items of which some take long: in the end all have run, however they raced."""
    with pool_of(8) as pool:
        rand, count = random.Random(4), threading.Semaphore(0)
        pauses = [rand.random() < 0.02 for _ in range(4000)]
        held = threading.Event()

        def put(numbers: range) -> None:
            for number in numbers:
                pool.put(lambda: count.release())
                if pauses[number]:
                    idle = threading.Event()
                    pool.put(idle.set)
                    assert idle.wait(5)

        threads = [threading.Thread(target=put, args=(range(n, 4000, 4),)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        for _ in range(4000):
            assert count.acquire(timeout=5)
        # Seven of eight stand still: whatever is put now is run by the last one.
        for _ in range(7):
            begun = threading.Event()
            pool.put(lambda begun=begun: (begun.set(), held.wait(10)))
            assert begun.wait(5)
        for _ in range(100):
            done = threading.Event()
            pool.put(done.set)
            assert done.wait(5)
        held.set()
