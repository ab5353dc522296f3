"""The clock that stands still: what moves it, how far, and who hears of it.
Must not know who reads it."""

from __future__ import annotations

import threading
from datetime import datetime, timezone

import pytest

from flask_delayq.testing import FakeClock


def test_it_stands_still_until_it_is_moved() -> None:
    clock = FakeClock(now=100.0)
    before = clock.monotonic()
    assert (clock.now(), clock.now()) == (100.0, 100.0)
    clock.advance(2.5)
    assert (clock.now(), clock.monotonic()) == (102.5, before + 2.5)


def test_only_the_wall_steps() -> None:
    clock = FakeClock(now=100.0)
    before = clock.monotonic()
    clock.step_wall(-3600)
    assert (clock.now(), clock.monotonic()) == (-3500.0, before)


def test_time_does_not_go_back() -> None:
    clock = FakeClock(now=100.0)
    with pytest.raises(ValueError, match="step_wall"):
        clock.advance(-1)
    assert clock.now() == 100.0


def test_many_small_steps_end_where_one_large_step_does() -> None:
    small, large = FakeClock(), FakeClock()
    for _ in range(10_000):
        small.advance(0.1)
    large.advance(1000)
    assert (small.now(), small.monotonic()) == (large.now(), large.monotonic())


def test_it_begins_at_an_aware_datetime() -> None:
    assert FakeClock(datetime(2030, 1, 1, tzinfo=timezone.utc)).now() == 1893456000.0
    with pytest.raises(ValueError, match="naive"):
        FakeClock(datetime(2030, 1, 1))


def test_listeners_hear_of_each_change_when_it_is_done() -> None:
    clock = FakeClock(now=100.0)
    heard: list[float] = []
    clock.listeners.append(lambda: heard.append(clock.now()))
    clock.advance(1)
    clock.step_wall(-5)
    assert heard == [101.0, 96.0]


def test_no_step_is_lost_between_threads() -> None:
    clock = FakeClock(now=0)

    def advance() -> None:
        for _ in range(500):
            clock.advance(1)

    threads = [threading.Thread(target=advance) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.now() == 2000.0
