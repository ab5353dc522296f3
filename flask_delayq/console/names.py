"""Messages about unknown names of queues and tasks, with suggestions.
Reads the store and the registry; refuses nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..job import JobQuery
from . import presenting
from .attendance import did_you_mean

if TYPE_CHECKING:
    from ..app_state import AppState


def no_such_queue(state: AppState, name: str) -> str:
    """A sentence that no task, schedule, job or process uses this queue; empty if one does."""
    if any(task.declared.queue == name for task in state.registry):
        return ""
    known = presenting.known_queues(state)
    if name in known:
        return ""
    return f"no task, schedule, job or process uses a queue named {name!r}{did_you_mean(name, known)}"


def misspelt_queue(state: AppState, name: str) -> str:
    """The same sentence, but only if another queue has a similar name; empty for a new name."""
    sentence = no_such_queue(state, name)
    return sentence if sentence.endswith("?") else ""


def no_such_task(state: AppState, name: str) -> str:
    """A sentence that no task is registered under this name; empty if one is."""
    if state.registry.find(name) is not None:
        return ""
    return f"no task named {name!r} is registered{like_task(name, [one.name for one in state.registry])}"


def like_task(name: str, names: list[str]) -> str:
    """A suggestion: a task whose last part is this name, or with a similar name."""
    ending = [one for one in sorted(names) if one.rpartition(".")[2] == name]
    return f"; did you mean {ending[0]!r}?" if ending else did_you_mean(name, names)


def nothing_matches(state: AppState, query: JobQuery) -> str:
    """The message for a query without results; also says if a name in it is unknown."""
    doubts = [
        *([] if query.task is None else [no_such_task(state, query.task)]),
        *([] if query.queue is None else [no_such_queue(state, query.queue)]),
    ]
    text = "no job matches"
    for doubt in filter(None, doubts):
        text += f" {doubt[0].upper()}{doubt[1:]}" if text.endswith("?") else f"; {doubt}"
    return text
