"""Which process serves which queue, how busy each process is, and which due jobs no process takes.
Reads the store; a process record is used for the queues of a process, not for its current work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ..backends.base import Inspectable
from ..job import JobQuery, JobState

if TYPE_CHECKING:
    from ..app_state import AppState

View = dict[str, Any]

MOST_RUNNING = 10_000
"""More jobs than can run at the same time."""

UNATTENDED_AFTER = 60.0
"""Seconds that ready jobs may wait, while no process serves their queue, before that is unhealthy."""


def running_by_owner(state: AppState) -> Counter[str | None] | None:
    """The number of running jobs of each owner; ``None`` if the store cannot list them."""
    if not isinstance(state.backend, Inspectable):
        return None
    query = JobQuery((JobState.RUNNING,), limit=MOST_RUNNING)
    return Counter(one.owner for one in state.backend.list(query, now=state.clock.now()))


def note_servers(queues: Iterable[View], processes: Iterable[View]) -> None:
    """Add to each queue's view the pids of the living processes that serve it."""
    living = [one for one in processes if one["alive"]]
    for queue in queues:
        queue["served_by"] = [one["pid"] for one in living if serves(one, queue["name"])]


def serves(process: View, queue: str) -> bool:
    """Whether a process takes jobs of a queue, by its record; one without a list takes all."""
    return process["queues"] is None or queue in process["queues"]


def unserved(queues: Iterable[View]) -> list[View]:
    """Queues, after :func:`note_servers`, with jobs that have been due for too long and that no living
    process serves. Paused queues do not count."""
    return [
        queue
        for queue in queues
        if not (queue["served_by"] or queue["paused"]) and (queue["lateness"] or 0) >= UNATTENDED_AFTER
    ]


def name_unserved(queues: list[View], processes: list[View], lasting: Callable[[float], str]) -> str:
    """A sentence about the queues with due jobs that no process serves; empty if there are none.

    :param lasting: formats seconds for people.
    """
    found = sorted(unserved(queues), key=lambda queue: -queue["lateness"])
    if not found:
        return ""
    longest = lasting(found[0]["lateness"])
    living = [one for one in processes if one["alive"]]
    if not living:
        return f"jobs have been due for {longest} and no process runs any"
    names = ", ".join(repr(queue["name"]) for queue in found[:5]) + (", ..." if len(found) > 5 else "")
    many = "queues" if len(found) > 1 else "queue"
    who = "; ".join(f"process {one['pid']} serves {served(one)}" for one in living[:5])
    it = "them" if len(found) > 1 else "it"
    add = ",".join(queue["name"] for queue in found)
    return (
        f"jobs of {many} {names} have been due for {longest} and no process serves {it} ({who}): "
        f"start `flask delayq worker --queues {add}`, or change DELAYQ_QUEUES"
    )


def served(process: View) -> str:
    """The queues of a process as a person reads them."""
    return "all" if process["queues"] is None else ", ".join(process["queues"]) or "none"


def known_queues(queues: Iterable[View], processes: Iterable[View], declared: Iterable[str]) -> set[str]:
    """Every queue that has jobs, that a living process names or that is declared."""
    known = {queue["name"] for queue in queues} | set(declared)
    for process in processes:
        known.update(process["queues"] or () if process["alive"] else ())
    return known


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: "; did you mean ...?" or empty."""
    near = get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
