"""The read-only pages: overview, jobs, queues, schedules, processes, health.
Knows how to query the store; changes nothing."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from flask import Response, request, send_from_directory, url_for
from msgspec import structs

from ..app_state import current_state
from ..console import presenting
from ..console.names import nothing_matches
from ..console.previews import previews
from ..errors import ConfigurationError, DelayQError
from ..job import JobState
from .access import DENIED
from .params import job_query
from .replies import json_reply, page, reply, wants_json
from .request_access import decided, note_guess

_log = logging.getLogger(__name__)


def overview() -> Response:
    """Counts, queues and processes at a glance."""
    return reply("overview", presenting.status(current_state()))


def jobs() -> Response:
    """Jobs, newest first, by state, queue and task."""
    query = job_query()
    client = current_state().client
    now = client.now()
    # One more than needed, to know whether there is another page.
    records = client.inspect.list(structs.replace(query, limit=query.limit + 1), now=now)
    rows = [presenting.job_row(record, now) for record in records[: query.limit]]
    further = None
    if len(records) > query.limit:
        further = url_for(
            "delayq.jobs",
            state=[state.value for state in query.states] or None,
            queue=query.queue,
            task=query.task,
            limit=query.limit if "limit" in request.args else None,
            before=rows[-1]["id"],
        )
    found = {"jobs": rows, "next": further}
    if wants_json():
        return json_reply(found)
    state = current_state()
    context = {
        "more": previews(state, [row["id"] for row in rows]),
        "nothing": "" if rows else nothing_matches(state, query),
        "query": query,
        "states": list(JobState),
        "tasks": sorted(task.name for task in state.registry),
        "queues": sorted({task.declared.queue for task in state.registry}),
    }
    return page("jobs", {**found, **context})


def job(job_id: str) -> Response:
    """Everything about one job."""
    state = current_state()
    record = current_state().client.get(job_id).record
    found = presenting.job_page(state, record)
    return reply("job", {"job": found})


def queues() -> Response:
    """Queues and their jobs."""
    return reply("queues", {"queues": presenting.queues(current_state())})


def schedules() -> Response:
    """Periodic rules and when they are due."""
    return reply("schedules", {"schedules": presenting.schedules(current_state())})


def processes() -> Response:
    """Processes that run jobs, or did until they died."""
    return reply("processes", {"processes": presenting.processes(current_state())})


def health() -> Response:
    """Everything for people with ``read``, one word for others; 503 if unhealthy.

    A queue that no process serves is only a note: this process should stay in service.
    """
    try:
        # Without a probe: strangers, and there may be many of them, must not make the store or wait.
        found = presenting.health(current_state(), probe=False)
        access = decided("read")
    except ConfigurationError as error:
        _log.error("the settings of this app cannot be used: %s", error)
        found = {"status": "failing"}
        access = DENIED
    note_guess(access)
    status = 200 if found["status"] == "ok" else 503
    if access.allowed:
        if found["store"].get("bytes") != 0:  # to ask a store that is not there yet would make it
            with suppress(DelayQError):  # a store in trouble is the reason already
                found["notes"] += filter(None, [presenting.unserved(current_state())])
        response = reply("health", {"health": found})
    elif wants_json():
        response = json_reply({"status": found["status"]})
    else:
        response = Response(found["status"] + "\n", mimetype="text/plain")
    response.status_code = status
    return response


def static(filename: str) -> Response:
    """The style of the pages."""
    return send_from_directory(Path(__file__).with_name("static"), filename)
