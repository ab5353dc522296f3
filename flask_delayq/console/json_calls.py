"""Enqueues a call written as plain JSON: for HTTP and the command line.
Knows the signature of tasks; does not decide who may produce what."""

from __future__ import annotations

import inspect
import typing
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct, structs

from ..client import Client
from ..errors import ArgumentError, ConfigurationError, DelayQError, shown
from ..handle import Job
from ..ids import check_name, new_id
from ..options import CallOptions
from ..task import Task
from .redacting import HIDDEN, Redaction


class BadCallError(DelayQError, ValueError):
    """The call is malformed or contradictory."""


class NotOpenError(BadCallError):
    """The sender may not choose this queue or priority."""


class JsonCall(Struct, frozen=True, forbid_unknown_fields=True):
    """One call as plain JSON; ``None``: use the task's own option."""

    task: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    delay: float | None = None
    """Seconds; at most one of ``delay`` and ``run_at``."""
    run_at: datetime | None = None
    """ISO 8601 with a time zone."""
    queue: str | None = None
    priority: str | None = None
    id: str | None = None

    @classmethod
    def read(cls, data: bytes) -> JsonCall:
        """A call from JSON.

        :raises BadCallError: it is not a call.
        """
        try:
            return _calls.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadCallError(f"the call cannot be read: {error}") from None
        except RecursionError:
            raise BadCallError("the call cannot be read: it is nested too deeply") from None


_calls = msgspec.json.Decoder(JsonCall)


_LIKE = {
    list: """; write it like '["ann", 1]'""",
    dict: """; write it like '{"to": "ann"}'""",
    float: "; write a number",
}


def read_json(what: str, text: str, kind: type[Any]) -> Any:
    """A value from JSON text.

    :param what: its name in the error.
    :param kind: the required type.
    :raises BadCallError: it is not JSON of that type.
    """
    try:
        return msgspec.json.decode(text.encode("utf-8", "replace"), type=kind)
    except msgspec.MsgspecError as error:
        like = _LIKE.get(getattr(kind, "__origin__", kind), "")
        # What a form holds may be a secret, and is still in its field.
        value = f" {shown(text)}" if what.startswith("--") else ""
        raise BadCallError(f"{what}{value} cannot be read: {error}{like}") from None
    except RecursionError:
        raise BadCallError(f"{what} cannot be read: it is nested too deeply") from None


def read_moment(text: str, what: str = "run_at") -> datetime:
    """A time from ISO 8601 text.

    :param what: its name in the error.
    :raises BadCallError: it is not ISO 8601, or has no time zone.
    """
    try:
        return _zoned(msgspec.convert(text, datetime), what)
    except msgspec.MsgspecError:
        raise BadCallError(
            f"{what} {text[:60]!r} cannot be read; write it like 2030-01-31T08:00:00+01:00"
        ) from None


def _zoned(moment: datetime, what: str) -> datetime:
    if moment.tzinfo is None:
        raise BadCallError(
            f"{what} {moment} has no time zone; "
            f"write {moment.isoformat()}Z for UTC, or an offset like +01:00 in place of the Z"
        )
    return moment


def produce(client: Client, task: Task[..., Any], call: JsonCall) -> Job[Any]:
    """Enqueue a call of this task.

    :raises BadCallError: it contradicts itself, or has a bad option.
    :raises ArgumentError: the arguments do not fit the task.
    :raises DelayQError: whatever else ``enqueue`` raises.
    """
    if call.delay is not None and call.run_at is not None:
        raise BadCallError("give delay or run_at, not both")
    if call.run_at is not None:
        _zoned(call.run_at, "run_at")
    try:
        options = CallOptions().with_changes(id=call.id, queue=call.queue, priority=call.priority)
    except ConfigurationError as error:
        raise BadCallError(str(error)) from None
    try:
        encoded = task.arguments.from_json(call.args, call.kwargs)
    except ArgumentError:
        raise
    except TypeError as error:  # with the message of a plain call that does not fit
        raise ArgumentError(task.name, "(all)", str(error)) from None
    return client.enqueue_encoded(task, [encoded], options, call.delay, call.run_at)[0]


FROM_OUTSIDE = "http-"
"""The prefix of the ids of all jobs that people without the admin token produce."""


def queues_of(task: Task[..., Any]) -> tuple[str, ...]:
    """The queues into which people without the admin token may put jobs of a task, its own first."""
    declared = task.declared
    return tuple(dict.fromkeys((declared.queue, *declared.produce_queues)))


def priorities_of(task: Task[..., Any]) -> tuple[str, ...]:
    """The priorities that people without the admin token may choose, its own first."""
    declared = task.declared
    levels = (declared.priority, *declared.produce_priorities)
    return tuple(dict.fromkeys(level.name.lower() for level in levels))


