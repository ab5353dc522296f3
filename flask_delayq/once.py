"""``once``: a property that is made at its first use, exactly once, also with many threads.
Knows of its object only the lock; must not know what is made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar, overload

T = TypeVar("T")


class Locked(Protocol):
    """An object with such properties: its lock is held while one is made."""

    @property
    def lock(self) -> AbstractContextManager[Any]: ...


S = TypeVar("S", bound=Locked)


class once(Generic[S, T]):  # noqa: N801  # used like `property`
    """A property that is kept in the object's ``__dict__``. The object's lock must be reentrant.

    ``functools.cached_property`` has no lock since Python 3.12, and before that one lock for all
    objects, which a fork can leave locked for ever; an object can make its own lock anew in a child.
    """

    def __init__(self, make: Callable[[S], T]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, owner: None, kind: type[S]) -> once[S, T]: ...

    @overload
    def __get__(self, owner: S, kind: type[S]) -> T: ...

    def __get__(self, owner: S | None, kind: type[S]) -> once[S, T] | T:
        if owner is None:
            return self
        with owner.lock:
            kept = owner.__dict__
            if self._name not in kept:
                # A signal handler in this thread may have made it meanwhile: then that value is kept.
                kept.setdefault(self._name, self._make(owner))
            value: T = kept[self._name]
            return value
