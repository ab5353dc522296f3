"""The timing wheel: nothing early, nothing lost, everything in order, whatever was cancelled or moved.

Needs no clock: every moment is an argument.
"""

from __future__ import annotations

import math
import random
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flask_delayq.runtime import wheel as wheel_module
from flask_delayq.runtime.wheel import TimingWheel

NOW = 1_700_000_000.3
TEN_YEARS = 10 * 365.25 * 86400

BORDERS = [math.floor(NOW / width + 1) * width for width in (2.0**16, 256.0, 1.0, 2.0**-8, 2.0**-16)]
"""The first moment after NOW at which a slot begins, for each width of slots."""


def before(moment: float) -> float:
    return math.nextafter(moment, -math.inf)


def after(moment: float) -> float:
    return math.nextafter(moment, math.inf)


class Naive:
    """What a wheel must do, in the plainest way."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[float, int]] = {}
        self.adds = 0

    def add(self, key: str, due: float) -> None:
        self.adds += 1
        self.entries[key] = (due, self.adds)

    def cancel(self, key: str) -> bool:
        return self.entries.pop(key, None) is not None

    def due(self, key: str) -> float | None:
        return self.entries[key][0] if key in self.entries else None

    def earliest(self) -> float | None:
        return min(self.entries.values())[0] if self.entries else None

    def advance(self, now: float, limit: int | None = None) -> list[tuple[float, str]]:
        ready = sorted((due, add, key) for key, (due, add) in self.entries.items() if due <= now)
        taken = [(due, key) for due, _, key in ready[:limit]]
        for _, key in taken:
            del self.entries[key]
        return taken


def keys(taken: list[tuple[float, str]]) -> list[str]:
    return [key for _, key in taken]


def crowd(wheel: TimingWheel, due: float, step: float, count: int = 2000) -> list[str]:
    """Entries enough to divide slots."""
    names = [f"crowd-{n}" for n in range(count)]
    for n, name in enumerate(names):
        wheel.add(name, due + n * step)
    return names


# Examples


def test_an_empty_wheel_has_nothing_to_say() -> None:
    wheel = TimingWheel()
    assert len(wheel) == 0
    assert "a" not in wheel
    assert wheel.due("a") is None
    assert wheel.next_due() is None
    assert wheel.advance(NOW + TEN_YEARS) == []
    assert not wheel.cancel("a")


def test_entries_come_out_when_due_and_in_order() -> None:
    wheel = TimingWheel()
    wheel.add("late", NOW + 3600)
    wheel.add("soon", NOW + 0.5)
    wheel.add("later", NOW + 90000)
    assert len(wheel) == 3
    assert "soon" in wheel
    assert wheel.next_due() == wheel.due("soon") == NOW + 0.5
    assert wheel.advance(NOW + 3600) == [(NOW + 0.5, "soon"), (NOW + 3600, "late")]
    assert len(wheel) == 1
    assert "soon" not in wheel
    assert wheel.due("soon") is None
    assert wheel.advance(NOW + 3600) == []
    assert wheel.advance(NOW + 90000) == [(NOW + 90000, "later")]


def test_the_same_moment_keeps_the_order_of_adds() -> None:
    wheel = TimingWheel()
    names = [f"{n:05}" for n in range(20_000)]
    random.Random(1).shuffle(names)
    for name in names:
        wheel.add(name, NOW + 1)
    taken = keys(wheel.advance(NOW + 1, 7))
    wheel.add("last", NOW + 1)
    while batch := wheel.advance(NOW + 1, 999):
        taken += keys(batch)
    assert taken == [*names, "last"]


def test_rescheduling_moves_earlier_and_later() -> None:
    wheel = TimingWheel()
    wheel.add("a", NOW + 10)
    wheel.add("b", NOW + 20)
    wheel.add("a", NOW + 30)
    wheel.add("b", NOW + 5)
    assert len(wheel) == 2
    assert wheel.advance(NOW + 29) == [(NOW + 5, "b")]
    assert wheel.advance(NOW + 30) == [(NOW + 30, "a")]


def test_cancelled_is_gone_and_may_be_added_again() -> None:
    wheel = TimingWheel()
    wheel.add("a", NOW + 1)
    wheel.add("b", NOW + 1)
    assert wheel.cancel("a")
    assert not wheel.cancel("a")
    assert len(wheel) == 1
    wheel.add("a", NOW + 1)
    assert keys(wheel.advance(NOW + 1)) == ["b", "a"]


def test_cancelled_and_added_again_while_others_of_its_slot_come_out() -> None:
    wheel = TimingWheel()
    for name in "abcd":
        wheel.add(name, NOW + 1)
    assert keys(wheel.advance(NOW + 1, 1)) == ["a"]
    wheel.cancel("b")
    wheel.add("b", NOW + 1)
    wheel.add("e", NOW + 0.5)
    wheel.cancel("c")
    assert wheel.next_due() == NOW + 0.5
    assert keys(wheel.advance(NOW + 1)) == ["e", "d", "b"]


def test_a_cancelled_head_is_no_longer_the_next() -> None:
    wheel = TimingWheel()
    wheel.add("a", NOW + 1)
    wheel.add("b", NOW + 2)
    wheel.cancel("a")
    first = wheel.next_due()
    assert first is not None and first <= NOW + 2
    assert wheel.advance(NOW + 1) == []
    assert wheel.next_due() == NOW + 2


def test_what_is_next_is_exact_in_the_open_slot() -> None:
    wheel = TimingWheel()
    for n, name in enumerate("abc"):
        wheel.add(name, NOW + n)
    assert keys(wheel.advance(NOW)) == ["a"]
    wheel.cancel("b")
    assert wheel.next_due() == NOW + 2
    wheel.add("b", NOW + 1)
    assert wheel.next_due() == NOW + 1


def test_nothing_is_next_once_all_are_cancelled() -> None:
    wheel = TimingWheel()
    for name in crowd(wheel, NOW + 1, 0.01):
        wheel.cancel(name)
    assert wheel.next_due() is None
    assert wheel.advance(NOW + TEN_YEARS) == []


def test_clear_forgets_everything() -> None:
    wheel = TimingWheel()
    crowd(wheel, NOW, 0.01)
    wheel.advance(NOW + 1)
    wheel.clear()
    assert len(wheel) == 0
    assert wheel.next_due() is None
    assert wheel.advance(NOW + TEN_YEARS) == []
    wheel.add("a", NOW + 1)
    assert keys(wheel.advance(NOW + 1)) == ["a"]


@pytest.mark.parametrize("moment", [math.nan, math.inf, -math.inf])
def test_a_moment_must_be_a_number(moment: float) -> None:
    wheel = TimingWheel()
    with pytest.raises((ValueError, OverflowError)):
        wheel.add("a", moment)
    assert len(wheel) == 0


# Edges


@pytest.mark.parametrize("due", [*BORDERS, NOW, NOW + 0.1, 0.1, 1.0, -0.1, -300.0, 2.0**33 + 0.1])
@pytest.mark.parametrize("crowded", [False, True])
def test_due_at_its_moment_and_not_a_float_before(due: float, crowded: bool) -> None:
    wheel = TimingWheel()
    if crowded:
        crowd(wheel, due + 1, 1e-4)
        crowd(wheel, due + 10, 1e-6)
    wheel.add("a", due)
    assert wheel.due("a") == due
    assert wheel.next_due() == due
    assert wheel.advance(before(due)) == []
    assert wheel.next_due() == due
    assert wheel.advance(due) == [(due, "a")]


@pytest.mark.parametrize("border", BORDERS)
def test_around_the_border_of_a_slot(border: float) -> None:
    wheel = TimingWheel()
    others = crowd(
        wheel, border, 1e-5
    )  # divides the slots on one side of the border, in the end to the finest
    wheel.add("before", before(border))
    wheel.add("at", border)
    wheel.add("after", after(border))
    assert keys(wheel.advance(before(border))) == ["before"]
    assert wheel.next_due() == border
    assert keys(wheel.advance(border)) == [others[0], "at"]
    assert keys(wheel.advance(after(border))) == ["after"]
    assert keys(wheel.advance(border + 1)) == others[1:]


def test_the_clock_may_step_back() -> None:
    wheel = TimingWheel()
    names = crowd(wheel, NOW, 0.01)
    assert keys(wheel.advance(NOW + 5)) == names[:501]
    assert wheel.advance(NOW - 3600) == []
    wheel.add("past", NOW - 7200)
    wheel.add("then", NOW - 1800)
    assert wheel.next_due() == NOW - 7200
    assert keys(wheel.advance(NOW - 3600)) == ["past"]
    assert wheel.next_due() == NOW - 1800
    assert keys(wheel.advance(NOW + 5)) == ["then"]
    assert keys(wheel.advance(NOW + 20)) == names[501:]


def test_what_is_added_in_the_past_comes_out_next() -> None:
    wheel = TimingWheel()
    wheel.advance(NOW + 86400)
    wheel.add("a", NOW + 2)
    wheel.add("b", NOW - TEN_YEARS)
    assert wheel.next_due() == NOW - TEN_YEARS
    assert keys(wheel.advance(NOW + 86400)) == ["b", "a"]


@pytest.mark.timeout(10)
def test_a_leap_of_ten_years_costs_no_more_than_what_it_brings() -> None:
    wheel = TimingWheel()
    names = crowd(wheel, NOW + 1, 0.5)
    wheel.add("far", NOW + TEN_YEARS)
    wheel.add("farther", NOW + 1000 * TEN_YEARS)
    assert keys(wheel.advance(NOW + TEN_YEARS)) == [*names, "far"]
    for decade in range(2, 1000):
        assert wheel.advance(NOW + decade * TEN_YEARS) == []
    assert keys(wheel.advance(NOW + 1000 * TEN_YEARS)) == ["farther"]


def test_limit_takes_the_earliest_and_leaves_the_others() -> None:
    wheel = TimingWheel()
    names = crowd(wheel, NOW, 0.01)
    assert wheel.advance(NOW + 100, 0) == []
    assert keys(wheel.advance(NOW + 100, 3)) == names[:3]
    wheel.cancel(names[3])
    assert keys(wheel.advance(NOW + 100, 2)) == names[4:6]
    assert wheel.next_due() == NOW + 6 * 0.01
    assert keys(wheel.advance(NOW + 100, 5000)) == names[6:]


# Memory: what was cancelled or moved must not pile up


def add_and_cancel(wheel: TimingWheel, n: int) -> None:
    wheel.add(f"timeout-{n}", NOW + 3600 + n * 0.01)
    wheel.cancel(f"timeout-{n}")


def add_and_cancel_far_apart(wheel: TimingWheel, n: int) -> None:
    wheel.add(f"timeout-{n}", NOW + 3600 + n * 3600)
    wheel.cancel(f"timeout-{n}")


def move_later(wheel: TimingWheel, n: int) -> None:
    wheel.add("heartbeat", NOW + 60 + n * 0.01)


def move_within_the_open_slot(wheel: TimingWheel, n: int) -> None:
    if not n:
        wheel.add("first", NOW + 1)
        wheel.add("second", NOW + 1)
        wheel.advance(NOW + 1, 1)
    wheel.add("second", NOW + 1 + n * 0.01)
    wheel.next_due()


@pytest.mark.parametrize(
    "habit", [add_and_cancel, add_and_cancel_far_apart, move_later, move_within_the_open_slot]
)
def test_garbage_is_bounded(habit: Callable[[TimingWheel, int], None]) -> None:
    wheel = TimingWheel()
    tracemalloc.start()
    try:
        for n in range(30_000):
            habit(wheel, n)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(wheel) <= 1
    assert kept < 600_000  # 30,000 entries would be 2,600,000


# Anything, in any order, against the naive one

some_keys = st.sampled_from([f"job-{n}" for n in range(40)])
moments = st.one_of(
    st.floats(NOW - 2, NOW + 2),
    st.floats(NOW - TEN_YEARS, NOW + TEN_YEARS),
    st.floats(0.001, 1000),
    st.sampled_from([m for border in BORDERS for m in (before(border), border, after(border))]),
    st.sampled_from([NOW, NOW + 1, NOW + 2]),
)


class WheelAgainstNaive(RuleBasedStateMachine):
    """Both get the same calls and must give the same answers; slots are tiny, to divide often."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(wheel_module, "SLOT_LIMIT", 3)
        self.patch.setattr(wheel_module, "GARBAGE_LIMIT", 6)
        self.patch.setattr(wheel_module, "SWEEP", 2)
        self.wheel = TimingWheel()
        self.naive = Naive()

    def teardown(self) -> None:
        self.patch.undo()

    @rule(key=some_keys, due=moments)
    def add(self, key: str, due: float) -> None:
        self.wheel.add(key, due)
        self.naive.add(key, due)

    @rule(
        keys=st.lists(some_keys, max_size=20),
        due=moments,
        step=st.one_of(st.just(0.0), st.floats(0.001, 300)),
    )
    def add_many(self, keys: list[str], due: float, step: float) -> None:
        for n, key in enumerate(keys):
            self.add(key, due + n * step)

    @rule(keys=st.lists(some_keys, max_size=20))
    def cancel(self, keys: list[str]) -> None:
        for key in keys:
            assert self.wheel.cancel(key) == self.naive.cancel(key)

    @rule(now=moments, limit=st.one_of(st.none(), st.integers(0, 10)))
    def advance(self, now: float, limit: int | None) -> None:
        assert self.wheel.advance(now, limit) == self.naive.advance(now, limit)

    @precondition(lambda self: self.naive.entries)
    @rule(limit=st.one_of(st.none(), st.integers(1, 3)))
    def turn(self, limit: int | None) -> None:
        """What the dispatcher does: sleep until the moment named, then take what is due."""
        now = self.wheel.next_due()
        assert now is not None
        taken = self.wheel.advance(now, limit)
        assert taken == self.naive.advance(now, limit)
        following = self.wheel.next_due()
        assert taken or following is None or following > now  # it gets somewhere

    @rule()
    def clear(self) -> None:
        self.wheel.clear()
        self.naive.entries.clear()

    @invariant()
    def same_entries(self) -> None:
        assert len(self.wheel) == len(self.naive.entries)
        for n in range(40):
            key = f"job-{n}"
            assert (key in self.wheel) == (key in self.naive.entries)
            assert self.wheel.due(key) == self.naive.due(key)

    @invariant()
    def wakes_in_time(self) -> None:
        moment, earliest = self.wheel.next_due(), self.naive.earliest()
        assert (moment is None) == (earliest is None)
        assert moment is None or earliest is None or moment <= earliest

    @invariant()
    def stays_small(self) -> None:
        """What the benchmark measures as time and memory, as numbers: nothing outgrows its limit."""
        sizes = [len(slot) // 2 for slot in self.wheel._slots()]
        opened = len(self.wheel._items)
        held = sum(sizes) + opened - self.wheel._next
        assert held == len(self.wheel) + self.wheel._garbage
        # If all go the same way, one more comes before each of the 16 further divisions.
        largest = wheel_module.SLOT_LIMIT + 16
        assert max(sizes, default=0) <= largest
        assert opened <= wheel_module.SLOT_LIMIT + largest
        assert held <= 2 * len(self.wheel) + wheel_module.GARBAGE_LIMIT + 40 // wheel_module.SWEEP


TestWheelAgainstNaive = WheelAgainstNaive.TestCase
TestWheelAgainstNaive.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("seed", range(4))
def test_many_entries_against_the_naive_one(seed: int) -> None:
    rng = random.Random(seed)
    wheel, naive = TimingWheel(), Naive()
    spread = rng.choice([1.0, 60.0, 3600.0, 1e7])
    now = NOW
    for _ in range(40):
        for _ in range(300):
            key = f"job-{rng.randrange(6000)}"
            if rng.random() < 0.3:
                assert wheel.cancel(key) == naive.cancel(key)
            else:
                due = now + rng.choice([0.0, spread / 2, rng.random() * spread, rng.random() * spread])
                wheel.add(key, due)
                naive.add(key, due)
        now += rng.choice([-0.01, 0.001, 0.02, 0.1]) * spread
        limit = rng.choice([None, None, 1, 100])
        assert wheel.advance(now, limit) == naive.advance(now, limit)
        assert len(wheel) == len(naive.entries)
    order = sorted((due, add, key) for key, (due, add) in naive.entries.items())
    taken = []
    while (moment := wheel.next_due()) is not None:
        taken += wheel.advance(moment)
    assert taken == [(due, key) for due, _, key in order]
