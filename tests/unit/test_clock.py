"""Delays and moments at the edge of the API: what is accepted, to the last second, and what is not.

Must not know what the times are for.
"""

from __future__ import annotations

import math
import time
from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_delayq.clock import MAX_DELAY, SystemClock, to_datetime, to_seconds, to_timestamp
from flask_delayq.errors import DelayError

UTC = timezone.utc
NOW = 1_750_000_000.0


class Minutes(IntEnum):
    TEN = 10


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Nowhere(tzinfo):
    """A zone that does not know its offset: a datetime with it is naive all the same."""

    def utcoffset(self, when: datetime | None) -> None:
        return None


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        (0, 0.0),
        (-0.0, 0.0),
        (0.001, 0.001),
        (5e-324, 5e-324),
        (7, 7.0),
        (timedelta(), 0.0),
        (timedelta(microseconds=1), 1e-6),
        (timedelta(days=1, seconds=1), 86401.0),
        (MAX_DELAY, MAX_DELAY),
        (int(MAX_DELAY), MAX_DELAY),
        (timedelta(seconds=MAX_DELAY), MAX_DELAY),
    ],
)
def test_a_delay_is_seconds_or_a_timedelta(delay: Any, seconds: float) -> None:
    assert to_seconds(delay) == seconds
    assert type(to_seconds(delay)) is float


@pytest.mark.parametrize(
    "delay",
    [
        *(True, False, None, "5", b"5", [5], (5,), {}, object(), Unspeakable(), 1j, Minutes.TEN),
        *(Decimal(5), Fraction(1, 2), datetime(2026, 1, 1, tzinfo=UTC), math.nan, -math.nan),
        *(math.inf, -math.inf, -1, -5e-324, -1e-9, timedelta(microseconds=-1), timedelta.min),
        *(
            math.nextafter(MAX_DELAY, math.inf),
            int(MAX_DELAY) + 1,
            timedelta(seconds=MAX_DELAY, microseconds=1),
        ),
        *(timedelta.max, 1e308, 10**30, 10**400, 10**5000, -(10**5000)),
    ],
    ids=lambda delay: type(delay).__name__,
)
def test_any_other_delay_is_a_delay_error_that_carries_it(delay: Any) -> None:
    with pytest.raises(DelayError) as caught:
        to_seconds(delay, what="pause")
    assert caught.value.value is delay
    assert str(caught.value).startswith("pause ")
    assert len(str(caught.value)) < 150
    assert isinstance(caught.value, ValueError)


@given(st.floats() | st.integers() | st.timedeltas())
def test_property_a_delay_is_finite_and_in_bounds_or_refused(delay: Any) -> None:
    try:
        seconds = to_seconds(delay)
    except DelayError:
        return
    assert 0 <= seconds <= MAX_DELAY


@pytest.mark.parametrize(
    "when",
    [
        datetime.fromtimestamp(NOW, UTC),
        datetime.fromtimestamp(NOW, ZoneInfo("Asia/Kathmandu")),
        datetime.fromtimestamp(NOW, timezone(timedelta(hours=-23, minutes=-59))),
    ],
)
def test_the_same_instant_in_any_zone_is_the_same_timestamp(when: datetime) -> None:
    assert to_timestamp(when, now=0.0 + NOW) == NOW


def test_both_turns_of_a_repeated_hour_are_told_apart() -> None:
    zone = ZoneInfo("Europe/Berlin")
    first = datetime(2024, 10, 27, 2, 30, tzinfo=zone)
    assert to_timestamp(first.replace(fold=1), now=NOW) - to_timestamp(first, now=NOW) == 3600


@pytest.mark.parametrize("zone_name", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_the_zone_of_the_machine_plays_no_part(monkeypatch: pytest.MonkeyPatch, zone_name: str) -> None:
    monkeypatch.setenv("TZ", zone_name)
    time.tzset()
    try:
        assert to_timestamp(datetime(2026, 1, 1, tzinfo=UTC), now=NOW) == 1767225600.0
        assert to_datetime(1767225600.0) == datetime(2026, 1, 1, tzinfo=UTC)
        with pytest.raises(DelayError):
            to_timestamp(datetime(2026, 1, 1), now=NOW)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_ten_years_ahead_is_the_end() -> None:
    edge = datetime.fromtimestamp(NOW + MAX_DELAY, UTC)
    assert to_timestamp(edge, now=NOW) == NOW + MAX_DELAY
    with pytest.raises(DelayError, match="ten years"):
        to_timestamp(edge + timedelta(microseconds=1), now=NOW)
    with pytest.raises(DelayError):
        to_timestamp(datetime.max.replace(tzinfo=UTC), now=NOW)


def test_the_past_is_accepted_however_far() -> None:
    assert to_timestamp(datetime.min.replace(tzinfo=UTC), now=NOW) < 0


@pytest.mark.parametrize(
    "when",
    [
        *(None, 5, NOW, "2026-01-01T00:00:00Z", date(2026, 1, 1), timedelta(1), Unspeakable()),
        *(datetime(2026, 1, 1), datetime.max, datetime(2026, 1, 1, tzinfo=Nowhere())),
    ],
    ids=lambda when: type(when).__name__,
)
def test_a_moment_that_names_no_instant_is_a_delay_error(when: Any) -> None:
    with pytest.raises(DelayError) as caught:
        to_timestamp(when, now=NOW)
    assert caught.value.value is when


def test_the_error_for_a_naive_datetime_shows_the_cure() -> None:
    with pytest.raises(DelayError, match=r"replace\(tzinfo=timezone\.utc\)"):
        to_timestamp(datetime(2026, 1, 1), now=NOW)


def test_timestamps_become_aware_utc_datetimes() -> None:
    assert to_datetime(None) is None
    assert to_datetime(0.0) == datetime(1970, 1, 1, tzinfo=UTC)


def test_the_system_clock_reads_wall_and_monotonic_time() -> None:
    clock = SystemClock()
    assert time.time() - 5 < clock.now() < time.time() + 5
    assert clock.monotonic() <= clock.monotonic()
