"""Opens a backend by URL: one row per scheme, imported only when it is used.
Must not know what the backends do."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..clock import Clock, SystemClock
from ..errors import ConfigurationError
from .base import Backend


class Engine(NamedTuple):
    """Where a backend is, and the names of its own options.

    ``DELAYQ_<SCHEME>_<OPTION>`` sets an option; its value is checked by the backend.
    """

    module: str
    backend: str
    options: tuple[str, ...] = ()


_SCHEMES = {
    "memory": Engine("flask_delayq.backends.memory", "MemoryBackend"),
    "sqlite": Engine("flask_delayq.backends.sqlite", "SQLiteBackend", ("synchronous",)),
}

ENGINE_SETTINGS = frozenset(
    f"{scheme}_{option}" for scheme, engine in _SCHEMES.items() for option in engine.options
)
"""The names of settings that belong to one backend, without ``DELAYQ_``, in lower case."""


def options_for(url: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that belong to the backend of a URL, as options of :func:`open_backend`."""
    prefix = f"{urlsplit(url).scheme}_"
    return {key.removeprefix(prefix): settings[key] for key in settings if key.startswith(prefix)}


def open_backend(url: str, *, clock: Clock | None = None, **options: object) -> Backend:
    """Return the backend for a URL. It does no I/O before its first verb.

    :param url: ``memory://`` or ``sqlite:///relative/or/absolute/path`` (four slashes for an absolute
        path, as in SQLAlchemy).
    :param clock: its source of time; by default the machine's clocks.
    :param options: settings of this backend; it refuses others.
    :raises ConfigurationError: an unknown scheme, or a URL that the backend cannot use.
    """
    scheme = urlsplit(url).scheme if isinstance(url, str) else ""
    if scheme not in _SCHEMES:
        near = get_close_matches(scheme, _SCHEMES, 1)
        hint = f"; did you mean {near[0]}://?" if near else ""
        if not scheme:
            hint = "; a path is written sqlite:///delayq.sqlite3, an absolute one sqlite:////srv/delayq.sqlite3"
        known = ", ".join(f"{name}://" for name in sorted(_SCHEMES))
        raise ConfigurationError(
            f"no backend for {scheme + '://' if scheme else 'a URL without scheme'} "
            f"(there are {known}){hint}",
            key="DELAYQ_URL",
        )
    engine = _SCHEMES[scheme]
    make = getattr(importlib.import_module(engine.module), engine.backend)
    backend: Backend = make(url, clock=clock or SystemClock(), **options)
    return backend
