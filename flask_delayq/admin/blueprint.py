"""All routes of ``/delayq`` in one table, each with the permission that it needs; and the guard before
them. Knows the views by name; knows nothing of what they show."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, abort, current_app, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from ..errors import InvalidNameError
from ..ids import check_name
from . import actions, failures, metrics, pages, produce, threads
from .access import HOW_TO_OPEN, NOT_OURS, READING, is_same_origin
from .replies import refused, secure, text_reply
from .request_access import access_for, may, note_guess

ROUTES: tuple[tuple[str, str, str, Any], ...] = (
    ("GET", "/", "read", pages.overview),
    ("GET", "/jobs", "read", pages.jobs),
    ("GET", "/jobs/<job_id>", "read", pages.job),
    ("POST", "/jobs/<job_id>/cancel", "act", actions.cancel_job),
    ("POST", "/jobs/<job_id>/retry", "act", actions.retry_job),
    ("GET", "/queues", "read", pages.queues),
    ("POST", "/queues/<name>/pause", "act", actions.pause_queue),
    ("POST", "/queues/<name>/resume", "act", actions.resume_queue),
    ("POST", "/queues/<name>/purge", "act", actions.purge_queue),
    ("GET", "/schedules", "read", pages.schedules),
    ("POST", "/schedules/<name>/pause", "act", actions.pause_schedule),
    ("POST", "/schedules/<name>/resume", "act", actions.resume_schedule),
    ("POST", "/schedules/<name>/remove", "act", actions.remove_schedule),
    ("GET", "/processes", "read", pages.processes),
    ("GET", "/metrics", "read", metrics.metrics),
    ("GET", "/threads", "act", threads.threads),  # stacks reveal more than the data
    ("GET", "/produce", "produce", produce.offer),
    ("POST", "/produce", "produce", produce.take),
)
"""Method, path, permission, view. ``/health`` is separate: it answers everybody."""

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


def admin_blueprint(*, any_host: bool = False) -> Blueprint:
    """A new blueprint with all pages, for one app.

    :param any_host: the app uses ``host_matching``: the pages are on all its hosts.
    """
    blueprint = Blueprint("delayq", __name__)
    rule = blueprint.add_url_rule
    more: dict[str, Any] = {"host": f"<{_HOST}>"} if any_host else {}
    if any_host:
        blueprint.url_value_preprocessor(_forget_host)
        blueprint.url_defaults(_keep_host)
    for method, path, _, view in ROUTES:
        rule(path, view_func=view, methods=[method], strict_slashes=False, **more)
    rule("/health", view_func=pages.health, methods=["GET"], **more)
    rule("/static/<path:filename>", view_func=pages.static, methods=["GET"], **more)
    # Unknown paths are behind the guard, too, and get the same headers.
    for path, methods in (("/<path:rest>", _METHODS), ("/", _METHODS[1:])):
        rule(path, "nothing", nothing, methods=methods, strict_slashes=False, **more)
    blueprint.before_request(guard)
    blueprint.after_request(secure)
    failures.register(blueprint)
    return blueprint


_HOST = "delayq_host"


def _forget_host(endpoint: str | None, values: dict[str, Any] | None) -> None:
    if values is not None:
        values.pop(_HOST, None)


def _keep_host(endpoint: str, values: dict[str, Any]) -> None:
    """Make links point to the host of the request."""
    values.setdefault(_HOST, request.host)


NEEDS = {f"delayq.{view.__name__}": action for _, _, action, view in ROUTES}


def guard() -> Any:
    """Let a request pass, or refuse it: access is denied unless a rule allows it."""
    if request.endpoint == "delayq.health":
        return None  # this view decides itself how much it shows
    if request.endpoint == "delayq.static" and any(map(may, ("act", "produce"))):
        return None  # the style of a page that is allowed
    try:
        access = access_for(NEEDS.get(request.endpoint or "", "read"))
    except HTTPException as error:
        return failures.answer_of_the_app(error)
    if not access.allowed:
        return refused(access, HOW_TO_OPEN)
    note_guess(access)
    if request.method not in READING and access.via != "token" and not is_same_origin(request):
        return text_reply(NOT_OURS, 403)
    if request.endpoint in NEEDS:
        try:
            for what, value in (request.view_args or {}).items():
                check_name(what, value)
        except InvalidNameError:
            abort(404)
    return None


def nothing(rest: str = "") -> Response:
    """Answer 404 for an unknown page, or 405 for a wrong method."""
    adapter = current_app.create_url_adapter(request)
    assert adapter is not None
    known = []
    for method in ("GET", "POST"):
        try:
            endpoint, _ = adapter.match(method=method)
        except HTTPException:
            continue
        if endpoint != request.endpoint:
            known.append(method)
    if known:
        raise MethodNotAllowed(known)
    raise NotFound("There is no such page.")
