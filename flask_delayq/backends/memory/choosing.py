"""The waiting jobs that a claim can take: the due ones, and the first suspect.
Must not know verbs and claims; the verbs hold the lock."""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Mapping
from operator import itemgetter
from typing import TypeAlias

from .rows import Entry, Queue
from .store import Store

Levels: TypeAlias = list[list[Entry]]
"""Due jobs of one queue by priority, each level in order."""


def holds_due(queue: Queue, now: float) -> bool:
    """Whether jobs wait in a queue that a new one would overtake."""
    first = queue.first_due(with_suspects=False) if queue.waiting else None
    return first is not None and first <= now


def order_by_task(queues: list[Queue]) -> None:
    """Keep the jobs of each task in separate lines from now on."""
    for queue in queues:
        queue.order_by_task()


def add_one_suspect(
    serving: list[Queue], now: float, due: dict[str, Levels], tasks: Collection[str] | None
) -> None:
    """Add the first due suspect to the others."""
    heads = [
        (priority, entry, queue.name, line)
        for queue in serving
        for priority, line in queue.suspects(tasks)
        if (entry := line.first()) is not None and entry[0] <= now
    ]
    if heads:
        priority, entry, name, line = min(heads, key=itemgetter(0, 1))
        line.take_until(now, 1)
        due[name] = due[name] or [[], [], []]
        insort(due[name][priority], entry)


def put_back(store: Store, due: Mapping[str, Levels], chosen: list[Entry]) -> None:
    """Put the jobs back that were taken out but not chosen, at their old places."""
    entries = [entry for levels in due.values() for level in levels for entry in level]
    if len(entries) == len(chosen):
        return
    places = {entry[2] for entry in chosen}
    for entry in reversed(entries):
        if entry[2] not in places:
            row = entry[3]
            store.queues[row.new.queue].line_of(row).put_back(entry)
