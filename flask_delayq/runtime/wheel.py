"""The near future in memory: which job id is due when, in exact order, at a bounded cost per step.
Knows no clock, no thread and no lock, and not what an id stands for."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any, TypeAlias

SLOT_LIMIT = 512
"""Maximum entries in a slot; one more divides it. So it limits what one step must sort or move."""

GARBAGE_LIMIT = 1024
"""If there are this many more cancelled entries than live ones, each cancel sweeps a little."""

SWEEP = 64
"""Entries that one sweep checks, rounded up to whole slots."""

Slot: TypeAlias = "list[Any]"
"""``[moment, id, moment, id, ...]`` in no order; flat, because a tuple per entry would cost four times
its place in the list."""

# A moment is one integer: the due time in ticks, then the number of the add that brought it. So no two
# are equal, their order is the order of the result, and any slot can be divided, also one whose entries
# are all due at once. Ticks are so short because it costs nothing: every float beyond 0.25 ms is a whole
# number of them, so nothing is rounded, and nothing early or late.
_SERIAL_BITS = 48
_TICKS_PER_SECOND = 2.0**64
_TICK = 1 / _TICKS_PER_SECOND

_BITS = 8  # of a digit: a ring has 256 slots
_LAST = (1 << _BITS) - 1
_DAY = 16 + 64 + _SERIAL_BITS  # what remains above is the number of the day, of 2**16 s

# The table of ids is many small dicts: when a single big dict grows, an add takes 30 ms.
_SHARDS = 256
_SHARD = _SHARDS - 1


class _Ring:
    """A slot divided into 256 finer ones, and which of them exist, as a bitmap."""

    __slots__ = ("occupied", "slots")

    def __init__(self) -> None:
        self.occupied = 0
        self.slots: list[_Ring | Slot | None] = [None] * (_LAST + 1)


class TimingWheel:
    """Ids and the moments at which they are due; the earliest come out first.

    A hierarchical timing wheel (G. Varghese and T. Lauck, "Hashed and hierarchical timing wheels",
    SOSP 1987, scheme 7) that does not tick. A due time is read as a number in base 256, with digits of::

        65,536 s   256 s   1 s   1/256 s   1/65,536 s   ...

    An entry lies in the slot that its leading digits name. In the paper each digit has a ring of slots,
    and the hand, when it reaches a slot, deals out all it holds to the finer ring, in one step. Here a
    slot is dealt out when it is *full*: so there is no hand, no such step, and no ring finer than the
    entries need. An example, with decimal digits and slots for two entries::

        add a 371, b 318      3__ [a b]
        add c 319             3__ would hold three, so it becomes a ring:  31_ [b c]  37_ [a]
        add d 312             31_ likewise:  312 [d]  318 [b]  319 [c]  37_ [a]
        next_due() is 312     the lowest bit of each ring's bitmap leads to the first slot: 3, 1, 2
        advance(318): d, b    the time between slots costs nothing, be it a second or ten years
        cancel a              forgotten by id; its entry in 37_ is garbage until the slot is next used

    The first slot, once something in it is due, is *opened*: sorted, and handed out from the front. What
    is added to the open slot goes to its place in the sorted list; every other add is an append.

    A cancel takes the id out of the table of live ids and leaves its entry. While there is more garbage
    than live entries, each cancel also cleans the next slot or two, round and round.

    Beyond what it returns, a step sorts, divides or cleans one or two slots, however many entries there
    are. A wheel has no lock: its calls must not overlap. Times are seconds, on any one scale.
    Slots lie on that scale, so an entry due before the last :meth:`advance` is like any other.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all entries."""
        # Of each live id, by hash.
        self._moments: tuple[dict[str, int], ...] = tuple({} for _ in range(_SHARDS))
        self._added = 0  # the last one's number is its serial
        self._removed = 0  # cancelled or taken out; the others are live
        self._garbage = 0  # entries whose id has another moment, or none
        self._days: dict[int, _Ring | Slot] = {}
        self._order: list[int] = []  # the days, sorted
        # The open slot stays in its ring as an empty list; its entries are the items from `next` on.
        self._open: Slot | None = None
        self._items: list[tuple[int, str]] = []
        self._next = 0
        self._unswept = self._slots()

    def __len__(self) -> int:
        return self._added - self._removed

    def __contains__(self, key: object) -> bool:
        return key in self._moments[hash(key) & _SHARD]

    def due(self, key: str) -> float | None:
        """When ``key`` is due, as it was given to :meth:`add`; None if it is not here."""
        moment = self._moments[hash(key) & _SHARD].get(key)
        return None if moment is None else _seconds(moment)

    def add(self, key: str, due: float) -> None:
        """Add ``key``, due at ``due``; if it is here already, replace its time.

        :raises ValueError: ``due`` is NaN.
        :raises OverflowError: ``due`` is infinite.
        """
        serial = self._added + 1
        moment = int(due * _TICKS_PER_SECOND) << _SERIAL_BITS | serial
        self._added = serial
        moments = self._moments[hash(key) & _SHARD]
        if key in moments:
            self.cancel(key)
        moments[key] = moment
        slot: _Ring | Slot | None = self._days.get(moment >> _DAY)
        if slot is None:
            slot = self._days[moment >> _DAY] = []
            insort(self._order, moment >> _DAY)
        shift = _DAY
        while isinstance(slot, _Ring):
            ring = slot
            shift -= _BITS
            digit = moment >> shift & _LAST
            slot = ring.slots[digit]
            if slot is None:
                slot = ring.slots[digit] = []
                ring.occupied |= 1 << digit
        if slot is self._open:
            insort(self._items, (moment, key), self._next)
            if len(self._items) > 2 * SLOT_LIMIT:
                self._close()
        else:
            slot.append(moment)
            slot.append(key)
        if len(slot) > 2 * SLOT_LIMIT:
            self._divide(slot, moment)

    def cancel(self, key: str) -> bool:
        """Forget ``key``; False if it is not here."""
        if self._moments[hash(key) & _SHARD].pop(key, None) is None:
            return False
        self._removed += 1
        self._garbage += 1
        if self._garbage > len(self) + GARBAGE_LIMIT:
            self._sweep()
        return True

    def next_due(self) -> float | None:
        """The moment of the next :meth:`advance`, None if the wheel is empty.

        Never after the first entry is due. Before it only if an earlier one was cancelled in a slot not
        yet open: then that ``advance`` opens the slot, returns nothing, and the next answer is exact.
        """
        if self._added == self._removed:
            return None
        while (slot := self._first()) is not None:
            if slot is not self._open:
                return _seconds(min(slot[::2]))
            while self._next < len(self._items):
                moment, key = self._items[self._next]
                if self._moments[hash(key) & _SHARD].get(key) == moment:
                    return _seconds(moment)
                self._next += 1
                self._garbage -= 1
            self._drop_open()
        return None

    def advance(self, now: float, limit: int | None = None) -> list[tuple[float, str]]:
        """Remove and return what is due at ``now`` or before: (due, key), by due, then in the order of
        adds.

        :param now: may be earlier than in the previous call; what is due later than it stays.
        :param limit: maximum number, the earliest ones; the others stay. None: all.
        """
        bound = (int(now * _TICKS_PER_SECOND) + 1 << _SERIAL_BITS,)
        result: list[tuple[float, str]] = []
        while (limit is None or len(result) < limit) and (slot := self._first()) is not None:
            if slot is not self._open:
                if min(slot[::2]) >= bound[0]:
                    break
                self._open_slot(slot)
            end = bisect_left(self._items, bound, self._next)
            self._take(end, limit, result)
            if self._next == len(self._items):
                self._drop_open()
            elif self._next == end:
                break
        return result

    # The open slot

    def _open_slot(self, slot: Slot) -> None:
        self._close()
        self._open = slot
        self._items = sorted(zip(slot[::2], slot[1::2], strict=True))
        slot.clear()

    def _close(self) -> None:
        if self._open is not None:
            self._open += [part for item in self._items[self._next :] for part in item]
        self._open, self._items, self._next = None, [], 0

    def _take(self, end: int, limit: int | None, result: list[tuple[float, str]]) -> None:
        """Move the open slot's items before ``end`` to ``result``, until that has ``limit``."""
        position, garbage, before = self._next, 0, len(result)
        for moment, key in self._items[position:end]:
            position += 1
            moments = self._moments[hash(key) & _SHARD]
            if moments.get(key) != moment:
                garbage += 1
                continue
            del moments[key]
            result.append((_seconds(moment), key))
            if len(result) == limit:
                break
        self._next = position
        self._garbage -= garbage
        self._removed += len(result) - before

    def _drop_open(self) -> None:
        moment = self._items[-1][0]
        self._close()
        self._drop(moment)

    # Slots and rings

    def _first(self) -> Slot | None:
        """The slot with the earliest entries; None if there is none."""
        if not self._order:
            return None
        slot: _Ring | Slot | None = self._days[self._order[0]]
        while isinstance(slot, _Ring):
            lowest = slot.occupied & -slot.occupied
            slot = slot.slots[lowest.bit_length() - 1]
        return slot

    def _slots(self) -> Iterator[Slot]:
        """All slots, once each. They may change meanwhile: a new one may be missed."""
        pending: list[_Ring | Slot | None] = [self._days.get(day) for day in self._order]
        while pending:
            slot = pending.pop()
            if isinstance(slot, _Ring):
                pending += slot.slots
            elif slot is not None:
                yield slot

    def _path(self, moment: int) -> list[tuple[_Ring, int]]:
        """The rings down to the slot of ``moment``, each with the digit to follow."""
        path: list[tuple[_Ring, int]] = []
        slot: _Ring | Slot | None = self._days[moment >> _DAY]
        while isinstance(slot, _Ring):
            digit = moment >> _DAY - _BITS * (len(path) + 1) & _LAST
            path.append((slot, digit))
            slot = slot.slots[digit]
        return path

    def _divide(self, slot: Slot, moment: int) -> None:
        """Make a ring of the slot in which ``moment`` lies, unless all but half of it is garbage."""
        if self._garbage:
            self._clean(slot)
            if len(slot) <= SLOT_LIMIT:
                return
        path = self._path(moment)
        shift = _DAY - _BITS * (len(path) + 1)
        ring = _Ring()
        for pair in zip(slot[::2], slot[1::2], strict=True):
            digit = pair[0] >> shift & _LAST
            finer = ring.slots[digit]
            if isinstance(finer, list):
                finer += pair
            else:
                ring.slots[digit] = list(pair)
                ring.occupied |= 1 << digit
        if path:
            parent, digit = path[-1]
            parent.slots[digit] = ring
        else:
            self._days[moment >> _DAY] = ring
        slot.clear()  # the sweep may still visit it

    def _drop(self, moment: int) -> None:
        """Remove the empty slot of ``moment``, and the rings that are empty without it."""
        for ring, digit in reversed(self._path(moment)):
            ring.slots[digit] = None
            ring.occupied ^= 1 << digit
            if ring.occupied:
                return
        day = moment >> _DAY
        del self._days[day]
        del self._order[bisect_left(self._order, day)]

    # Garbage

    def _clean(self, slot: Slot) -> None:
        live = [
            part
            for pair in zip(slot[::2], slot[1::2], strict=True)
            if self._moments[hash(pair[1]) & _SHARD].get(pair[1]) == pair[0]
            for part in pair
        ]
        self._garbage -= (len(slot) - len(live)) // 2
        slot[:] = live

    def _sweep(self) -> None:
        """Clean the next one or more slots, in an endless cycle over all slots."""
        looked_at = 0
        while looked_at < SWEEP:
            slot = next(self._unswept, None)
            if slot is None:
                self._unswept = self._slots()
                break
            if slot:  # the open one is an empty list
                looked_at += len(slot) // 2
                moment = slot[0]
                self._clean(slot)
                if not slot:
                    self._drop(moment)


def _seconds(moment: int) -> float:
    return (moment >> _SERIAL_BITS) * _TICK
