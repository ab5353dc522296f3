"""Whether encoding and decoding changes a value, and which part of it, in words for the caller.
Knows only values: no tasks and no store."""

from __future__ import annotations

import dataclasses
import inspect
import os
from datetime import datetime, time
from decimal import Decimal
from typing import Any

from msgspec import Struct

from .errors import shown
from .serializer import UNENCODABLE, encode
from .texts import with_article

_PLAIN = frozenset({str, int, bool, float, type(None)})


def reason_of(error: BaseException) -> tuple[str, str]:
    """The reason in a decoder's error, and the path inside the payload (``.x[0]``)."""
    if isinstance(error, RecursionError):
        return "nested too deeply", ""
    if not isinstance(error, UNENCODABLE):
        return f"decoding it raised {type(error).__name__}", ""
    reason, _, path = str(error).partition(" - at `$")
    return reason, path.rstrip("`")


def is_equal(sent: Any, got: Any) -> bool:
    try:
        return bool(sent == got)
    except Exception:  # foreign __eq__; also Decimal("sNaN") and values that are nested too deeply
        return False


def unencodable(value: Any, path: str, depth: int = 0) -> tuple[str, str] | None:
    """The innermost part that JSON cannot encode: its path and the reason."""
    try:
        encode(value)
    except UNENCODABLE as error:
        reason = reason_of(error)[0]
    else:
        return None
    if depth < 20:
        for key, part in (_parts(value) or {}).items():
            if found := unencodable(part, path + _label(value, key), depth + 1):
                return found
    return path, _advice(value, reason)


def _advice(value: Any, reason: str) -> str:
    """Why JSON cannot encode a value whose parts it can encode, and what to pass instead."""
    if isinstance(value, str):
        return "the string contains a lone surrogate (half a character); pass bytes as bytes"
    if isinstance(value, dict) and "keys" in reason:
        odd = next((key for key in value if not isinstance(key, (str, int, float))), None)
        return f"a key of a dict must be a string or a number, not {shown(odd)}"
    if "unsupported" not in reason:
        return reason
    what = f"JSON cannot encode {with_article(type(value).__name__)}"
    if isinstance(value, os.PathLike):
        return f"{what}; pass it as a string: str(path)"
    if inspect.isroutine(value) or isinstance(value, type):
        return f"{what}; pass data, and let the task do the work"
    return f"{what}; pass an id or plain data, and let the task load the object"


def plainly_alike(sent: Any, got: Any) -> bool:
    """Fast check for the usual case: True for equal values of plain JSON data; False means unknown."""
    kind = type(sent)
    if kind is not type(got):
        return False
    if kind is dict:
        return all(type(key) is str and plainly_alike(part, got[key]) for key, part in sent.items())
    if kind is list or kind is tuple:
        return all(map(plainly_alike, sent, got))
    return kind in _PLAIN


def difference(sent: Any, got: Any, strict: bool) -> tuple[str, str] | None:
    """The innermost part that JSON would change: its path inside this value, and how.

    :param strict: an equal part must also have the same type, because no annotation gives its type.
    """
    if type(sent) is not type(got):
        plain = type(sent) in _PLAIN and type(got) in _PLAIN  # 1 for 1.0, if annotated so
        if (plain or not strict) and is_equal(sent, got):
            return None
        if got is None:
            what = f"JSON has no such {type(sent).__name__}"
            return "", f"{what}: it would arrive as None; pass None or a string"
        return "", (
            f"would arrive as {type(got).__name__} instead of {type(sent).__name__}; "
            f"annotate the parameter with its type, or pass plain JSON data"
        )
    ours, theirs = _parts(sent), _parts(got)
    if ours is None or theirs is None:
        return None if _same_value(sent, got) else ("", "would arrive with another value")
    if len(ours) != len(theirs) or any(key not in theirs for key in ours):
        return "", _lost_key(sent, ours, theirs)
    for key, part in ours.items():
        if found := difference(part, theirs[key], strict):
            return _label(sent, key) + found[0], found[1]
    if strict and isinstance(sent, dict):
        twins = {key: key for key in got}
        if any(type(twins[key]) is not type(key) for key in sent):
            return (
                "",
                "its keys would arrive as another type; annotate the parameter, or use string keys",
            )
    return None


def _lost_key(sent: Any, ours: dict[Any, Any], theirs: dict[Any, Any]) -> str:
    """The part that JSON would lose, in words."""
    lost = next((key for key in ours if key not in theirs), None)
    if not isinstance(sent, dict):
        return "would arrive with other parts"
    if isinstance(lost, str):
        return f"its key {shown(lost)} would be lost: the annotation does not name it"
    if lost is None:
        return "would arrive with more keys: the annotation adds its own"
    kind = type(lost).__name__
    return (
        f"its key {shown(lost)} would arrive as a string, because JSON has no other keys; annotate the "
        f"parameter, for example dict[{kind}, ...], or use string keys"
    )


def _same_value(sent: Any, got: Any) -> bool:
    """Whether two values without parts, of the same type, are the same."""
    if isinstance(sent, (datetime, time)):
        # Not `==`: it is never true for a repeated hour, and ignores a lost time zone.
        return (
            (sent.tzinfo is None) == (got.tzinfo is None)
            and sent.utcoffset() == got.utcoffset()
            and sent.replace(tzinfo=None) == got.replace(tzinfo=None)
        )
    # NaN is not equal to NaN, but here it is the same.
    return is_equal(sent, got) or (isinstance(sent, Decimal) and str(sent) == str(got))


def _parts(value: Any) -> dict[Any, Any] | None:
    """The parts of a value by key, index or field; ``None`` if it has no parts."""
    if isinstance(value, dict):
        return value
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    if isinstance(value, (set, frozenset)):
        return {part: part for part in value}
    if isinstance(value, type):
        return None
    if isinstance(value, Struct):
        names = value.__struct_fields__
    elif dataclasses.is_dataclass(value):
        names = tuple(field.name for field in dataclasses.fields(value))
    else:
        names = tuple(field.name for field in getattr(value, "__attrs_attrs__", ()))
        if not names:
            return None
    return {name: getattr(value, name, None) for name in names}


def _label(value: Any, key: Any) -> str:
    if not isinstance(value, (dict, list, tuple)):
        return "" if isinstance(value, (set, frozenset)) else f".{key}"
    text = repr(key)
    return f"[{text}]" if len(text) <= 60 else f"[{text[:57]}...]"
