"""All routes of ``/delayq`` in one table, each with the permission that it needs; and the guard before
them. Knows the views by name; knows nothing of what they show."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, abort, current_app, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from ..errors import DelayQError, InvalidNameError
from ..ids import check_name
from . import actions, pages, produce, threads
from .access import HOW_TO_OPEN, NOT_OURS, READING, is_same_origin
from .replies import access_for, on_http_error, on_our_error, secure, text_reply

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
    ("GET", "/threads", "act", threads.threads),  # stacks tell more than data does
    ("GET", "/produce", "produce", produce.offer),
    ("POST", "/produce", "produce", produce.take),
)
"""Method, path, permission, view. ``/health`` is apart: it has a word for everybody."""

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def admin_blueprint() -> Blueprint:
    """A new blueprint with all pages, for one app."""
    blueprint = Blueprint("delayq", __name__, template_folder="templates", static_folder="static")
    for method, path, _, view in ROUTES:
        blueprint.add_url_rule(path, view_func=view, methods=[method], strict_slashes=False)
    blueprint.add_url_rule("/health", view_func=pages.health, methods=["GET"])
    # Also what is not there is behind the guard, and gets the same headers.
    for path, methods in (("/<path:rest>", _METHODS), ("/", _METHODS[1:])):
        blueprint.add_url_rule(path, "nothing", nothing, methods=methods, strict_slashes=False)
    blueprint.before_request(guard)
    blueprint.after_request(secure)
    blueprint.register_error_handler(HTTPException, on_http_error)
    blueprint.register_error_handler(DelayQError, on_our_error)
    return blueprint


NEEDS = {f"delayq.{view.__name__}": action for _, _, action, view in ROUTES}


def guard() -> Response | None:
    """Let a request go on, or answer it: closed unless something opens it."""
    if request.endpoint == "delayq.health":
        return None  # it decides how much it says
    access = access_for(NEEDS.get(request.endpoint or "", "read"))
    if not access.allowed:
        return text_reply(HOW_TO_OPEN, 403)
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
    """Says that there is no such page, or that the page knows another method."""
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
