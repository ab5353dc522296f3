"""The timing wheel beside ``heapq``: ``python -m benchmarks.wheel`` prints the table, in about a minute.
Knows nothing of the package but the wheel, and of that only its methods."""

from __future__ import annotations

import gc
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import chain
from statistics import median
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

from flask_delayq.runtime.wheel import TimingWheel

START = 1_700_000_000.0
SPREAD = 3600.0  # seconds over which the entries are due, evenly and in random order
BATCH = 100  # entries due between two calls of advance
ROUNDS = {1_000: 5, 100_000: 5, 1_000_000: 2}

P = ParamSpec("P")
T = TypeVar("T")

Entries = list[tuple[str, float]]


class Timer(Protocol):
    def add(self, key: str, due: float) -> None: ...
    def cancel(self, key: str) -> bool: ...
    def advance(self, now: float) -> list[tuple[float, str]]: ...


class HeapTimer:
    """What one would write without a wheel: a heap of integers, two dicts, cancel leaves garbage."""

    def __init__(self) -> None:
        self._heap: list[int] = []
        self._moments: dict[str, int] = {}
        self._keys: dict[int, str] = {}
        self._serial = 0

    def add(self, key: str, due: float) -> None:
        self._serial += 1
        moment = int(due * 1e6) << 40 | self._serial
        self._moments[key] = moment
        self._keys[moment] = key
        heappush(self._heap, moment)

    def cancel(self, key: str) -> bool:
        moment = self._moments.pop(key, None)
        if moment is None:
            return False
        del self._keys[moment]
        return True

    def advance(self, now: float) -> list[tuple[float, str]]:
        heap, result = self._heap, []
        bound = int(now * 1e6) + 1 << 40
        while heap and heap[0] < bound:
            moment = heappop(heap)
            key = self._keys.pop(moment, None)
            if key is not None:
                del self._moments[key]
                result.append(((moment >> 40) / 1e6, key))
        return result


TIMERS: tuple[Callable[[], Timer], ...] = (TimingWheel, HeapTimer)


class Row(NamedTuple):
    """One line of the table: what was measured of both, at how many pending entries."""

    pending: int
    what: str
    unit: str
    wheel: float
    heapq: float


class Figures(NamedTuple):
    """Microseconds per entry."""

    add: float
    cancel: float
    add_and_expire: float


def rows() -> list[Row]:
    """Measure everything. The two take turns, so that a slow moment of the machine meets both."""
    return list(chain.from_iterable(measure(pending, rounds) for pending, rounds in ROUNDS.items()))


def measure(pending: int, rounds: int) -> Iterator[Row]:
    entries = make_entries(pending)
    gc.collect()
    gc.disable()  # as timeit does: what a collection costs depends on the whole program
    try:
        repeat = max(1, 50_000 // pending)  # short ones many times, to be above the noise
        taken = [[time_of(timer, entries, repeat) for timer in TIMERS] for _ in range(rounds)]
        for name, label in (("add", "add"), ("cancel", "cancel"), ("add_and_expire", "add + expire")):
            wheel, heap = (median(getattr(turn[i], name) for turn in taken) for i in range(2))
            yield Row(pending, label, "us", wheel, heap)
        longest = [longest_step(timer, entries) for timer in TIMERS]
        yield Row(pending, "longest step", "ms", *longest)
        yield Row(pending, "memory", "B", *(memory(timer, entries) for timer in TIMERS))
    finally:
        gc.enable()


def make_entries(count: int) -> Entries:
    rng = random.Random(count)
    return [(f"{n:016x}{rng.getrandbits(64):016x}", START + rng.random() * SPREAD) for n in range(count)]


def moments(count: int) -> Iterator[float]:
    steps = max(1, count // BATCH)
    return (START + SPREAD * step / steps for step in range(1, steps + 1))


def time_of(make: Callable[[], Timer], entries: Entries, repeat: int) -> Figures:
    added = cancelled = expired = 0.0
    some = [key for key, _ in entries[::2]]
    random.Random(1).shuffle(some)
    for _ in range(repeat):
        timer = make()
        added += fill(timer, entries)
        began = time.perf_counter()
        count = sum(len(timer.advance(now)) for now in moments(len(entries)))
        expired += time.perf_counter() - began
        assert count == len(entries)

        timer = make()
        added += fill(timer, entries)
        began = time.perf_counter()
        for key in some:
            timer.cancel(key)
        cancelled += time.perf_counter() - began
    each = 1e6 / repeat / len(entries)
    add = added / 2 * each
    return Figures(add, cancelled * each * len(entries) / len(some), add + expired * each)


def fill(timer: Timer, entries: Entries) -> float:
    began = time.perf_counter()
    for key, due in entries:
        timer.add(key, due)
    return time.perf_counter() - began


def longest_step(make: Callable[[], Timer], entries: Entries) -> float:
    """Milliseconds of the longest single call: of its own thread, without what neighbours took.

    What comes out is added anew, one spread later, so that the number of entries stays. Not measured is
    emptying: with the last of a million integers the memory of all is free, and to return that to the
    system takes Python's allocator 3 ms.
    """
    timer, clock, longest = make(), time.thread_time, 0.0

    def step(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        nonlocal longest
        began = clock()
        result = call(*args, **kwargs)
        longest = max(longest, clock() - began)
        return result

    for key, due in entries:
        step(timer.add, key, due)
    for key, due in entries[::5]:
        step(timer.cancel, key)
        step(timer.add, key, due)
    for now in moments(len(entries)):
        for due, key in step(timer.advance, now):
            step(timer.add, key, due + SPREAD)
    return longest * 1e3


def memory(make: Callable[[], Timer], entries: Entries) -> float:
    """Bytes per pending entry, without its id."""
    tracemalloc.start()
    try:
        timer = make()
        fill(timer, entries)
        return tracemalloc.get_traced_memory()[0] / len(entries)
    finally:
        tracemalloc.stop()


def main() -> None:
    print(f"{'pending':>9}  {'':14}{'wheel':>10}{'heapq':>10}      ratio   to 1,000")
    few: dict[str, float] = {}
    for row in rows():
        base = few.setdefault(row.what, row.wheel)
        print(
            f"{row.pending:>9,}  {row.what:14}{row.wheel:>10.2f}{row.heapq:>10.2f} {row.unit:3}"
            f"{row.wheel / row.heapq:>7.2f}{row.wheel / base:>11.2f}"
        )


if __name__ == "__main__":
    main()
