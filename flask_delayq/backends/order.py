"""The order of due jobs: levels within a queue, turns between queues; pure bookkeeping.
Must not know where rows come from, or what is in them after (run_at, id)."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, TypeAlias

from .base import TURN_OF_THE_OLDEST

Row: TypeAlias = tuple[Any, ...]
"""What a backend knows of a due job; the first two items are (run_at, id)."""

_head = itemgetter(0)


class Turns:
    """Chooses the next jobs. It remembers how many jobs each queue returned, and which queue was last.

    Not thread-safe: the caller holds its own lock or transaction.
    """

    def __init__(self) -> None:
        self._handed: dict[str, int] = {}
        self._last = ""

    def served(self, queue: str, jobs: int = 1) -> None:
        """Count jobs that a queue returned without a choice."""
        self._handed[queue] = self._handed.get(queue, 0) + jobs
        self._last = queue

    def choose(self, due: Mapping[str, Sequence[Sequence[Row]]], limit: int, strict: bool) -> list[Row]:
        """Return up to ``limit`` of the rows in the order in which they must run.

        Queues take turns by name, one job each, beginning after the last one. Within a queue the levels
        are strictly in order, except that every :data:`~.base.TURN_OF_THE_OLDEST`-th returned job is
        the oldest of all levels (not with ``strict``; the jobs are counted nevertheless).

        :param due: for each queue its levels, most urgent first; each sorted by (run_at, id) and at
            most ``limit`` rows long.
        """
        if limit <= 0 or not due:
            return []
        if len(due) == 1:
            ((queue, levels),) = due.items()
            filled = [level for level in levels if level]
            if len(filled) != 1:
                return list(islice(self._one_by_one(queue, filled, strict), limit))
            taken = list(filled[0][:limit])  # one level is already ordered by age
            self.served(queue, len(taken))
            return taken
        names = sorted(due)
        start = bisect_right(names, self._last)
        lines = deque(
            self._one_by_one(name, [level for level in due[name] if level], strict)
            for name in names[start:] + names[:start]
        )
        chosen: list[Row] = []
        while lines and len(chosen) < limit:
            line = lines.popleft()
            row = next(line, None)
            if row is not None:
                chosen.append(row)
                lines.append(line)
        return chosen

    def _one_by_one(self, queue: str, levels: Sequence[Sequence[Row]], strict: bool) -> Iterator[Row]:
        """The rows of a queue in order; each is counted when it is yielded."""
        lines = [deque(level) for level in levels]
        while lines:
            self.served(queue)
            oldest = self._handed[queue] % TURN_OF_THE_OLDEST == 0 and not strict
            line = min(lines, key=_head) if oldest else lines[0]
            yield line.popleft()
            if not line:
                lines.remove(line)
