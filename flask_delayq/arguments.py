"""The arguments of one task: bound to its signature, checked, encoded, and decoded by its annotations.
Knows functions and bytes; knows no job and no queue."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from .arriving import difference, is_equal, plainly_alike, reason_of, unencodable
from .errors import ArgumentError, ConfigurationError
from .options import option_among
from .serializer import UNENCODABLE, encode


class Arguments:
    """How one function's arguments are encoded and decoded.

    A Struct with one field per parameter does the work in C: its constructor binds the call, the
    encoder writes a JSON object by parameter name (so reordering parameters breaks no stored job), the
    decoder checks and decodes by annotation, and ``==`` compares the decoded arguments with the
    originals.

    :param function: the task's function; annotations are resolved now.
    :param task: the task's name, for errors.
    :raises ConfigurationError: an annotation cannot be resolved, or JSON cannot restore its type;
        names the task and the parameter.
    """

    def __init__(self, function: Callable[..., Any], task: str) -> None:
        self.task = task
        self.signature = inspect.signature(function)
        parameters = list(self.signature.parameters.values())
        # Only plain parameters can be bound by the Struct's own constructor.
        self._simple = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
        fields: list[Any] = []
        self._free: list[str] = []  # names without a full annotation: checked more strictly
        self._holders = _place_holders(parameters)
        for parameter in parameters:
            hint, is_free = _field_type(function, parameter, task)
            if is_free:
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
            gc=False,  # it cannot be part of a reference cycle
        )
        self._decode = msgspec.json.Decoder(self._struct).decode

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, Struct]:
        """Bind a call and encode it.

        :returns: the payload, and the arguments as the task will get them: a copy, independent of the
            originals.
        :raises TypeError: the call does not fit the function; the message is that of a plain call.
        :raises ArgumentError: JSON would change a value; names its path. A value whose type differs
            from its annotation is allowed if it equals the decoded value (``1`` for ``1.0``).
        """
        call = self._bind(args, kwargs)
        try:
            payload = encode(call)
            arrived = self._decode(payload)
        except Exception as error:  # foreign code runs in here: __post_init__
            raise self._explain(call, error) from None
        equal = is_equal(call, arrived)
        if (not equal or self._free) and (changed := self._changed(call, arrived, equal)):
            raise ArgumentError(self.task, *changed)
        return payload, arrived

    def decode(self, payload: bytes) -> Struct:
        """Decode stored arguments.

        :raises ArgumentError: they do not fit the function, for example of a newer version.
        """
        try:
            return self._decode(payload)
        except Exception as error:  # foreign code runs in here: __post_init__
            reason, path = reason_of(error)
            raise ArgumentError(
                self.task,
                path.lstrip(".") or "(all)",
                f"the value does not fit the annotation: {reason}",
            ) from None

    def from_json(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[bytes, Struct]:
        """Encode a call whose arguments are plain JSON values, from HTTP or the command line
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
        """Call the function with decoded arguments."""
        given = msgspec.structs.astuple(values)
        if self._simple and UNSET not in given:
            return function(*given)
        args, kwargs = self.unpack(values)
        return function(*args, **kwargs)

    def unpack(self, values: Struct) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Decoded arguments as ``args`` and ``kwargs``, without the parameters that the call omitted."""
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
            elif value is UNSET and parameter.name in self._holders:
                args.append(parameter.default)  # the next ones are positional
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
                pass  # bind again for Python's own message
        return self._struct(**self._bound(args, kwargs))

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            bound = self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            unknown = [name for name in kwargs if name not in self.signature.parameters]
            hint = option_among(unknown) or f"; it takes {self._said_parameters()}"
            raise TypeError(f"{self.task}() {error}{hint}") from None
        for parameter in self.signature.parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL and parameter.name in bound:
                bound[parameter.name] = list(bound[parameter.name])
        return bound

    def _said_parameters(self) -> str:
        """``(to, text=...)``: no default, which might be long or a secret."""
        parameters = self.signature.parameters.values()
        said = (
            _STARS.get(p.kind, "") + p.name + ("" if p.default is p.empty else "=...")
            for p in parameters
        )
        return f"({', '.join(said)})"

    def _changed(self, call: Struct, arrived: Struct, equal: bool) -> tuple[str, str] | None:
        """The first part that JSON would change: its path, and how."""
        for name in self._free if equal else call.__struct_fields__:
            sent, got = getattr(call, name), getattr(arrived, name)
            try:
                if equal and plainly_alike(sent, got):
                    continue
                found = difference(sent, got, name in self._free)
            except RecursionError:
                return name, "nested too deeply"
            if found:
                return name + found[0], found[1]
        return None

    def _explain(self, call: Struct, error: Exception) -> ArgumentError:
        """Find the argument that the encoder or decoder refused."""
        reason, path = reason_of(error)
        for name in call.__struct_fields__:
            value = getattr(call, name)
            if value is UNSET:
                continue
            if found := unencodable(value, name):
                return ArgumentError(self.task, *found)
            if not path and not self._decodes_alone(name, value):
                path = name
        return ArgumentError(self.task, path.lstrip(".") or "(all)", reason)

    def _decodes_alone(self, name: str, value: Any) -> bool:
        hint = self._struct.__annotations__[name]
        try:
            msgspec.json.decode(encode(value), type=hint)
        except Exception:  # foreign code that has failed before
            return False
        return True


_SINGLE = frozenset(
    {
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    }
)
_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def _place_holders(parameters: list[inspect.Parameter]) -> frozenset[str]:
    """The parameters before the last positional-only one."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    last = max((i for i, p in enumerate(parameters) if p.kind in kinds), default=0)
    return frozenset(parameter.name for parameter in parameters[:last])


