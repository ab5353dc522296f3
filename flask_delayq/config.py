"""Every ``DELAYQ_*`` setting: its type, default and bounds, checked once and then passed as values.
Knows no Flask; a setting is read from any mapping."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from hashlib import sha256
from itertools import pairwise
from pathlib import PurePath
from typing import Any, Literal
from urllib.parse import quote

from msgspec import Struct

from .clock import MAX_DELAY, to_seconds
from .errors import ConfigurationError, InvalidNameError, shown
from .ids import check_name
from .texts import without_password

PREFIX = "DELAYQ_"

LONGEST_LEASE = 86_400.0
"""Maximum of ``DELAYQ_LEASE`` in seconds."""
DEFAULT_FILE = "delayq.sqlite3"

Mode = Literal["auto", "thread", "external", "manual", "inline"]
MODES: tuple[Mode, ...] = ("auto", "thread", "external", "manual", "inline")

REDACTED = (
    *("password", "passwd", "passphrase", "passcode", "pass", "pwd", "pin", "otp", "mfa"),
    *("secret", "token", "credential", "authorization", "auth", "bearer", "jwt", "csrf"),
    *("cookie", "session", "signature", "sig", "salt"),
    *("api_key", "access_key", "private_key", "account_key", "license_key"),
    *("encryption_key", "signing_key", "master_key", "ssh_key"),
    *("dsn", "database_url", "connection_string", "webhook_url"),
    *("ssn", "iban", "card_number", "cvv", "cvc"),
)
"""Without ``key``: most keys are not secrets, and a hidden value is hidden everywhere on the page."""


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
    max_pending_total: int | None = None
    max_payload: int = 262_144
    max_result: int = 1_048_576
    retention: float = 86_400.0
    retention_failed: float = 14 * 86_400.0
    retention_count: int | None = 100_000
    max_attempts: int = 1
    max_rescues: int = 3
    unknown_task_timeout: float = 7 * 86_400.0
    horizon: float = 3600.0
    strict_priority: bool = False
    url_prefix: str = "/delayq"
    pages: bool = True
    admin_token: tuple[bytes, ...] = ()
    """SHA-256 digests of the tokens: the tokens themselves are not kept."""
    redact: tuple[str, ...] = REDACTED
    of_engines: Mapping[str, Any] = {}
    """Settings of one backend, by name; the backend checks their values."""

    def __repr__(self) -> str:
        # Error trackers store the repr of local variables.
        parts = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            said = f"<{len(value)}>" if name == "admin_token" else without_password(repr(value))
            parts.append(f"{name}={said}")
        return f"Settings({', '.join(parts)})"

    @classmethod
    def read(
        cls,
        config: Mapping[str, Any],
        *,
        folder: str,
        testing: bool = False,
        engine_settings: Collection[str] = (),
    ) -> Settings:
        """Build the settings from an app's configuration.

        :param config: the mapping; keys that do not begin with ``DELAYQ_`` are ignored.
        :param folder: the folder of the default store, and of relative sqlite paths.
        :param testing: whether the app is being tested: the default store is then ``memory://``, so
            that a test run neither leaves jobs behind nor finds old ones.
        :param engine_settings: names of the settings that belong to one backend.
        :raises ConfigurationError: an unknown key (with "did you mean") or a bad value.
        """
        values: dict[str, Any] = {}
        of_engines: dict[str, Any] = {}
        for key in config:
            if not (isinstance(key, str) and key.startswith(PREFIX)):
                continue
            name = key[len(PREFIX) :].lower()
            if key == key.upper() and name in engine_settings:
                of_engines[name] = config[key]
                continue
            if name not in _READERS or key != key.upper():
                raise ConfigurationError(_unknown(key, {*_READERS, *engine_settings}), key=key)
            try:
                values[name] = _READERS[name](config[key])
            except ValueError as error:
                raise ConfigurationError(f"{key} {error}", key=key) from None
        if not values.get("url"):
            values["url"] = "memory://" if testing else f"sqlite:///{DEFAULT_FILE}"
        values["url"] = _absolute(values["url"], folder)
        return cls(**values, of_engines=of_engines)


def with_environment(config: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """The app's configuration, plus environment variables ``FLASK_DELAYQ_...`` for keys that it does not
    have. They are read as ``app.config.from_prefixed_env()`` reads them; the app need not call it.
    """
    found: dict[str, Any] = {}
    for name, text in environ.items():
        key = name.removeprefix("FLASK_")
        if key != name and key.startswith(PREFIX):
            try:
                found[key] = json.loads(text)
            except ValueError:
                found[key] = text
    return {**found, **config}


def wants_pages(config: Mapping[str, Any]) -> bool:
    """Whether to register the admin pages; needed before the other settings are read.

    :raises ConfigurationError: the value is neither true nor false.
    """
    return bool(_alone(config, "PAGES", _flag, True))


def url_prefix(config: Mapping[str, Any]) -> str:
    """The URL prefix of the admin pages; needed before the other settings are read.

    :raises ConfigurationError: the value is not a path.
    """
    return str(_alone(config, "URL_PREFIX", _prefix, "/delayq"))


def _alone(config: Mapping[str, Any], name: str, reader: Callable[[Any], Any], default: Any) -> Any:
    key = PREFIX + name
    try:
        return reader(config.get(key, default))
    except ValueError as error:
        raise ConfigurationError(f"{key} {error}", key=key) from None


def _unknown(key: str, known: Iterable[str]) -> str:
    near = get_close_matches(key[len(PREFIX) :].lower(), known, 1)
    hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else "; remove it"
    return f"{key} is no setting{hint}"


_IN_A_PATH = "/ !\"#$&'()*+,;:=@[]\\^`{|}<>~"  # no special meaning for the reader of the URL


def _absolute(url: str, folder: str) -> str:
    """Make a sqlite path relative to the instance folder, not to the current directory."""
    scheme, separator, path = url.partition(":///")
    if scheme.lower() != "sqlite" or not separator or not path or path.startswith(":"):
        return url
    if PurePath(path).is_absolute():
        return f"sqlite:///{path}"
    # A folder may be called "feature%2Flogin" or "what?now". Bytes that are not UTF-8 are kept as well.
    return f"sqlite:///{quote(str(PurePath(folder)), _IN_A_PATH, errors='surrogateescape')}/{path}"


# A reader raises only ValueError. Its message continues a sentence that begins with the setting's name.


def _url(value: Any) -> str:
    if value and not isinstance(value, str):
        raise ValueError("must be a string")  # without the value: it may contain a password
    return value or ""


def _choice(*allowed: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in allowed:
            near = get_close_matches(str(value), allowed, 1) if isinstance(value, str) else ()
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"must be one of {', '.join(allowed)}, not {shown(value)}{hint}")
        return str(value)

    return read


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        number = value
        if isinstance(value, str):
            with suppress(ValueError):
                number = int(value)
        if type(number) is not int or not low <= number <= high:
            raise ValueError(f"must be a whole number from {low:,} to {high:,}, not {shown(value)}")
        return number

    return read


def _seconds(low: float, high: float = MAX_DELAY) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        try:
            number = to_seconds(float(value) if isinstance(value, str) else value)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise ValueError(
                f"must be a number of seconds from {low:g} to {high:,.0f}, not {shown(value)}"
            )
        return number

    return read


def _optional(reader: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else reader(value)


def _flag(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("1", "true", "yes", "on"):
        return True
    if isinstance(value, str) and value.lower() in ("0", "false", "no", "off", ""):
        return False
    if type(value) is not bool:
        raise ValueError(f"must be True or False, not {shown(value)}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    parts = list(parts) if isinstance(parts, Iterable) else [parts]
    if not all(isinstance(part, str) and part.strip() for part in parts):
        raise ValueError(f"must be a string or a list of strings, not {shown(value)}")
    return tuple(part.strip() for part in parts)


def _queues(value: Any) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(_texts(value)))
    if not names:
        raise ValueError("must name at least one queue; leave it out to serve all of them")
    for name in names:
        try:
            check_name("queue", name)
        except InvalidNameError as error:
            raise ValueError(f"must name queues: {error}") from None
    return names


MAKE_TOKEN = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'
"""The command that the documentation and errors recommend."""


def _tokens(value: Any) -> tuple[bytes, ...]:
    if value is None:
        return ()
    # A token may contain commas, so a string is one token.
    tokens = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
    if not tokens:
        raise ValueError("must contain at least one token; leave it out to have none")
    for token in tokens:
        if fault := _fault(token):
            raise ValueError(f"must {fault}; make one with: {MAKE_TOKEN}")
    return tuple(sha256(token.encode("utf-8", "replace")).digest() for token in tokens)


def _fault(token: object) -> str:
    """The rule that a token breaks, without the token; empty if the token is good."""
    if not isinstance(token, str) or len(token) < 16:
        return "be a string of at least 16 characters, or a list of such strings"
    if token != token.strip():
        return "not begin or end with white space (the line break of a file?)"
    if any(ord(char) < 32 or ord(char) == 127 for char in token):
        return "not contain a control character: an HTTP header cannot contain one"
    steps = {ord(after) - ord(before) for before, after in pairwise(token)}
    if len(set(token)) < 6 or len(steps) == 1 or token in (token + token)[1:-1]:
        return "not be easy to guess: one has few different characters, a sequence or a repetition"
    return ""


def _prefix(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value):
        raise ValueError(f"must be a path like /delayq, without a / at its end, not {shown(value)}")
    return value


_READERS: dict[str, Callable[[Any], Any]] = {
    "url": _url,
    "mode": _choice(*MODES),
    "workers": _integer(1, 1024),
    "queues": _optional(_queues),
    "lease": _seconds(3.0, LONGEST_LEASE),
    "drain_timeout": _optional(_seconds(0.0, 86_400.0)),
    "enqueue_timeout": _seconds(0.05, 3600.0),
    "max_pending": _optional(_integer(1, 1_000_000_000)),
    "max_pending_total": _optional(_integer(1, 1_000_000_000)),
    "max_payload": _integer(64, 1 << 30),
    "max_result": _integer(64, 1 << 30),
    "retention": _seconds(0.0),
    "retention_failed": _seconds(0.0),
    "retention_count": _optional(_integer(0, 1_000_000_000)),
    "max_attempts": _integer(1, 1_000_000),
    "max_rescues": _integer(0, 1000),
    "unknown_task_timeout": _seconds(1.0),
    "horizon": _seconds(1.0, 86_400.0),
    "strict_priority": _flag,
    "url_prefix": _prefix,
    "pages": _flag,
    "admin_token": _tokens,
    "redact": _texts,
}
