"""When a failed job runs again: the policy, and the exceptions by which a task controls its outcome.
Knows no job and no clock; randomness is passed in."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from msgspec import Struct
from msgspec.structs import force_setattr

from .clock import to_seconds
from .errors import ConfigurationError, DelayError, shown

RETRIES_ON_REQUEST = 25
"""Maximum number of runs if a task without a policy raises ``Retry``."""


class Steer(Exception):
    """Base of the exceptions by which a task sets its outcome. Not an error, so no ``DelayQError``."""


class Retry(Steer):
    """Run this job again; the current run counts as an attempt.

    :param delay: seconds or ``timedelta`` until the next run; ``None``: as the policy says.
    :param reason: stored as the job's error message.
    """

    def __init__(self, delay: float | timedelta | None = None, reason: str = "") -> None:
        super().__init__(reason or "the task asked for a retry")
        self.delay: float | None = None if delay is None else to_seconds(delay)
        self.reason = reason


class Snooze(Steer):
    """Run this job again later; the current run does not count as an attempt.

    :param delay: seconds or ``timedelta`` until the next run.
    """

    def __init__(self, delay: float | timedelta) -> None:
        self.delay: float = to_seconds(delay)
        super().__init__(f"the task asked to run again in {self.delay:g} s")


class Cancel(Steer):
    """End the job as cancelled, without further attempts.

    :param reason: stored as the job's error message.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the task cancelled its job")
        self.reason = reason


class Fail(Steer):
    """End the job as failed now, whatever its policy allows.

    :param reason: stored as the job's error message.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the task gave up")
        self.reason = reason


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """How often and how soon a failed job runs again.

    The pause after the n-th run is ``backoff * factor ** (n - 1)`` seconds, at most ``cap``, minus a
    random part of at most ``jitter`` of it (so that jobs that failed together do not retry together).
    If ``backoff`` is a sequence, it gives each pause; the last one repeats. Pauses may be
    ``timedelta``; they are stored as seconds.

    :raises ConfigurationError: a bad value.
    """

    max_attempts: int = 1
    """Maximum number of runs, including the first one."""
    backoff: float | tuple[float, ...] = 2.0
    """Seconds to wait after the first run, or a sequence of all pauses."""
    factor: float = 2.0
    cap: float = 3600.0
    """Maximum pause in seconds."""
    jitter: float = 0.1
    """0: no randomness; 1: the pause is random between 0 and its full length."""
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    """Exceptions that are retried; others fail the job at once."""
    never_on: tuple[type[BaseException], ...] = ()
    """Exceptions that are never retried, even if they match ``retry_on``."""

    def __post_init__(self) -> None:
        if type(self.max_attempts) is not int or self.max_attempts < 1:
            raise ConfigurationError(
                f"max_attempts must be a whole number from 1, not {shown(self.max_attempts)}",
                key="max_attempts",
            )
        if not (_is_number(self.jitter) and 0 <= self.jitter <= 1):
            raise ConfigurationError(
                f"jitter must be from 0 to 1, not {shown(self.jitter)}", key="jitter"
            )
        if not (_is_number(self.factor) and 1 <= self.factor < math.inf):
            raise ConfigurationError(
                f"factor must be at least 1, not {shown(self.factor)}", key="factor"
            )
        force_setattr(self, "retry_on", _classes(self.retry_on, "retry_on"))
        force_setattr(self, "never_on", _classes(self.never_on, "never_on"))
        force_setattr(self, "factor", float(self.factor))
        force_setattr(self, "backoff", _pauses(self.backoff))
        force_setattr(self, "cap", _seconds(self.cap, "cap"))

    @classmethod
    def of(cls, runs: int, backoff: Iterable[float] | float | timedelta | None) -> RetryPolicy:
        """The policy for the short form ``max_attempts=5, backoff=...`` of a task's options.

        :param runs: maximum number of runs, including the first one.
        :param backoff: as the attribute; ``None``: its default.
        :raises ConfigurationError: a bad value.
        """
        if backoff is None:
            return cls(max_attempts=runs)
        return cls(max_attempts=runs, backoff=_pauses(backoff))

    def covers(self, error: BaseException) -> bool:
        """Whether this exception is retried."""
        return isinstance(error, self.retry_on) and not isinstance(error, self.never_on)

    def allows(self, attempt: int, *, on_request: bool, max_attempts: int | None = None) -> bool:
        """Whether another run may follow the ``attempt``-th one.

        :param on_request: the task raised ``Retry``. A policy of one attempt (the default) then
            allows up to :data:`RETRIES_ON_REQUEST` runs.
        :param max_attempts: the job's own maximum; it overrides the policy's in any case.
        """
        if max_attempts is not None:
            return attempt < max_attempts
        if on_request and self.max_attempts == 1:
            return attempt < RETRIES_ON_REQUEST
        return attempt < self.max_attempts

    def pause(self, attempt: int, rand: Callable[[], float] = random.random) -> float:
        """Seconds to wait after the ``attempt``-th run (from 1).

        :param rand: source of randomness, from 0 to 1.
        """
        if isinstance(self.backoff, tuple):
            seconds = self.backoff[min(attempt, len(self.backoff)) - 1]
        else:
            try:
                grown = self.factor ** (attempt - 1)
            except OverflowError:
                grown = math.inf
            seconds = self.backoff * grown if self.backoff else 0.0
        return min(seconds, self.cap) * (1.0 - self.jitter * rand())


def _is_number(value: object) -> bool:
    return type(value) is float or type(value) is int


def _classes(value: object, key: str) -> tuple[type[BaseException], ...]:
    classes = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in classes):
        raise ConfigurationError(
            f"{key} must be a tuple of exception classes, not {shown(value)}", key=key
        )
    return classes


def _pauses(backoff: object) -> float | tuple[float, ...]:
    """All pauses, or the first one, in seconds."""
    if isinstance(backoff, (int, float, timedelta, str)) or not isinstance(backoff, Iterable):
        return _seconds(backoff, "backoff")
    pauses = tuple(_seconds(pause, "backoff") for pause in backoff)
    if not pauses:
        raise ConfigurationError("backoff must name at least one pause", key="backoff")
    return pauses


def _seconds(value: Any, key: str) -> float:
    try:
        return to_seconds(value, what=key)
    except DelayError as error:
        raise ConfigurationError(str(error), key=key) from None
