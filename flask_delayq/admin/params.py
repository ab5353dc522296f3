"""Query parameters and bodies of clients, checked and limited before they are used.
Knows requests; knows no page and no store."""

from __future__ import annotations

import re

from flask import abort, request

from ..errors import InvalidNameError
from ..ids import check_name
from ..job import JobQuery, JobState

PAGE = 50
"""Jobs on a page, unless ``limit`` says otherwise."""

LARGEST_PAGE = 200

BODY_EXTRA = 16 * 1024
"""Bytes that a request may have in addition to the arguments."""

_NUMBER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)


def job_query() -> JobQuery:
    """The query in this request's parameters: ``state`` (repeatable), ``queue``, ``task``, ``before``,
    ``limit`` (clamped to 1..200). Responds with 400 to a bad value."""
    states = [text for text in request.args.getlist("state") if text]
    try:
        wanted = tuple(dict.fromkeys(JobState(text) for text in states))
    except ValueError:
        abort(400, f"state must be one of {', '.join(JobState)}")
    return JobQuery(wanted, _name("queue"), _name("task"), _name("before"), _limit())


def _limit() -> int:
    text = _single("limit")
    if text is None:
        return PAGE
    if not _NUMBER.fullmatch(text):
        abort(400, "limit must be a whole number")
    return min(max(int(text), 1), LARGEST_PAGE)


def _name(parameter: str) -> str | None:
    text = _single(parameter)
    try:
        return None if text is None else check_name(parameter, text)
    except InvalidNameError as error:
        abort(400, str(error))


def _single(parameter: str) -> str | None:
    """The only value of a parameter; ``None`` if it is missing or empty."""
    values = request.args.getlist(parameter)
    if len(values) > 1:
        abort(400, f"{parameter} is given {len(values)} times")
    return values[0] if values and values[0] else None


def json_body(limit: int) -> bytes:
    """The body, at most ``limit`` bytes, also without a Content-Length."""
    length = request.content_length
    if length is not None:
        _check_size(length, limit)
        return request.get_data()
    parts: list[bytes] = []
    size = 0
    while part := request.stream.read(min(65_536, limit + 1 - size)):
        parts.append(part)
        size += len(part)
        _check_size(size, limit)
    return b"".join(parts)


def form_body(limit: int) -> dict[str, str]:
    """The fields of a form (the first value of each)."""
    length = request.content_length
    if length is None:
        abort(411)
    _check_size(length, limit)
    return request.form.to_dict()


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        abort(413, f"the request takes more than {limit:,} bytes")
