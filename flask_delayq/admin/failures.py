"""What the pages answer when something goes wrong: errors of Flask, of this package, of an access
function. Knows errors and their status; knows no page and no store."""

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
    " These pages have a protection of their own: exempt them after init_app,"
    ' csrf.exempt(app.blueprints["delayq"]).'
)

RETRY_AFTER = "5"
"""Seconds after which a client may try again what the store could not take."""

CODES = (400, 404, 405, 411, 413, 415, 500)
"""What the pages themselves raise. Flask asks a handler of the app for one code before one of ours for
all codes. 401 and 403 are left to the app, whose login may be behind them."""

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
    """Have the errors in requests to a blueprint answered here."""
    for code in CODES:
        blueprint.register_error_handler(code, on_http_error)
    blueprint.register_error_handler(HTTPException, on_http_error)
    blueprint.register_error_handler(DelayQError, on_our_error)


def on_http_error(error: HTTPException) -> BaseResponse:
    """The answer to an error that Flask or a view named by its status."""
    if error.response is not None:
        return cast("BaseResponse", error.response)
    status = error.code or 500
    message = error.description or error.name
    if status >= 500:
        return text_reply(message, status)  # a page could fail of the same
    if (
        type(error).__name__ == "CSRFError"
    ):  # Flask-WTF, which asks for its own token before we are asked
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
    """The answer to an error of this package."""
    status = status_of(error)
    if status == 500:
        # Configuration and set-up: the log is the place for what it says.
        _log.error("a page of /delayq failed: %s", error)
        # And a page could fail of the same.
        return text_reply("This app's DelayQ is not set up rightly; see its log.", 500)
    facts = {"job_ids": list(error.job_ids)} if isinstance(error, EnqueueUncertainError) else {}
    response = error_reply(type(error).__name__, message_of(error), status, **facts)
    if status in (429, 503):
        response.headers["Retry-After"] = RETRY_AFTER
    return response


def message_of(error: DelayQError) -> str:
    """What an error says to this client: where the store lies is for those alone who may read."""
    if isinstance(error, _OF_THE_STORE) and not may("read"):
        return "The store of this app cannot do that now; its log says why."
    return str(error)


def status_of(error: DelayQError) -> int:
    """The HTTP status that says the same as an error; 500 for those that say nothing to a client."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
