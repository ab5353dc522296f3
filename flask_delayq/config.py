"""Every ``DELAYQ_*`` setting: its type, default and bounds, checked once and then passed as values.
Knows no Flask; a setting is read from any mapping."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from .clock import to_seconds
from .errors import ConfigurationError, DelayQError, shown
from .ids import check_name

PREFIX = "DELAYQ_"
DEFAULT_FILE = "delayq.sqlite3"

Mode = Literal["auto", "thread", "external", "manual", "inline"]
MODES: tuple[Mode, ...] = ("auto", "thread", "external", "manual", "inline")

REDACTED = ("password", "passwd", "secret", "token", "api_key", "apikey", "authorization", "cookie")


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of one app. Durations are seconds, sizes are bytes; docs/configuration.md explains
    each."""

    url: str
    mode: Mode = "auto"
    workers: int = 4
    queues: tuple[str, ...] | None = None
    lease: float = 60.0
    drain_timeout: float | None = None
    enqueue_timeout: float = 5.0
    max_pending: int | None = None
    max_payload: int = 262_144
    max_result: int = 1_048_576
    retention: float = 86_400.0
    retention_failed: float = 14 * 86_400.0
    retention_count: int | None = 100_000
    max_attempts: int = 1
    max_rescues: int = 3
    horizon: float = 3600.0
    strict_priority: bool = False
    sqlite_synchronous: str = "FULL"
    url_prefix: str = "/delayq"
    admin_token: tuple[str, ...] = ()
    redact: tuple[str, ...] = REDACTED

    @classmethod
    def read(cls, config: Mapping[str, Any], *, folder: str, testing: bool = False) -> Settings:
        """Build the settings from an app's configuration.

        :param config: the mapping; keys that do not begin with ``DELAYQ_`` are ignored.
        :param folder: where the default store lies and relative sqlite paths begin.
        :param testing: whether the app is being tested: the default store is then ``memory://``, so
            that a test run neither leaves jobs behind nor finds yesterday's.
        :raises ConfigurationError: an unknown key (with "did you mean") or a value that does not fit.
        """
        values: dict[str, Any] = {}
        for key in config:
            if not (isinstance(key, str) and key.startswith(PREFIX)):
                continue
            name = key[len(PREFIX) :].lower()
            if name not in _READERS or key != key.upper():
                raise ConfigurationError(_unknown(key), key=key)
            try:
                values[name] = _READERS[name](config[key])
            except (TypeError, ValueError, OverflowError, DelayQError) as error:
                value = "its value" if name in _SECRET else shown(config[key])
                raise ConfigurationError(f"{key}: {value} does not fit: {error}", key=key) from None
        if "url" not in values:
            values["url"] = "memory://" if testing else f"sqlite:///{DEFAULT_FILE}"
        values["url"] = _absolute(values["url"], folder)
        return cls(**values)


def url_prefix(config: Mapping[str, Any]) -> str:
    """Where the pages are, the one setting that is needed before the others are read.

    :raises ConfigurationError: it is no path.
    """
    key = PREFIX + "URL_PREFIX"
    try:
        return _prefix(config.get(key, "/delayq"))
    except (TypeError, ValueError) as error:
        value = shown(config[key])
        raise ConfigurationError(f"{key}: {value} does not fit: {error}", key=key) from None


def _unknown(key: str) -> str:
    near = get_close_matches(key[len(PREFIX) :].lower(), _READERS, 1)
    hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
    return f"{key} is no setting{hint}"


def _absolute(url: str, folder: str) -> str:
    """Relative sqlite paths begin in the instance folder, not where the process was started."""
    scheme, separator, path = url.partition(":///")
    if scheme.lower() != "sqlite" or not separator or not path or path.startswith(":"):
        return url
    return f"sqlite:///{Path(folder, path)}"


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text is wanted")
    return value


def _choice(*allowed: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in allowed:
            near = get_close_matches(str(value), allowed, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"one of {', '.join(allowed)} is wanted{hint}")
        return str(value)

    return read


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        number = int(value) if isinstance(value, str) else value
        if type(number) is not int or not low <= number <= high:
            raise ValueError(f"a whole number from {low:,} to {high:,} is wanted")
        return number

    return read


def _seconds(low: float, high: float = math.inf) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        given = float(value) if isinstance(value, str) else value
        number = given.total_seconds() if isinstance(given, timedelta) else to_seconds(given)
        if not low <= number <= high:
            bound = f" to {high:g}" if high < math.inf else ""
            raise ValueError(f"seconds from {low:g}{bound} are wanted")
        return float(number)

    return read


def _optional(reader: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else reader(value)


def _flag(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("1", "true", "yes", "on"):
        return True
    if isinstance(value, str) and value.lower() in ("0", "false", "no", "off", ""):
        return False
    if type(value) is not bool:
        raise ValueError("True or False is wanted")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else list(value)
    if not all(isinstance(part, str) and part.strip() for part in parts):
        raise ValueError("a text or a list of texts is wanted")
    return tuple(part.strip() for part in parts)


def _queues(value: Any) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(check_name("queue", name) for name in _texts(value)))
    if not names:
        raise ValueError("at least one queue is wanted; leave it out to serve all of them")
    return names


def _tokens(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    # A token may hold commas, so a text is one token.
    tokens = (value,) if isinstance(value, str) else tuple(value)
    if not tokens or not all(isinstance(token, str) and len(token) >= 16 for token in tokens):
        raise ValueError("tokens of at least 16 characters are wanted")
    return tokens


def _prefix(value: Any) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", _text(value)):
        raise ValueError("a path like /delayq is wanted, that does not end with /")
    return str(value)


_READERS: dict[str, Callable[[Any], Any]] = {
    "url": _text,
    "mode": _choice(*MODES),
    "workers": _integer(1, 1024),
    "queues": _optional(_queues),
    "lease": _seconds(3.0, 86_400.0),
    "drain_timeout": _optional(_seconds(0.0, 86_400.0)),
    "enqueue_timeout": _seconds(0.05, 3600.0),
    "max_pending": _optional(_integer(1, 1_000_000_000)),
    "max_payload": _integer(64, 1 << 30),
    "max_result": _integer(64, 1 << 30),
    "retention": _seconds(0.0),
    "retention_failed": _seconds(0.0),
    "retention_count": _optional(_integer(0, 1_000_000_000)),
    "max_attempts": _integer(1, 1_000_000),
    "max_rescues": _integer(0, 1000),
    "horizon": _seconds(1.0, 86_400.0),
    "strict_priority": _flag,
    "sqlite_synchronous": _choice("FULL", "NORMAL"),
    "url_prefix": _prefix,
    "admin_token": _tokens,
    "redact": _texts,
}
_SECRET = frozenset({"admin_token", "url"})
