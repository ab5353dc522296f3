"""When a failed job runs again: the policy, and the exceptions by which a task steers its own fate.
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
"""How many runs a task may ask for by raising ``Retry`` where its policy names no number."""


class Steer(Exception):
    """Base of what a task raises to say how it goes on. No error: it is not a ``DelayQError``."""


class Retry(Steer):
    """Run this job again; the run counts as an attempt.

    :param delay: seconds or ``timedelta`` until then; ``None``: what the policy says.
    :param reason: kept as the job's error text.
    """

    def __init__(self, delay: float | timedelta | None = None, reason: str = "") -> None:
        super().__init__(reason or "the task asked for a retry")
        self.delay: float | None = None if delay is None else to_seconds(delay)
        self.reason = reason


class Snooze(Steer):
    """Run this job again later as if this run had not been; no attempt is counted.

    :param delay: seconds or ``timedelta`` until then.
    """

    def __init__(self, delay: float | timedelta) -> None:
        self.delay: float = to_seconds(delay)
        super().__init__(f"the task asked to run again in {self.delay:g} s")


class Cancel(Steer):
    """Give up: the job ends as cancelled, without further attempts.

    :param reason: kept as the job's error text.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the task cancelled its job")
        self.reason = reason


class Fail(Steer):
    """Give up: the job ends as failed now, whatever its policy allows.

    :param reason: kept as the job's error text.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the task gave up")
        self.reason = reason


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """How often and how soon a failed job runs again.

    The pause after the n-th run is ``backoff * factor ** (n - 1)`` seconds, at most ``cap``, less a
    random part of up to ``jitter`` of it (so that jobs that failed together do not return together).
    A sequence for ``backoff`` names the pauses one by one; the last one repeats. Pauses may be given as
    ``timedelta``; they are kept as seconds.

    :raises ConfigurationError: for a value that does not fit.
    """

    max_attempts: int = 1
    """Runs in all, the first one included."""
    backoff: float | tuple[float, ...] = 2.0
    """Seconds after the first run, or all pauses."""
    factor: float = 2.0
    cap: float = 3600.0
    """Longest pause in seconds."""
    jitter: float = 0.1
    """0: none; 1: anything from nothing to the whole pause."""
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    """Which exceptions are worth another run; others fail the job at once."""
    never_on: tuple[type[BaseException], ...] = ()
    """Of these the ones that are not: a job that raises one fails at once."""

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

        :raises ConfigurationError: for a value that does not fit.
        """
        if backoff is None:
            return cls(max_attempts=runs)
        return cls(max_attempts=runs, backoff=_pauses(backoff))

    def covers(self, error: BaseException) -> bool:
        """Whether this exception is worth another run."""
        return isinstance(error, self.retry_on) and not isinstance(error, self.never_on)

    def allows(self, attempt: int, *, on_request: bool, max_attempts: int | None = None) -> bool:
        """Whether another run may follow the ``attempt``-th one.

        :param on_request: the task raised ``Retry``; a policy of one attempt (that is: none) then
            allows up to :data:`RETRIES_ON_REQUEST` runs.
        :param max_attempts: the job's own number instead of the policy's; it holds in any case.
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
