"""Responses of the pages: JSON or HTML by what the client accepts, with safe headers.
Knows requests; knows no page, no error of this package and no store."""

from __future__ import annotations

import json
from functools import cache
from http import HTTPStatus
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Response, redirect, request, url_for
from jinja2 import Environment, FileSystemLoader

from ..app_state import current_state
from ..console.presenting import duration, seconds_of, size
from ..console.waiting import how_to_run
from ..texts import visible
from .access import Access
from .request_access import may, note_guess

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from werkzeug.datastructures import Headers
    from werkzeug.wrappers import Response as BaseResponse

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept, Authorization, Cookie",
}
"""Set on every response, also errors and redirects; they replace those of the app."""

_SHARING = "access-control-"
"""The prefix of CORS headers, which are removed from every response."""


def wants_json() -> bool:
    """Whether the client asked for JSON, or sends it and did not ask for a page."""
    best = request.accept_mimetypes.best_match(["text/html", "application/json"], default="text/html")
    if best == "application/json":
        return True
    asked = request.headers.get("Accept", "")
    return request.mimetype == "application/json" and "text/html" not in asked


def json_reply(data: Any, status: int = 200) -> Response:
    """Data as JSON. Everything but ASCII is escaped, so the charset does not matter."""
    return Response(json.dumps(data) + "\n", status, mimetype="application/json")


def reply(template: str, data: dict[str, Any], **for_the_page: Any) -> Response:
    """Data as JSON, or as the page of this template.

    :param for_the_page: values that only the page needs.
    """
    if wants_json():
        return json_reply(data)
    return page(template, {**data, **for_the_page})


def page(template: str, context: dict[str, Any], status: int = 200) -> Response:
    """A page."""
    now = current_state().clock.now()
    text = (
        _templates()
        .get_template(f"delayq/{template}.html")
        .render(
            **context,
            here=request.endpoint,
            may=may,
            url_for=url_for,
            duration=duration,
            size=size,
            pretty=pretty,
            how_to_run=lambda: how_to_run(current_state()),
            since=lambda moment: now - seconds_of(moment),
        )
    )
    # The name of a thread or a file may contain lone surrogates.
    return Response(text.encode("utf-8", "replace"), status, mimetype="text/html")


@cache
def _templates() -> Environment:
    """A separate Jinja environment for our templates: the app's environment may have no escaping or
    other delimiters."""
    folder = Path(__file__).with_name("templates")
    return Environment(loader=FileSystemLoader(folder), autoescape=True, finalize=_seen)


def _seen(value: Any) -> Any:
    """Foreign text with the characters escaped that reverse or hide parts of it."""
    return visible(value, lines=True) if type(value) is str else value


def pretty(value: Any) -> str:
    """Data as JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def done(data: dict[str, Any], to: str) -> BaseResponse:
    """The response to an action: the data as JSON, or a redirect to a page."""
    return json_reply(data) if wants_json() else redirect(to, 303)


def text_reply(text: str, status: int) -> Response:
    """One line of text for clients without access to a page; for programs the same as JSON."""
    if wants_json():
        return error_json(HTTPStatus(status).phrase.replace(" ", ""), text, status)
    return Response(text + "\n", status, mimetype="text/plain")


def refused(access: Access, text: str) -> Response:
    """The response to a denied request; counts a wrong token."""
    if access.pause:
        seconds = ceil(access.pause)
        response = text_reply(f"Too many wrong tokens from this address; wait {seconds} s.", 429)
        response.headers["Retry-After"] = str(seconds)
        return response
    note_guess(access)
    return text_reply(text, 403)


def error_json(kind: str, message: str, status: int, **facts: Any) -> Response:
    """An error as JSON."""
    return json_reply({"error": {"type": kind, "message": message, **facts}}, status)


def error_reply(kind: str, message: str, status: int, **facts: Any) -> Response:
    """An error as JSON or as a page."""
    if wants_json():
        return error_json(kind, message, status, **facts)
    return page("error", {"kind": kind, "message": message, "code": status}, status)


def secure(response: BaseResponse) -> BaseResponse:
    """Set the safe headers on a response so that extensions cannot replace them later."""
    response.headers.update(HEADERS)
    response.__class__ = _secured(type(response))
    return response


_classes: dict[type[BaseResponse], type[BaseResponse]] = {}


def _secured(kind: type[BaseResponse]) -> type[BaseResponse]:
    """A subclass of this response class that sends the safe headers."""
    if kind in _classes:
        return _classes[kind]

    def get_wsgi_headers(self: BaseResponse, environ: WSGIEnvironment) -> Headers:
        headers = kind.get_wsgi_headers(self, environ)
        for name in [name for name, _ in headers if name.lower().startswith(_SHARING)]:
            del headers[name]
        headers.update(HEADERS)
        return headers

    made: type[BaseResponse] = type(kind.__name__, (kind,), {"get_wsgi_headers": get_wsgi_headers})
    return _classes.setdefault(kind, made)
