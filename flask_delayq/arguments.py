"""The arguments of one task: bound to its signature, checked, encoded, and restored by its annotations.
Knows functions and bytes; knows no job and no queue."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from .errors import ArgumentError, ConfigurationError
from .serializer import UNENCODABLE, encode

_PLAIN = frozenset({str, int, bool, float, type(None)})


class Arguments:
    """How one function's arguments travel.

    A Struct with one field per parameter does the work in C: its constructor binds the call, the
    encoder writes an object by parameter name (so reordering parameters breaks no stored job), the
    decoder checks and restores by annotation, and ``==`` tells whether all arrived as it left.

    :param function: the task's function; annotations are resolved now.
    :param task: the task's name, for errors.
    :raises ConfigurationError: for an annotation that cannot be resolved or that JSON cannot restore;
        names the task and the parameter.
    """

    def __init__(self, function: Callable[..., Any], task: str) -> None:
        self.task = task
        self.signature = inspect.signature(function)
        hints = _hints(function, task)
        parameters = list(self.signature.parameters.values())
        # Only plain parameters can be bound by the Struct's own constructor.
        self._simple = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
        fields: list[Any] = []
        self._free: list[str] = []  # names without a full annotation: checked more closely
        for parameter in parameters:
            hint = _field_type(parameter, hints.get(parameter.name, Any), task)
            if _is_free(hint):
                self._free.append(parameter.name)
            if parameter.default is parameter.empty and parameter.kind in _SINGLE:
                fields.append((parameter.name, hint))
            else:
                fields.append((parameter.name, hint | UnsetType if hint is not Any else Any, UNSET))
        self._struct: type[Struct] = msgspec.defstruct(
            "Arguments",
            fields,
            kw_only=not self._simple,
            rename={p.name: _STARS[p.kind] + p.name for p in parameters if p.kind in _STARS} or None,
            forbid_unknown_fields=True,
        )
        self._decode = msgspec.json.Decoder(self._struct).decode

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, Struct]:
        """Bind a call and encode it.

        :returns: the payload, and the arguments as they will arrive: a copy of their own, so that
            changing the originals later changes nothing.
        :raises TypeError: the call does not fit the function, as a plain call would say it.
        :raises ArgumentError: a value would not arrive as it is; names its path.
        """
        call = self._bind(args, kwargs)
        try:
            payload = encode(call)
            arrived = self._decode(payload)
        except UNENCODABLE as error:
            raise self._explain(call, error) from None
        if arrived != call or (self._free and not self._same_types(call, arrived)):
            self._refuse_changed(call, arrived)
        return payload, arrived

    def decode(self, payload: bytes) -> Struct:
        """Restore stored arguments.

        :raises ArgumentError: they do not fit the function (any more).
        """
        try:
            return self._decode(payload)
        except (msgspec.MsgspecError, RecursionError) as error:
            text = str(error)
            reason, _, path = text.partition(" - at `$")
            where = path.rstrip("`").lstrip(".") or "(all)"
            raise ArgumentError(self.task, where, f"stored value does not fit: {reason}") from None

    def from_json(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[bytes, Struct]:
        """Encode a call whose arguments are plain JSON values, as HTTP and the command line give them
        (``"2026-01-01T00:00:00Z"`` where the function takes a datetime).

        :returns: as :meth:`encode`.
        :raises TypeError: the call does not fit the function.
        :raises ArgumentError: a value does not fit its annotation; names its path.
        """
        bound = self._bound(tuple(args), kwargs)
        stars = {p.name: _STARS.get(p.kind, "") for p in self.signature.parameters.values()}
        try:
            payload = encode({stars[name] + name: value for name, value in bound.items()})
        except UNENCODABLE as error:
            raise ArgumentError(self.task, "(all)", str(error)) from None
        arrived = self.decode(payload)
        return encode(arrived), arrived

    def call(self, function: Callable[..., Any], values: Struct) -> Any:
        """Call the function with restored arguments."""
        args, kwargs = self.unpack(values)
        return function(*args, **kwargs)

    def unpack(self, values: Struct) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Restored arguments as ``args`` and ``kwargs``; parameters left out stay out."""
        given = msgspec.structs.astuple(values)
        if self._simple and UNSET not in given:
            return given, {}
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        by_position = True
        for parameter, value in zip(self.signature.parameters.values(), given, strict=True):
            if parameter.kind is parameter.VAR_KEYWORD:
                kwargs.update(value or {})
            elif parameter.kind is parameter.VAR_POSITIONAL:
                args.extend(value or ())
            elif value is UNSET:
                by_position = False
            elif by_position and parameter.kind is not parameter.KEYWORD_ONLY:
                args.append(value)
            else:
                kwargs[parameter.name] = value
        return tuple(args), kwargs

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Struct:
        if self._simple:
            try:
                return self._struct(*args, **kwargs)
            except TypeError:
                pass  # bind again for Python's own words
        return self._struct(**self._bound(args, kwargs))

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            bound = self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{self.task}() {error}") from None
        for parameter in self.signature.parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL and parameter.name in bound:
                bound[parameter.name] = list(bound[parameter.name])
        return bound

    def _same_types(self, sent: Struct, arrived: Struct) -> bool:
        for name in self._free:
            value = getattr(sent, name)
            if type(value) not in _PLAIN and not _alike(value, getattr(arrived, name)):
                return False
        return True

    def _explain(self, call: Struct, error: BaseException) -> ArgumentError:
        for name in call.__struct_fields__:
            value = getattr(call, name)
            if value is not UNSET and (found := _unencodable(value, name)):
                return ArgumentError(self.task, *found)
        reason, _, path = str(error).partition(" - at `$")
        return ArgumentError(self.task, path.rstrip("`").lstrip(".") or "(all)", reason)

    def _refuse_changed(self, call: Struct, arrived: Struct) -> None:
        for name in call.__struct_fields__:
            sent, got = getattr(call, name), getattr(arrived, name)
            found = _difference(sent, got, name)
            if found is None:
                continue
            # Objects that compare by identity never equal their copy; the same type and the same
            # bytes are then the best proof there is.
            if type(sent) is type(got) and name not in self._free and encode(sent) == encode(got):
                continue
            raise ArgumentError(self.task, *found)


