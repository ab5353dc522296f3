"""Answers of the pages: JSON or HTML by what the client accepts, errors with their status, safe headers.
Knows requests and errors; knows no page and no store."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from flask import Response, current_app, redirect, render_template, request
from werkzeug.exceptions import HTTPException

from ..errors import (
    ArgumentError,
    BackendUnavailableError,
    DelayError,
    DelayQError,
    EnqueueUncertainError,
    InvalidNameError,
    InvalidTransitionError,
    JobConflictError,
    JobNotFoundError,
    PayloadTooLargeError,
    QueueFullError,
    ScheduleNotFoundError,
    StoreCorruptError,
    StoreMismatchError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from ..presenting import duration, seconds_of
from ..producing import BadCallError
from .access import Access, judge

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as BaseResponse

    from ..app_state import AppState
    from ..extension import DelayQ

_log = logging.getLogger(__name__)

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Vary": "Accept, Authorization, Cookie",
}
"""On every answer, errors and redirects included."""

RETRY_AFTER = "5"
"""Seconds after which a client may try again what the store could not take."""

_STATUS: tuple[tuple[type[DelayQError], int], ...] = (
    (BadCallError, 400),
    (ArgumentError, 400),
    (DelayError, 400),
    (InvalidNameError, 400),
    (TaskNotFoundError, 404),
    (JobNotFoundError, 404),
    (ScheduleNotFoundError, 404),
    (JobConflictError, 409),
    (InvalidTransitionError, 409),
    (PayloadTooLargeError, 413),
    (QueueFullError, 429),
    (UnsupportedOperationError, 501),
    (BackendUnavailableError, 503),
    (EnqueueUncertainError, 503),
    (StoreCorruptError, 503),
    (StoreMismatchError, 503),
)


def extension() -> DelayQ:
    """The extension of the current app."""
    return cast("DelayQ", current_app.extensions["delayq"])


def app_state() -> AppState:
    """What belongs to the current app."""
    return extension().state


def may(action: str) -> bool:
    """Whether whoever sent this request may do that; asked once an action and request."""
    try:
        return access_for(action).allowed
    except HTTPException:  # the access function may abort instead of answering
        return False


def access_for(action: str) -> Access:
    """The decision about this request and action."""
    # Not in `g`: an app context may outlive one request.
    known: dict[str, Access] = request.environ.setdefault("delayq.access", {})
    if action not in known:
        known[action] = judge(
            request,
            action,
            tokens=app_state().settings.admin_token,
            function=extension().access,
            debug=current_app.debug,
        )
    return known[action]


def wants_json() -> bool:
    """Whether the client asked for JSON, or sends it and did not ask for a page."""
    best = request.accept_mimetypes.best_match(["text/html", "application/json"], default="text/html")
    if best == "application/json":
        return True
    asked = request.headers.get("Accept", "")
    return request.mimetype == "application/json" and "text/html" not in asked


def json_reply(data: Any, status: int = 200) -> Response:
    """Data as JSON. Everything but ASCII is escaped: no charset can go wrong."""
    return Response(json.dumps(data) + "\n", status, mimetype="application/json")


def reply(template: str, data: dict[str, Any], **for_the_page: Any) -> Response:
    """Data as JSON, or as the page of this template.

    :param for_the_page: what only the page needs.
    """
    if wants_json():
        return json_reply(data)
    return page(template, {**data, **for_the_page})


def page(template: str, context: dict[str, Any], status: int = 200) -> Response:
    """A page."""
    now = app_state().clock.now()
    text = render_template(
        f"delayq/{template}.html",
        **context,
        may=may,
        duration=duration,
        pretty=pretty,
        since=lambda moment: now - seconds_of(moment),
    )
    # A thread or a file may bear a name that is no proper text.
    return Response(text.encode("utf-8", "replace"), status, mimetype="text/html")


def pretty(value: Any) -> str:
    """Data as JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def done(data: dict[str, Any], to: str) -> BaseResponse:
    """The answer to something done: the data as JSON, or back to a page."""
    return json_reply(data) if wants_json() else redirect(to, 303)


def text_reply(text: str, status: int) -> Response:
    """One line of text, for those who may not see a page; the same as JSON for programs."""
    if wants_json():
        return error_json(HTTPStatus(status).phrase.replace(" ", ""), text, status)
    return Response(text + "\n", status, mimetype="text/plain")


def error_json(kind: str, message: str, status: int, **facts: Any) -> Response:
    """An error as JSON."""
    return json_reply({"error": {"type": kind, "message": message, **facts}}, status)


def error_reply(kind: str, message: str, status: int, **facts: Any) -> Response:
    """An error as JSON or as a page."""
    if wants_json():
        return error_json(kind, message, status, **facts)
    return page("error", {"kind": kind, "message": message, "code": status}, status)


def on_http_error(error: HTTPException) -> BaseResponse:
    """The answer to an error that Flask or a view named by its status."""
    if error.response is not None:
        return cast("BaseResponse", error.response)
    status = error.code or 500
    response = error_reply(error.name.replace(" ", ""), error.description or error.name, status)
    for name, value in error.get_headers():
        if name not in ("Content-Type", "Content-Length"):
            response.headers[name] = value
    return response


def on_our_error(error: DelayQError) -> Response:
    """The answer to an error of this package."""
    status = status_of(error)
    if status == 500:
        # Configuration and set-up: the log is the place for what it says.
        _log.error("a page of /delayq failed: %s", error)
        # And a page could fail of the same.
        return text_reply("This app's DelayQ is not set up rightly; see its log.", 500)
    facts = {"job_ids": list(error.job_ids)} if isinstance(error, EnqueueUncertainError) else {}
    response = error_reply(type(error).__name__, str(error), status, **facts)
    if status in (429, 503):
        response.headers["Retry-After"] = RETRY_AFTER
    return response


def status_of(error: DelayQError) -> int:
    """The HTTP status that says the same as an error; 500 for those that say nothing to a client."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def secure(response: BaseResponse) -> BaseResponse:
    """Put the safe headers on an answer."""
    response.headers.update(HEADERS)
    return response
