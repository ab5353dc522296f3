"""The only place where time is read: wall clock for "when", monotonic clock for "how long".
Must not know what the times are for; tests put ``flask_delayq.testing.FakeClock`` in its place."""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta, timezone
from typing import Protocol

from .errors import DelayError, shown

MAX_DELAY = 10 * 366 * 86400.0
"""The longest allowed delay in seconds (about ten years): a longer one is probably a wrong unit."""


class Clock(Protocol):
    """The two clocks that the runtime and the backends use."""

    def now(self) -> float:
        """Wall time: seconds since the epoch, UTC. It may step in either direction."""

    def monotonic(self) -> float:
        """Seconds that never step back, comparable between the processes of one boot."""


class SystemClock:
    """The machine's clocks."""

    now = staticmethod(time.time)
    # CLOCK_MONOTONIC on Linux counts from boot in every process; leases rely on that.
    monotonic = staticmethod(time.monotonic)


machine_time = SystemClock.monotonic
"""Real time, for deadlines of waits: a test may stop the package's clock."""


def to_seconds(delay: float | timedelta, *, what: str = "delay") -> float:
    """Convert a delay of the API into seconds.

    :param delay: seconds, or a ``timedelta``; not negative, at most :data:`MAX_DELAY`.
    :param what: the name of the delay in an error.
    :raises DelayError: for any other value (``bool``, string, NaN, infinity, negative, too long).
    """
    if isinstance(delay, timedelta):
        seconds = delay.total_seconds()
    elif type(delay) is float or type(delay) is int:
        try:
            seconds = float(delay)
        except OverflowError:
            seconds = math.inf
    else:
        raise DelayError(f"{what} must be seconds or a timedelta, not {shown(delay)}", delay)
    if not math.isfinite(seconds):
        raise DelayError(f"{what} must be finite, not {shown(delay)}", delay)
    if seconds < 0:
        raise DelayError(f"{what} must not be negative, not {shown(delay)}", delay)
    if seconds > MAX_DELAY:
        raise DelayError(f"{what} of {seconds:g} s is more than ten years", delay)
    return seconds


def to_timestamp(when: datetime, *, now: float) -> float:
    """Convert an aware datetime of the API into epoch seconds.

    :param when: must have a time zone. A time in the past means now.
    :param now: the current time in epoch seconds, to check for more than ten years.
    :raises DelayError: for a naive datetime, another type, or more than ten years ahead.
    """
    if not isinstance(when, datetime):
        raise DelayError(f"run_at must be an aware datetime, not {shown(when)}", when)
    if when.tzinfo is None or when.utcoffset() is None:
        raise DelayError(
            f"run_at {when} has no time zone (it is naive); "
            f"add one, for example when.replace(tzinfo=timezone.utc)",
            when,
        )
    timestamp = when.timestamp()
    if timestamp - now > MAX_DELAY:
        raise DelayError(f"run_at {when} is more than ten years ahead", when)
    return timestamp


def to_datetime(timestamp: float | None) -> datetime | None:
    """Epoch seconds as an aware UTC datetime (``None`` stays ``None``)."""
    return None if timestamp is None else datetime.fromtimestamp(timestamp, timezone.utc)