def from_outside(task: Task[..., Any], call: JsonCall) -> JsonCall:
    """A call of this task as people without the admin token may make it.

    They must not create queues without limit or use queues of other tasks. All their ids get a prefix:
    so they can neither take an id that the app is going to use nor find out which ids are in use. An id
    from a response can be used to repeat the call.

    :raises NotOpenError: they may not choose the queue or the priority.
    :raises InvalidNameError: the id is not allowed.
    """
    for what, wanted, offered in (
        ("queue", call.queue, queues_of(task)),
        ("priority", call.priority, priorities_of(task)),
    ):
        if wanted is not None and wanted not in offered:
            raise NotOpenError(
                f"without the admin token the {what} of task {task.name!r} is {' or '.join(offered)},"
                f" not {shown(wanted)}"
            )
    chosen = new_id() if call.id is None else check_name("job id", call.id)
    if not chosen.startswith(FROM_OUTSIDE):
        chosen = check_name("job id", FROM_OUTSIDE + chosen)
    return structs.replace(call, id=chosen)


class Parameter(Struct, frozen=True):
    """One parameter of a task, for a form."""

    name: str
    kind: str
    """``"text"``, ``"flag"`` or ``"json"``: how its value is written."""
    annotation: str
    """The annotation as in the code; empty without one."""
    default: str | None
    """The default as Python writes it; ``None`` for required parameters, ``*args`` and ``**kwargs``."""
    required: bool
    star: str = ""
    """``"*"`` or ``"**"`` for parameters with any number of values."""
    keyword: bool = True
    """Whether it can be passed by name."""


def parameters(task: Task[..., Any], redact: tuple[str, ...]) -> list[Parameter]:
    """The parameters of a task, in order.

    :param redact: words that make a parameter's default secret.
    """
    redaction = Redaction(redact)
    try:
        hints = typing.get_type_hints(task.function)
    except (NameError, TypeError, AttributeError, SyntaxError):
        hints = {}
    found = []
    for one in inspect.signature(task.function).parameters.values():
        annotated = one.annotation is not one.empty
        note = one.annotation if isinstance(one.annotation, str) else ""
        if annotated and not note:
            note = inspect.formatannotation(one.annotation)
        star = _STARS.get(one.kind, "")
        default = None
        if one.default is not one.empty:
            default = HIDDEN if redaction.hides(one.name) else _short(one.default, redact)
        found.append(
            Parameter(
                one.name,
                "json" if star else _written_as(hints.get(one.name)),
                note,
                default,
                default is None and not star,
                star,
                one.kind is not one.POSITIONAL_ONLY,
            )
        )
    return found


_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def _written_as(hint: Any) -> str:
    alternatives = set(typing.get_args(hint)) or {hint}
    if alternatives <= {str, type(None)}:
        return "text" if str in alternatives else "json"
    return "flag" if alternatives == {bool} else "json"


def _short(value: object, redact: tuple[str, ...]) -> str:
    """A default as Python writes it, without the secrets in it."""
    redaction = Redaction(redact)
    with suppress(TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        redaction.learn(msgspec.to_builtins(value, str_keys=True))
    text = redaction.text(repr(redaction.clean(value)))
    return text if len(text) <= 80 else text[:77] + "..."


def call_from_fields(
    task: Task[..., Any], fields: dict[str, str], redact: tuple[str, ...]
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments from the fields of a form, by parameter name. Empty fields are omitted, except for
    required string parameters.

    A field is decoded as JSON if possible, else used as a string (``2026-01-01T08:00:00Z`` needs no
    quotes). For a parameter annotated as ``str`` it is always a string.

    :raises BadCallError: ``*args`` is not a JSON array, or ``**kwargs`` not a JSON object.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    known = parameters(task, redact)
    many = any(one.star == "*" and fields.get(one.name, "").strip() for one in known)
    before_star = many
    for one in known:
        text = fields.get(one.name, "")
        if one.star == "*":
            before_star = False
            if text.strip():
                args.extend(read_json(f"*{one.name}", text, list[Any]))
        elif one.star == "**":
            if text.strip():
                kwargs.update(read_json(f"**{one.name}", text, dict[str, Any]))
        elif text.strip() or (one.required and one.kind == "text"):
            value = text if one.kind == "text" else _loose(text)
            if before_star or not one.keyword:
                args.append(value)
            else:
                kwargs[one.name] = value
        elif before_star:
            raise BadCallError(f"{one.name} must not be empty, because a later parameter has a value")
    return args, kwargs


def _loose(text: str) -> Any:
    try:
        return msgspec.json.decode(text.encode("utf-8", "replace"))
    except msgspec.DecodeError:
        return text.strip()
    except RecursionError:
        raise BadCallError("a value is nested too deeply") from None