_SINGLE = frozenset(
    {
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    }
)
_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def _hints(function: Callable[..., Any], task: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise ConfigurationError(
            f"task {task!r}: an annotation cannot be resolved: {error}; "
            f"names used in annotations of a task must exist at run time"
        ) from error


def _field_type(parameter: inspect.Parameter, hint: Any, task: str) -> Any:
    if parameter.kind is parameter.VAR_POSITIONAL:
        hint = list[hint]
    elif parameter.kind is parameter.VAR_KEYWORD:
        hint = dict[str, hint]
    try:
        msgspec.json.Decoder(hint)
        kinds = _custom_types(msgspec.inspect.type_info(hint))
    except (TypeError, NameError) as error:
        kinds = [str(error)]
    if kinds:
        raise ConfigurationError(
            f"task {task!r}, parameter {parameter.name!r}: JSON cannot restore {kinds[0]}; "
            f"pass an id or plain data instead"
        )
    return hint


def _custom_types(info: Any, seen: frozenset[int] = frozenset()) -> list[str]:
    """Names of the types inside a type that need a hook, which we do not have."""
    if isinstance(info, msgspec.inspect.CustomType):
        return [getattr(info.cls, "__qualname__", str(info.cls))]
    if not isinstance(info, (Struct, tuple, list)) or id(info) in seen:
        return []
    inside = msgspec.structs.astuple(info) if isinstance(info, Struct) else info
    return [name for part in inside for name in _custom_types(part, seen | {id(info)})]


def _is_free(hint: Any) -> bool:
    return hint is Any or Any in typing.get_args(hint) or hint in (list, dict, tuple, object)


def _alike(sent: Any, got: Any) -> bool:
    """Equal in value is not enough where nothing is annotated: types must agree as well."""
    if type(sent) is not type(got):
        return False
    if isinstance(sent, dict):
        return all(key in got and _alike(value, got[key]) for key, value in sent.items())
    if isinstance(sent, (list, tuple)):
        return all(_alike(a, b) for a, b in zip(sent, got, strict=True))
    return True


def _unencodable(value: Any, path: str, depth: int = 0) -> tuple[str, str] | None:
    """The innermost part that JSON cannot carry: its path and the reason."""
    try:
        encode(value)
    except UNENCODABLE as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    else:
        return None
    if depth < 20:
        for label, part in _parts(value):
            if found := _unencodable(part, path + label, depth + 1):
                return found
    return path, reason


def _difference(sent: Any, got: Any, path: str) -> tuple[str, str] | None:
    """The innermost part that would arrive changed: its path and how."""
    if type(sent) is type(got):
        ours, theirs = dict(_parts(sent)), dict(_parts(got))
        for label, part in ours.items():
            if label in theirs and (found := _difference(part, theirs[label], path + label)):
                return found
        if sent == got and _alike(sent, got):
            return None
    elif sent == got and type(got) in _PLAIN and type(sent) in _PLAIN:
        return None
    if got is None:
        return path, f"JSON has no such {type(sent).__name__}: it would arrive as null"
    return path, (
        f"would arrive as {type(got).__name__} instead of {type(sent).__name__}; "
        f"annotate the parameter, or pass plain JSON data"
    )


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    return []
