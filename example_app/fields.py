"""Reads the fields of a request, a form or JSON, and answers 400 if a field is invalid.
Knows no route, no task and no store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flask import abort, request

LONGEST_TEXT = 1000


def fields() -> Mapping[str, Any]:
    """The fields of this request, by name."""
    given = request.get_json() if request.is_json else request.form
    if not isinstance(given, Mapping):
        abort(400, "send a JSON object")
    return given


def text(given: Mapping[str, Any], name: str) -> str:
    """A text that is not blank."""
    value = given.get(name)
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_TEXT:
        abort(400, f"{name} must be a text of 1 to {LONGEST_TEXT} characters")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can contain a lone surrogate: "\ud800"
        abort(400, f"{name} is no Unicode text")
    return value


def number(given: Mapping[str, Any], name: str, least: float, most: float) -> float:
    """A number from ``least`` to ``most``."""
    try:
        value = float(given.get(name, ""))
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not least <= value <= most:  # NaN is neither
        abort(400, f"{name} must be a number from {least:g} to {most:g}")
    return value
