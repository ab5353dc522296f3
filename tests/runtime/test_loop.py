"""A loop turn by turn: when the next one comes, what failing does to it, and that no wake is lost.

Must not know what a turn does in the runtime.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from flask_delayq.clock import SystemClock
from flask_delayq.errors import BackendUnavailableError
from flask_delayq.runtime.loop import HURRIED_PAUSE, LONGEST_PAUSE, REMIND_EVERY, Loop
from flask_delayq.testing import FakeClock
from pace import quiet_seconds
from waiting import wait_until

LOG = "flask_delayq.runtime.loop"


@contextmanager
def running(loop: Loop) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=loop.run, name="loop-under-test")
    thread.start()
    try:
        yield thread
    finally:
        loop.stop()
        thread.join(5)
        assert not thread.is_alive()


class Turns:
    """Counts turns; lets a test wait for the n-th, and hold one in the middle."""

    def __init__(self, pause: float | None = None) -> None:
        self.pause = pause
        self.moments: list[float] = []
        self.inside = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, now: float) -> float | None:
        self.moments.append(now)
        self.inside.set()
        assert self.go_on.wait(5)
        return self.pause

    def reach(self, count: int) -> None:
        wait_until(lambda: len(self.moments) >= count, what=f"turn {count}")


def test_it_turns_at_once_and_then_waits_until_woken() -> None:
    clock, turns = FakeClock(now=1000.0), Turns()
    with running(loop := Loop("it", turns, clock)):
        turns.reach(1)
        clock.advance(5)
        loop.wake()
        turns.reach(2)
    assert turns.moments == [1000.0, 1005.0]


def test_it_turns_again_when_the_pause_is_over() -> None:
    turns = Turns(pause=0.001)
    with running(Loop("it", turns, FakeClock())):
        turns.reach(5)


@pytest.mark.parametrize("pause", [0.0, -1.0])
def test_no_pause_means_at_once(pause: float) -> None:
    turns = Turns(pause=pause)
    with running(Loop("it", turns, FakeClock())):
        turns.reach(50)


def test_a_wake_during_a_turn_is_not_lost() -> None:
    turns = Turns()
    turns.go_on.clear()
    with running(loop := Loop("it", turns, FakeClock())):
        assert turns.inside.wait(5)
        loop.wake()
        loop.wake()
        turns.go_on.set()
        turns.reach(2)
    assert len(turns.moments) == 2, "wakes that come together are answered together"


def test_what_asks_for_a_turn_before_it_begins_costs_no_further_one() -> None:
    turns = Turns()
    loop = Loop("it", turns, FakeClock())
    loop.wake()
    with running(loop):
        turns.reach(1)
        loop.wake()
        turns.reach(2)
    assert len(turns.moments) == 2


def test_no_wake_is_lost_however_threads_race() -> None:
    """Every wake is followed by a turn that begins after it."""
    seen = 0
    wanted = 0
    turned = threading.Event()

    def turn(now: float) -> None:
        nonlocal seen
        seen = wanted
        turned.set()

    loop = Loop("it", turn, FakeClock())
    with running(loop):
        for number in range(1, 2000):
            wanted = number
            loop.wake()
            while seen < number:
                assert turned.wait(5), f"the wake {number} was lost"
                turned.clear()


def test_stop_ends_a_waiting_loop_at_once() -> None:
    turns = Turns()
    loop = Loop("it", turns, FakeClock())
    with running(loop) as thread:
        turns.reach(1)
        loop.stop()
        thread.join(5)
        assert not thread.is_alive()
    assert len(turns.moments) == 1


def test_a_stop_right_before_a_turn_ends_the_loop_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn forgets the wake-ups that came before it, and that of the stop is one of them."""
    turns = Turns()
    loop = Loop("it", turns, FakeClock())
    hush = loop._bell.hush

    def stopped_meanwhile() -> None:
        loop.stop()
        hush()

    monkeypatch.setattr(loop._bell, "hush", stopped_meanwhile)
    with running(loop) as thread:
        thread.join(5)
        assert not thread.is_alive()
    assert len(turns.moments) == 1


def test_stop_during_a_turn_lets_it_end_and_begins_no_other() -> None:
    turns = Turns(pause=0.0)
    turns.go_on.clear()
    loop = Loop("it", turns, FakeClock())
    with running(loop) as thread:
        assert turns.inside.wait(5)
        loop.stop()
        loop.wake()
        assert thread.is_alive()
        turns.go_on.set()
        thread.join(5)
        assert not thread.is_alive()
    assert len(turns.moments) == 1


def test_a_stopped_loop_does_not_turn() -> None:
    turns = Turns()
    loop = Loop("it", turns, FakeClock())
    loop.stop()
    loop.run()
    assert turns.moments == []


