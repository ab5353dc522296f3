"""The timing wheel compared with the usual alternative: a ``heapq`` of packed integers and a dict.
Knows only the wheel of the package, and only the wheel's methods."""

from __future__ import annotations

import gc
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

from flask_delayq.runtime.wheel import TimingWheel

from .alone import NotMeasured, alone
from .report import Row, not_measured
from .scale import Scale

START = 1_700_000_000.0
SPREAD = 3600.0  # seconds over which the entries are due, evenly and in random order
BATCH = 100  # entries due between two calls of advance
ROUNDS = {1_000: 5, 100_000: 5, 1_000_000: 3}

_BESIDE = "heapq and dict"
HOW = (
    f"The wheel beside a heapq of packed integers with two dicts and lazy cancel, in turn, the "
    f"collector off, us an entry: add so many entries, due in random order over {SPREAD:g} s, then "
    f"expire all by turns of about {BATCH}; the same, then cancel every second one in random order "
    f"(lazy: the heap keeps the garbage, and to remove it is not counted). Longest step: of any "
    f"single add, cancel or turn with all entries pending, in time of its own thread. Memory by "
    f"tracemalloc, without the id itself. Rounds: 5, at 1,000,000 {ROUNDS[1_000_000]}."
)

P = ParamSpec("P")
T = TypeVar("T")

Entries = list[tuple[str, float]]


class Timer(Protocol):
    def add(self, key: str, due: float) -> None: ...
    def cancel(self, key: str) -> bool: ...
    def advance(self, now: float) -> list[tuple[float, str]]: ...


class HeapTimer:
    """The usual alternative to a wheel: a heap of integers and two dicts; cancel leaves garbage."""

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


class Figures(NamedTuple):
    """Microseconds per entry."""

    add: float
    cancel: float
    expire: float


def measure(folder: Path, pending: int, rounds: int) -> dict[str, Any]:
    """Figures of (wheel, heap) for each kind of work. The two take turns, so that a slow moment of the
    machine affects both."""
    entries = make_entries(pending)
    gc.collect()
    gc.disable()  # as timeit does: the cost of a collection depends on the whole program
    repeat = max(1, 50_000 // pending)  # repeat short ones, to be above the noise
    taken = [[time_of(timer, entries, repeat) for timer in TIMERS] for _ in range(rounds)]
    both = range(len(TIMERS))
    return {
        "add + expire": [median(turn[i].add + turn[i].expire for turn in taken) for i in both],
        "add + cancel": [median(turn[i].add + turn[i].cancel for turn in taken) for i in both],
        "longest step": [longest_step(timer, entries) for timer in TIMERS],
        "memory": [memory(timer, entries) for timer in TIMERS],
    }


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
    return Figures(added / 2 * each, cancelled * each * len(entries) / len(some), expired * each)


def fill(timer: Timer, entries: Entries) -> float:
    began = time.perf_counter()
    for key, due in entries:
        timer.add(key, due)
    return time.perf_counter() - began


def longest_step(make: Callable[[], Timer], entries: Entries) -> float:
    """Milliseconds of CPU time that the longest single call takes in its thread.

    Entries that come out are added again, one spread later, so that the number of entries is constant.
    Emptying is not measured: the last of a million integers frees the memory of all, and Python's
    allocator needs 3 ms to return that to the system.
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


def rows(scale: Scale) -> Iterator[Row]:
    sizes = [scale.count(size) for size in ROUNDS]
    figures = {}
    for size, rounds in zip(sizes, ROUNDS.values(), strict=True):
        try:
            figures[size] = alone(measure, pending=size, rounds=scale.rounds(rounds), limit=180)
        except NotMeasured as reason:
            yield not_measured(f"the wheel, {size:,} pending", _BESIDE, "", reason, HOW)
    few, many = sizes[0], sizes[-1]
    for what in ("add + expire", "add + cancel"):
        for size, found in figures.items():
            yield _beside_heap(f"the wheel: {what}, {size:,} pending", *found[what], size == many)
    if few not in figures or many not in figures:
        return
    for what in ("add + expire", "add + cancel"):
        growth = figures[many][what][0] / figures[few][what][0]
        text = [f"{figures[size][what][0]:.2f} us" for size in (many, few)]
        work = f"the wheel: {what}, {many:,} pending"
        yield Row(work, f"{few:,} pending", *text, f"{growth:.2f} x", "<= 1.5 x", growth <= 1.5, HOW)
    for size, found in figures.items():
        step, heap = found["longest step"]
        text = [f"{step:.2f} ms", f"{heap:.2f} ms"]
        work = f"the wheel: longest single step, {size:,} pending"
        yield Row(work, _BESIDE, *text, text[0], "<= 1 ms", step <= 1, HOW)
    size, heap = figures[many]["memory"]
    text = [f"{size:.0f} B", f"{heap:.0f} B"]
    yield Row(
        f"the wheel: memory of a pending job, {many:,}",
        _BESIDE,
        *text,
        text[0],
        "<= 260 B",
        size <= 260,
        HOW,
    )


def _beside_heap(work: str, wheel: float, heap: float, judged: bool) -> Row:
    ratio = wheel / heap
    return Row(
        work,
        _BESIDE,
        f"{wheel:.2f} us",
        f"{heap:.2f} us",
        f"{ratio:.2f} x",
        "<= 1.2 x" if judged else "stated",
        ratio <= 1.2 if judged else None,
        HOW,
        gain=1 / ratio if judged else None,
        goal=1 / 1.2,
    )
