"""JSON by msgspec, the only format that jobs are stored in. There is no pickle anywhere.
Knows the encoding of values, not their meaning."""

from __future__ import annotations

from typing import Any

import msgspec

from .errors import RuleError
from .job import Failure
from .recurrence import Cron, Every

# Deterministic: sets and dict keys are sorted, so equal arguments give equal bytes. So a repeated
# enqueue with the same id is idempotent.
_encoder = msgspec.json.Encoder(order="deterministic")
_plain_encoder = msgspec.json.Encoder()
_failures = msgspec.json.Decoder(Failure)
_rules = msgspec.json.Decoder(Every | Cron)

UNENCODABLE = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)
"""What encoding raises for a value that JSON cannot encode (``UnicodeEncodeError`` is a ValueError)."""

decode = msgspec.json.decode


def encode(value: object) -> bytes:
    """JSON bytes of a value.

    :raises Exception: one of :data:`UNENCODABLE`, for a value that JSON cannot encode.
    """
    try:
        return _encoder.encode(value)
    except TypeError:
        pass
    try:
        # The sorting encoder accepts only string keys, so the keys are converted first.
        return _encoder.encode(msgspec.to_builtins(value, str_keys=True, order="deterministic"))
    except TypeError:
        # A set of values that cannot be compared, or a value that JSON cannot encode (this names it).
        return _plain_encoder.encode(value)


def decode_object(data: bytes | None) -> dict[str, Any]:
    """A stored JSON object as a dict; empty if nothing, or something else, is stored."""
    if not data:
        return {}
    value = decode(data)
    return value if isinstance(value, dict) else {}


def encode_failure(failure: Failure) -> bytes:
    """The stored form of a failure. Lone surrogates in foreign strings are replaced."""
    try:
        return _encoder.encode(failure)
    except UnicodeEncodeError:
        clean = (
            text.encode("utf-8", "replace").decode("utf-8")
            for text in (failure.type, failure.message, failure.traceback)
        )
        return _encoder.encode(Failure(*clean))


def decode_failure(data: bytes | None) -> Failure | None:
    """The failure stored in ``error``; if it cannot be decoded, a failure that says so."""
    if not data:
        return None
    try:
        return _failures.decode(data)
    except msgspec.MsgspecError:
        return Failure("Unreadable", "the stored error cannot be read")


def encode_rule(rule: Every | Cron) -> str:
    """The stored form of a periodic rule."""
    return _encoder.encode(rule).decode()


def decode_rule(text: str) -> Every | Cron:
    """The rule that :func:`encode_rule` wrote.

    :raises RuleError: the text is not a rule.
    """
    try:
        rule: Every | Cron = _rules.decode(text)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise RuleError(f"it cannot be decoded: {error}") from error
    return rule