# --- failing ------------------------------------------------------------------------------------


def failing(error: Callable[[], BaseException]) -> Callable[[float], None]:
    def turn(now: float) -> None:
        raise error()

    return turn


def test_a_turn_that_raises_is_tried_again_later_and_later() -> None:
    loop = Loop("it", failing(lambda: ValueError("no")), FakeClock())
    pauses = [loop._one_turn() for _ in range(1500)]
    assert pauses[:8] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_PAUSE, LONGEST_PAUSE]
    assert set(pauses[8:]) == {LONGEST_PAUSE}


def test_being_woken_does_not_shorten_the_pause_after_a_failure() -> None:
    """A store that is away is not asked again for every job that somebody wants to run."""
    turns: list[float] = []

    def turn(now: float) -> None:
        turns.append(time.monotonic())
        raise BackendUnavailableError("away", reason="locked")

    loop = Loop("it", turn, FakeClock())
    with running(loop):
        wait_until(lambda: turns, what="the first turn")
        loop.wake()
        wait_until(lambda: len(turns) == 2, what="the second try")
    assert turns[1] - turns[0] >= 0.1, "the pause after one failure"


def test_who_waits_for_it_ends_the_pause_after_failures_and_keeps_further_ones_short() -> None:
    turns: list[float] = []

    def turn(now: float) -> None:
        turns.append(time.monotonic())
        raise BackendUnavailableError("away", reason="locked")

    loop = Loop("it", turn, SystemClock())
    loop._failures = 6  # the next pauses are 5 s each
    with running(loop):
        wait_until(lambda: turns, what="the first turn")
        loop.wake()
        loop.hurry()
        wait_until(lambda: len(turns) >= 4, what="three more tries")
    assert quiet_seconds(turns[0]) < 4
    assert turns[3] - turns[2] >= HURRIED_PAUSE * 0.9, "it is no busy loop"


def test_while_it_fails_it_says_why_and_afterwards_no_more(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    broken = True

    def turn(now: float) -> float:
        if broken:
            raise BackendUnavailableError("the file is locked", reason="locked")
        return 7.0

    loop = Loop("recorder", turn, clock)
    started = loop.turned_at
    clock.advance(1)
    for _ in range(3):
        loop._one_turn()
    assert loop.failing == "BackendUnavailableError: the file is locked"
    assert loop.turned_at == started, "a turn that fails is no progress"
    broken = False
    assert loop._one_turn() == 7.0
    assert loop.failing is None
    assert loop.turned_at == clock.monotonic()
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("ERROR", "recorder failed: BackendUnavailableError: the file is locked"),
        ("WARNING", "recorder works again after 3 failed turns"),
    ]
    assert caplog.records[0].exc_info is None


def test_after_a_good_turn_the_pauses_begin_anew() -> None:
    answers: list[Exception | None] = [ValueError(), ValueError(), None, ValueError()]

    def turn(now: float) -> float:
        if (answer := answers.pop(0)) is not None:
            raise answer
        return 3.0

    loop = Loop("it", turn, FakeClock())
    assert [loop._one_turn() for _ in range(4)] == [0.1, 0.2, 3.0, 0.1]


def test_the_same_reason_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    loop = Loop("it", failing(lambda: ValueError("no")), clock)
    loop._one_turn()
    clock.advance(REMIND_EVERY - 0.001)
    loop._one_turn()
    assert len(caplog.records) == 1
    clock.advance(0.001)
    loop._one_turn()
    assert len(caplog.records) == 2


def test_another_reason_is_logged_at_once(caplog: pytest.LogCaptureFixture) -> None:
    reasons = ["a", "b", "b"]
    loop = Loop("it", failing(lambda: ValueError(reasons.pop(0))), FakeClock())
    for _ in range(3):
        loop._one_turn()
    assert [record.getMessage() for record in caplog.records] == [
        "it failed: ValueError: a",
        "it failed: ValueError: b",
    ]


def test_a_mistake_of_ours_comes_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    Loop("it", failing(lambda: KeyError("oops")), FakeClock())._one_turn()
    (record,) = caplog.records
    assert record.name == LOG and record.levelno == logging.ERROR
    assert record.exc_info is not None and record.exc_info[0] is KeyError


def test_a_finalizer_that_runs_inside_it_may_wake_it() -> None:
    turns = Turns()
    loop = Loop("it", turns, FakeClock())
    bell = loop._bell

    lock = bell._lock

    class Interrupted:
        acquire, release = lock.acquire, lock.release

        def locked(self) -> bool:
            bell._lock = lock
            loop.wake()
            return True

    with running(loop):
        turns.reach(1)
        bell._lock = Interrupted()  # type: ignore[assignment]
        loop.wake()
        turns.reach(2)
