"""Why due jobs wait, and what a person can do, in sentences.
Reads the store and process records; changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import launch
from ..backends.crashes import suspect_from
from ..deployment_warnings import how_to_run_jobs
from ..job import JobQuery, JobRecord, JobState, StoredState
from ..runtime.peers import Peer, living
from ..runtime.unknown import REMEDY
from .attendance import MOST_RUNNING

if TYPE_CHECKING:
    from ..app_state import AppState


def how_to_run(state: AppState) -> str:
    """What to do if no process runs jobs, as the end of a sentence; commands are in backticks."""
    if state.declined is not None:
        return f"this one cannot, since {state.declined}"
    return how_to_run_jobs(state.mode, state.backend.url, serving=launch.serving() is not None)


def why_it_waits(state: AppState, record: JobRecord) -> str | None:
    """Why no process takes a waiting job, and what to do; ``None``: there is no such reason."""
    if record.stored is not StoredState.WAITING:
        return None
    is_due = record.state_at(state.clock.now()) is JobState.READY
    if is_due and _is_paused(state, record.queue):
        return (
            f"queue {record.queue!r} is paused: resume it with `flask delayq resume {record.queue}`, "
            f"or on the page of the queues"
        )
    peers = living(state.backend.processes())
    if not peers:
        return f"no process runs jobs: {how_to_run(state)}" if is_due else None
    knowing = [peer for peer in peers if peer.may_know(record.task)]
    if not knowing:
        return f"no process knows this task: {REMEDY}"
    serving = [peer for peer in knowing if peer.serves(record.queue)]
    if not serving:
        return (
            f"no process that knows this task serves its queue: start `flask delayq worker --queues "
            f"{record.queue}`, or add the queue to DELAYQ_QUEUES"
        )
    return _which_suspect_it_waits_for(state, record, serving) if is_due else None


def _is_paused(state: AppState, name: str) -> bool:
    found = state.client.inspect.queues(now=state.clock.now())
    return any(queue.paused for queue in found if queue.name == name)


def _which_suspect_it_waits_for(state: AppState, record: JobRecord, peers: list[Peer]) -> str | None:
    """Why these processes do not run a due suspect: each runs another suspect, and only one at a
    time."""
    suspected_from = suspect_from(state.settings.max_rescues)
    if record.rescues < suspected_from:
        return None
    query = JobQuery((JobState.RUNNING,), limit=MOST_RUNNING)
    running = state.client.inspect.list(query, now=state.clock.now())
    by_owner = {one.owner: one.id for one in running if one.rescues >= suspected_from}
    if any(peer.owner not in by_owner for peer in peers):
        return None
    others = ", ".join(sorted(by_owner[peer.owner] for peer in peers)[:3])
    return (
        "it is a suspect (its process crashed during its last runs), "
        f"and every process is running one already: {others}"
    )
