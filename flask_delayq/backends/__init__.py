"""Opens a backend by URL: one row per scheme, imported only when it is used.
Must not know what the backends do."""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from urllib.parse import urlsplit

from ..clock import Clock, SystemClock
from ..errors import ConfigurationError
from .base import Backend

_SCHEMES = {
    "memory": ("flask_delayq.backends.memory", "MemoryBackend"),
    "sqlite": ("flask_delayq.backends.sqlite", "SQLiteBackend"),
}


def open_backend(url: str, *, clock: Clock | None = None, **options: object) -> Backend:
    """Return the backend for a URL; it does no I/O before its first verb.

    :param url: ``memory://`` or ``sqlite:///relative/or/absolute/path`` (four slashes for an absolute
        path, as in SQLAlchemy).
    :param clock: where it reads the time; the machine's clocks by default.
    :param options: settings for that backend alone; others are refused by it.
    :raises ConfigurationError: for an unknown scheme or a URL that the backend cannot use.
    """
    scheme = urlsplit(url).scheme if isinstance(url, str) else ""
    if scheme not in _SCHEMES:
        near = get_close_matches(scheme, _SCHEMES, 1)
        hint = f"; did you mean {near[0]}://?" if near else ""
        known = ", ".join(f"{name}://" for name in sorted(_SCHEMES))
        raise ConfigurationError(
            f"no backend for {scheme + '://' if scheme else 'a URL without scheme'} "
            f"(there are {known}){hint}",
            key="DELAYQ_URL",
        )
    module, name = _SCHEMES[scheme]
    backend: Backend = getattr(importlib.import_module(module), name)(
        url, clock=clock or SystemClock(), **options
    )
    return backend