def _field_type(
    function: Callable[..., Any], parameter: inspect.Parameter, task: str
) -> tuple[Any, bool]:
    """The type of a parameter's field, and whether it has parts without a type."""
    if parameter.name.startswith("__"):
        raise ConfigurationError(
            f"task {task!r}: parameter {parameter.name!r} must not begin with two underscores"
        )
    hint: Any = _annotation(function, parameter, task)
    if hint is object:
        hint = Any
    if parameter.kind is parameter.VAR_POSITIONAL:
        hint = list[hint]
    elif parameter.kind is parameter.VAR_KEYWORD:
        hint = dict[str, hint]
    try:
        msgspec.json.Decoder(hint)
        info = msgspec.inspect.type_info(hint)
    except (TypeError, NameError) as error:
        raise ConfigurationError(
            f"task {task!r}, parameter {parameter.name!r}: this annotation cannot be used: {error}"
        ) from None
    parts = list(_parts_of_type(info, set()))
    for part in parts:
        if isinstance(part, msgspec.inspect.CustomType) and part.cls is not object:
            raise ConfigurationError(
                f"task {task!r}, parameter {parameter.name!r}: JSON cannot restore "
                f"{getattr(part.cls, '__qualname__', part.cls)}; pass an id or plain data instead"
            )
    # A time without its zone may compare equal, so times are checked strictly, too.
    return hint, any(isinstance(part, _UNTYPED) for part in parts)


_UNTYPED = (msgspec.inspect.AnyType, msgspec.inspect.CustomType, msgspec.inspect.TimeType)


def _annotation(function: Callable[..., Any], parameter: inspect.Parameter, task: str) -> Any:
    """Resolve one annotation. (Not all at once: the return annotation may be for type checkers only.)"""
    if parameter.annotation is parameter.empty:
        return Any

    def bearer() -> None: ...

    bearer.__annotations__ = {parameter.name: parameter.annotation}
    names = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return typing.get_type_hints(bearer, names, include_extras=True)[parameter.name]
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise ConfigurationError(
            f"task {task!r}, parameter {parameter.name!r}: its annotation cannot be resolved: "
            f"{error}; names used there must exist at run time"
        ) from error


def _parts_of_type(info: Any, seen: set[int]) -> Iterator[Any]:
    """The descriptions of a type and of all types inside it, each once."""
    if isinstance(info, (tuple, list)):
        for part in info:
            yield from _parts_of_type(part, seen)
    elif isinstance(info, Struct) and id(info) not in seen:
        seen.add(id(info))
        yield info
        yield from _parts_of_type(msgspec.structs.astuple(info), seen)
