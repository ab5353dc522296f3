"""Actions on jobs, queues and schedules from the pages; every action is logged.
Knows the app's client and schedules; the guard has already checked the permission."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flask import abort, request, url_for

from ..app_state import current_state
from ..console import presenting
from ..console.names import no_such_queue
from ..errors import BackendError
from .replies import done
from .request_access import access_for
from .token_throttle import peer_of

if TYPE_CHECKING:
    from werkzeug.wrappers import Response

_log = logging.getLogger(__name__)

PURGE_STEP = 1000
PURGE_MOST = 20_000
"""Maximum number of jobs that one request purges; the response says whether there are more."""


def cancel_job(job_id: str) -> Response:
    """Cancel a waiting job, or ask a running one to stop."""
    job = current_state().client.get(job_id)
    with _noted(job_id):
        job.cancel("by hand, from the pages")
    return _now_job(job_id)


def retry_job(job_id: str) -> Response:
    """Run a failed or cancelled job again."""
    job = current_state().client.get(job_id)
    with _noted(job_id):
        job.retry()
    return _now_job(job_id)


def _now_job(job_id: str) -> Response:
    state = current_state()
    found = presenting.job_page(state, state.client.get(job_id).record)
    return done({"job": found}, url_for("delayq.job", job_id=job_id))


def pause_queue(name: str) -> Response:
    """Begin no more jobs of a queue."""
    _refuse_unknown_queue(name)
    with _noted(name):
        current_state().client.pause(name)
    return _now_queue(name)


def resume_queue(name: str) -> Response:
    """Undo that."""
    _refuse_unknown_queue(name)
    with _noted(name):
        current_state().client.resume(name)
    return _now_queue(name)


def purge_queue(name: str) -> Response:
    """Cancel the waiting jobs of a queue."""
    _refuse_unknown_queue(name)
    client = current_state().client
    purged, more = 0, True
    with _noted(name) as details:
        while more and purged < PURGE_MOST:
            step = client.inspect.purge(name, now=client.now(), limit=PURGE_STEP)
            purged += step
            more = step == PURGE_STEP
            details[:] = [f"{purged} jobs"]
    return _now_queue(name, purged=purged, more=more)


def _refuse_unknown_queue(name: str) -> None:
    """404 for a queue that nobody uses: it is probably misspelt; ``?force=1`` overrides this."""
    if request.args.get("force") != "1" and (doubt := no_such_queue(current_state(), name)):
        abort(404, f"{doubt} (?force=1 does it nevertheless)")


def _now_queue(name: str, **facts: int) -> Response:
    found = [queue for queue in presenting.queues(current_state()) if queue["name"] == name]
    return done({"queue": found[0] if found else None, **facts}, url_for("delayq.queues"))


def pause_schedule(name: str) -> Response:
    """Pause a schedule: it enqueues nothing."""
    with _noted(name):
        current_state().schedules.pause(name)
    return _now_schedule(name)


def resume_schedule(name: str) -> Response:
    """Resume a schedule with its next occurrence."""
    with _noted(name):
        current_state().schedules.resume(name)
    return _now_schedule(name)


def remove_schedule(name: str) -> Response:
    """Delete it."""
    with _noted(name):
        current_state().schedules.remove(name)
    return _now_schedule(name)


def _now_schedule(name: str) -> Response:
    found = [one for one in presenting.schedules(current_state()) if one["name"] == name]
    return done({"schedule": found[0] if found else None}, url_for("delayq.schedules"))


@contextmanager
def _noted(name: str) -> Iterator[list[str]]:
    """Log who did what, as soon as it is done. The names were checked, so they cannot forge a log line.
    A failing store may have done a part of it, so a failure is logged as well.

    :returns: details for the line.
    """
    details: list[str] = []
    try:
        yield details
    except BackendError as error:
        _note(name, [*details, f"perhaps not all: {type(error).__name__}"])
        raise
    _note(name, details)


def _note(name: str, details: list[str]) -> None:
    verb = (request.endpoint or "").rpartition(".")[2]
    more = f" ({', '.join(details)})" if details else ""
    _log.info("%s %s, by %s from %s%s", verb, name, access_for("act").via, peer_of(request), more)
