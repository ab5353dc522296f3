"""Error responses of the pages: for errors of Flask, of this package and of an access function.
Knows errors and their status; knows no page and no store."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

from flask import Blueprint, Response, current_app, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RoutingException

from ..console.json_calls import BadCallError, NotOpenError
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
from .replies import error_reply, text_reply, wants_json
from .request_access import may

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as BaseResponse

_log = logging.getLogger(__name__)

CSRF_HINT = (
    " These pages have their own CSRF protection: exempt them after init_app,"
    ' csrf.exempt(app.blueprints["delayq"]).'
)

RETRY_AFTER = "5"
"""Seconds after which a client may try again if the store is unavailable."""

CODES = (400, 404, 405, 411, 413, 415, 500)
"""What the pages themselves raise. Flask prefers the app's handler for one code to ours for all codes.
401 and 403 are left to the app, which may show its login."""

_STATUS: tuple[tuple[type[DelayQError], int], ...] = (
    (NotOpenError, 403),
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

_OF_THE_STORE = (
    BackendUnavailableError,
    StoreCorruptError,
    StoreMismatchError,
    UnsupportedOperationError,
)


def register(blueprint: Blueprint) -> None:
    """Register the error handlers of a blueprint."""
    for code in CODES:
        blueprint.register_error_handler(code, on_http_error)
    blueprint.register_error_handler(HTTPException, on_http_error)
    blueprint.register_error_handler(DelayQError, on_our_error)


def on_http_error(error: HTTPException) -> BaseResponse:
    """The response to an HTTP error of Flask or of a view."""
    if error.response is not None:
        return cast("BaseResponse", error.response)
    status = error.code or 500
    message = error.description or error.name
    if status >= 500:
        return text_reply(message, status)  # an HTML page could fail with the same error
    if type(error).__name__ == "CSRFError":  # Flask-WTF checks its own token before our guard runs
        message += CSRF_HINT
    return _with_headers_of(error, error_reply(error.name.replace(" ", ""), message, status))


def _with_headers_of(error: HTTPException, response: Response) -> Response:
    """The response with what the error itself wants in its headers, for example ``WWW-Authenticate``."""
    for name, value in error.get_headers():
        if name.title() not in ("Content-Type", "Content-Length"):
            response.headers.add(name, value)  # a 401 may name several ways in
    return response


def answer_of_the_app(error: HTTPException) -> Any:
    """The answer to an ``abort`` of the access function: the app's own page for it, so that the app can
    lead to its login or look as if there were no such page."""
    if error.response is not None:
        return error.response
    if isinstance(error, RoutingException):  # a redirect, which is no error to Flask either
        return error.get_response(request.environ)
    if not wants_json():
        handlers = current_app.error_handler_spec[None]
        for code in (error.code, None):
            for kind in type(error).__mro__:
                if (handler := handlers.get(code, {}).get(kind)) is not None:
                    return current_app.ensure_sync(handler)(error)
    return _with_headers_of(error, text_reply(error.description or error.name, error.code or 500))


def on_our_error(error: DelayQError) -> Response:
    """The response to an error of this package."""
    status = status_of(error)
    if status == 500:
        # Configuration and setup: the message belongs in the log.
        _log.error("a page of /delayq failed: %s", error)
        # And an HTML page could fail with the same error.
        return text_reply("The DelayQ of this app is not configured correctly; see its log.", 500)
    facts = {"job_ids": list(error.job_ids)} if isinstance(error, EnqueueUncertainError) else {}
    response = error_reply(type(error).__name__, message_of(error), status, **facts)
    if status in (429, 503):
        response.headers["Retry-After"] = RETRY_AFTER
    return response


def message_of(error: DelayQError) -> str:
    """The error message for this client: only people with ``read`` see the path of the store."""
    if isinstance(error, _OF_THE_STORE) and not may("read"):
        return "The store of this app is unavailable now; see its log."
    return str(error)


def status_of(error: DelayQError) -> int:
    """The HTTP status of an error; 500 if it is not for clients."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
