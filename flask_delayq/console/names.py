"""Names of queues and tasks that nothing bears, each with what was perhaps meant.
Reads the store and the registry; refuses nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..job import JobQuery
from . import presenting
from .attendance import did_you_mean

if TYPE_CHECKING:
    from ..app_state import AppState


def no_such_queue(state: AppState, name: str) -> str:
    """A sentence that no task, job or process uses this queue; empty if one does."""
    if any(task.declared.queue == name for task in state.registry):
        return ""
    known = presenting.known_queues(state)
    if name in known:
        return ""
    return f"no task, job or process uses a queue named {name!r}{did_you_mean(name, known)}"


def misspelt_queue(state: AppState, name: str) -> str:
    """The same if another queue has nearly this name; empty for one that is simply new."""
    sentence = no_such_queue(state, name)
    return sentence if sentence.endswith("?") else ""


def no_such_task(state: AppState, name: str) -> str:
    """A sentence that no task is registered under this name; empty if one is."""
    if state.registry.find(name) is not None:
        return ""
    return f"no task named {name!r} is registered{like_task(name, [one.name for one in state.registry])}"


def like_task(name: str, names: list[str]) -> str:
    """A hint at one of these tasks, whose last word is this name or that looks like it."""
    ending = [one for one in sorted(names) if one.rpartition(".")[2] == name]
    return f"; did you mean {ending[0]!r}?" if ending else did_you_mean(name, names)


def nothing_matches(state: AppState, query: JobQuery) -> str:
    """What to say of a query that finds no job: also that a name in it is nobody's."""
    doubts = [
        *([] if query.task is None else [no_such_task(state, query.task)]),
        *([] if query.queue is None else [no_such_queue(state, query.queue)]),
    ]
    text = "no job matches"
    for doubt in filter(None, doubts):
        text += f" {doubt[0].upper()}{doubt[1:]}" if text.endswith("?") else f"; {doubt}"
    return text
