"""Periodic rules: the next occurrence exists, is later, and is where a person would look for it.

Must not know jobs, stores or clocks. The DST tables are the written rule of `schedule.Cron`.
"""

from __future__ import annotations

import math
import sys
import time
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_delayq.errors import ConfigurationError, DelayError, RuleError
from flask_delayq.recurrence import SHORTEST_INTERVAL, Cron, Every, make_rule

UTC = timezone.utc
YEAR_2000, YEAR_2050 = 946684800.0, 2524608000.0
ZONES = [
    "UTC",
    "Europe/Berlin",
    "Europe/Dublin",  # winter time is the one with the negative saving
    "America/New_York",
    "America/Santiago",  # changes at midnight: some days have no 00:00
    "America/St_Johns",
    "Australia/Lord_Howe",  # changes by half an hour
    "Asia/Kathmandu",
    "Pacific/Apia",  # had no 30 December 2011
    "Africa/Casablanca",
    "Asia/Gaza",
]


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def occurrences(rule: Cron | Every, after: float, until: float) -> list[float]:
    found = []
    while (after := rule.next_after(after)) <= until:
        found.append(after)
    return found


def shown(moments: list[float], zone: str) -> list[str]:
    return [datetime.fromtimestamp(moment, ZoneInfo(zone)).strftime("%d %H:%M%z") for moment in moments]


# --- every --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "moment", "due"),
    [
        (3600, at("2026-01-01 10:00:00"), at("2026-01-01 11:00:00")),
        (3600, at("2026-01-01 10:59:59"), at("2026-01-01 11:00:00")),
        (3600, math.nextafter(at("2026-01-01 11:00:00"), 0), at("2026-01-01 11:00:00")),
        (3600, math.nextafter(at("2026-01-01 11:00:00"), math.inf), at("2026-01-01 12:00:00")),
        (0.5, 10.2, 10.5),
        (0.1, 0.0, 0.1),
        (1, -0.5, 0.0),
        (86400.0 * 366, 0.0, 86400.0 * 366),
    ],
)
def test_every_counts_from_the_epoch(seconds: float, moment: float, due: float) -> None:
    assert make_rule(every=seconds).next_after(moment) == due


@given(
    seconds=st.floats(SHORTEST_INTERVAL, 1e8) | st.integers(1, 10**8),
    moment=st.floats(-1e9, 4e9),
)
def test_property_every_grows_by_one_turn(seconds: float, moment: float) -> None:
    rule = make_rule(every=seconds)
    first = rule.next_after(moment)
    second = rule.next_after(first)
    slack = 1e-6 + 1e-15 * abs(moment)
    assert moment < first <= moment + seconds + slack
    assert abs(second - first - seconds) <= slack


@given(seconds=st.floats(SHORTEST_INTERVAL, 1e7), turn=st.integers(1, 10**9))
def test_property_no_occurrence_is_skipped_just_before_it(seconds: float, turn: int) -> None:
    due = turn * seconds
    assert make_rule(every=seconds).next_after(math.nextafter(due, -math.inf)) == due


@pytest.mark.parametrize("every", [timedelta(minutes=5), 300, 300.0])
def test_every_takes_seconds_or_a_timedelta(every: Any) -> None:
    assert make_rule(every=every) == Every(300.0)
    assert str(make_rule(every=every)) == "every 5 minutes"


def test_the_shortest_interval_is_the_edge() -> None:
    assert make_rule(every=SHORTEST_INTERVAL) == Every(SHORTEST_INTERVAL)
    with pytest.raises(ConfigurationError, match="too short") as caught:
        make_rule(every=math.nextafter(SHORTEST_INTERVAL, 0))
    assert caught.value.key == "every"


@pytest.mark.parametrize("every", [True, "60", math.nan, math.inf, -1, [60], 1e12], ids=str)
def test_an_interval_that_is_no_duration_is_a_delay_error(every: Any) -> None:
    with pytest.raises(DelayError, match="every"):
        make_rule(every=every)


# --- cron lines ---------------------------------------------------------------------------------

NEXT: list[tuple[str, str, str]] = [
    ("* * * * *", "2026-01-01 10:00:00", "2026-01-01 10:01:00"),
    ("* * * * *", "2026-01-01 10:00:59.999999", "2026-01-01 10:01:00"),
    ("*/15 * * * *", "2026-01-01 10:45:00", "2026-01-01 11:00:00"),
    ("5-10/5 3 * * *", "2026-01-01 03:05:00", "2026-01-01 03:10:00"),
    ("0 0 * * *", "2026-12-31 23:59:59", "2027-01-01 00:00:00"),
    ("0 0 29 2 *", "2026-01-01 00:00:00", "2028-02-29 00:00:00"),
    ("0 0 L * *", "2026-02-01 00:00:00", "2026-02-28 00:00:00"),
    ("0 0 LW * *", "2026-05-01 00:00:00", "2026-05-29 00:00:00"),
    ("0 9 * * MON-FRI", "2026-01-02 09:00:00", "2026-01-05 09:00:00"),
    ("0 9 * JAN sun", "2026-01-01 00:00:00", "2026-01-04 09:00:00"),
    ("0 9 * * 0", "2026-01-01 00:00:00", "2026-01-04 09:00:00"),
    ("0 9 * * 7", "2026-01-01 00:00:00", "2026-01-04 09:00:00"),
    ("0 9 * * 5L", "2026-01-01 00:00:00", "2026-01-30 09:00:00"),
    ("0 9 * * TUE#2", "2026-01-01 00:00:00", "2026-01-13 09:00:00"),
    ("0 0 13 * FRI", "2026-01-01 00:00:00", "2026-01-02 00:00:00"),  # either of them
    ("30 0 12 * * *", "2026-01-01 12:00:29", "2026-01-01 12:00:30"),  # six fields: seconds first
    ("*/20 * * * * *", "2026-01-01 12:00:59", "2026-01-01 12:01:00"),
    ("  0   0\t* * *  ", "2026-01-01 00:00:00", "2026-01-02 00:00:00"),
]


@pytest.mark.parametrize(("line", "after", "due"), NEXT)
def test_the_next_occurrence_of_a_line(line: str, after: str, due: str) -> None:
    assert make_rule(cron=line).next_after(at(after)) == at(due)


@pytest.mark.parametrize("line", ["* * * * *", "30 0 12 * * *", "0 3 * * *"])
def test_an_occurrence_is_not_skipped_when_asked_a_moment_before_it(line: str) -> None:
    rule = make_rule(cron=line)
    due = rule.next_after(at("2026-06-01 00:00:00"))
    for before in (math.nextafter(due, 0), due - 1e-6, due - 0.4, due - 0.5, due - 0.999999):
        assert rule.next_after(before) == due
    assert rule.next_after(due) > due


INVALID = [
    *("", " ", "*", "* * * *", "* * * * * * *", "@daily", "every day"),
    *("60 * * * *", "-1 * * * *", "1.5 * * * *", "a * * * *", "? * * * *", "\uff19 * * * *"),
    *("* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 0 *", "* * * 13 *", "* * * * 8", "60 * * * * *"),
    *(
        "*/0 * * * *",
        "1/ * * * *",
        "/5 * * * *",
        "5-1 * * * *",
        "1-5-9 * * * *",
        "1,,2 * * * *",
        ", * * * *",
    ),
    *("* * * FOO *", "* * * * MON#6", "* * * * MON#0", "* * * * L", "* * 1W * *", "1#2 * * * *"),
    *("0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6,9,11 *"),  # never
    *("0 0 LW * */7", "0 0 LW 2 */7"),  # a last weekday that is a Sunday: never, seen only by looking
    *("*/" + "9" * 5000 + " * * * *", "1" * 10_000 + " * * * *", "\0 * * * *", "\ud800 * * * *"),
    *(5, b"* * * * *", ["* * * * *"], True, object()),
]


@pytest.mark.parametrize("line", INVALID, ids=range(len(INVALID)))
def test_a_line_that_is_none_or_never_occurs_is_refused_at_once(line: Any) -> None:
    began = time.thread_time()
    with pytest.raises(ConfigurationError) as caught:
        make_rule(cron=line)
    assert time.thread_time() - began < 1.0  # 50 ms on an idle machine
    assert caught.value.key == "cron"
    assert "time zone" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            " ",
            "utc ",
            "Nope/Zone",
            "Europe",
            "Europe/Berlin/x",
            "+01:00",
            "\0",
            "\ud800",
            "x" * 5000,
        ),
        *("../etc/passwd", "/etc/passwd", "Europe/../Europe/Berlin", ".", "..", "zone.tab"),
        *(5, True, b"UTC", object(), ["UTC"]),
    ],
    ids=lambda name: ascii(name)[:20] if isinstance(name, str) else type(name).__name__,
)
def test_a_zone_that_is_none_is_a_configuration_error_when_the_rule_is_made(name: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_rule(cron="0 0 * * *", timezone=name)
    assert caught.value.key == "timezone"
    assert len(str(caught.value)) < 120


def test_without_zone_data_only_utc_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    import zoneinfo

    monkeypatch.setattr(zoneinfo, "TZPATH", ())
    zoneinfo.reset_tzpath(to=())
    ZoneInfo.clear_cache()
    for name in [*(name for name in sys.modules if name.startswith("tzdata.")), "tzdata"]:
        monkeypatch.setitem(sys.modules, name, None)
    try:
        assert make_rule(cron="0 0 * * *").next_after(0.0) == 86400.0
        with pytest.raises(ConfigurationError, match=r"'Europe/Berlin'.*pip install tzdata"):
            make_rule(cron="0 0 * * *", timezone="Europe/Berlin")  # as in distroless images
    finally:
        zoneinfo.reset_tzpath()
        ZoneInfo.clear_cache()


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"every": 60, "cron": "* * * * *"},
        {"every": 60, "timezone": "UTC"},
        {"timezone": "UTC"},
    ],
)
def test_a_rule_is_one_thing(rule: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        make_rule(**rule)


# --- zones and their changes --------------------------------------------------------------------

CHANGES: list[tuple[str, str, str, str, list[str]]] = [
    # zone, line, from, to (local), occurrences
    # The hour from 02:00 to 03:00 is skipped: what lay in it occurs once, at 03:00.
    (
        "Europe/Berlin",
        "0 2 * * *",
        "2024-03-30 12:00",
        "2024-04-01 12:00",
        ["31 03:00+0200", "01 02:00+0200"],
    ),
    (
        "Europe/Berlin",
        "30 2 * * *",
        "2024-03-30 12:00",
        "2024-04-01 12:00",
        ["31 03:00+0200", "01 02:30+0200"],
    ),
    ("Europe/Berlin", "0,15,45 2 * * *", "2024-03-30 12:00", "2024-03-31 12:00", ["31 03:00+0200"]),
    (
        "Europe/Berlin",
        "30 2,3 * * *",
        "2024-03-30 12:00",
        "2024-03-31 12:00",
        ["31 03:00+0200", "31 03:30+0200"],
    ),
    ("Europe/Berlin", "0 2,3 * * *", "2024-03-30 12:00", "2024-03-31 12:00", ["31 03:00+0200"]),
    # The hour from 02:00 to 03:00 is repeated: what lies in it occurs once, at its first turn.
    (
        "Europe/Berlin",
        "30 2 * * *",
        "2024-10-26 12:00",
        "2024-10-28 12:00",
        ["27 02:30+0200", "28 02:30+0100"],
    ),
    (
        "Europe/Berlin",
        "0 2,3 * * *",
        "2024-10-26 12:00",
        "2024-10-27 12:00",
        ["27 02:00+0200", "27 03:00+0100"],
    ),
    # Minute or hour begin with a star: both turns, and nothing in the gap.
    (
        "Europe/Berlin",
        "30 * * * *",
        "2024-03-31 01:00",
        "2024-03-31 04:00",
        ["31 01:30+0100", "31 03:30+0200"],
    ),
    (
        "Europe/Berlin",
        "30 * * * *",
        "2024-10-27 02:00",
        "2024-10-27 04:00",
        ["27 02:30+0200", "27 02:30+0100", "27 03:30+0100"],
    ),
    (
        "Europe/Berlin",
        "0 */2 * * *",
        "2024-03-31 00:30",
        "2024-03-31 07:00",
        ["31 04:00+0200", "31 06:00+0200"],
    ),
    ("Europe/Berlin", "*/30 2 * * *", "2024-03-31 00:30", "2024-03-31 12:00", []),
    # Six fields: as with a star.
    ("Europe/Berlin", "0 30 2 * * *", "2024-03-30 12:00", "2024-04-01 12:00", ["01 02:30+0200"]),
    (
        "Europe/Berlin",
        "0 30 2 * * *",
        "2024-10-27 00:00",
        "2024-10-27 12:00",
        ["27 02:30+0200", "27 02:30+0100"],
    ),
    ("America/New_York", "30 2 * * *", "2024-03-09 12:00", "2024-03-10 12:00", ["10 03:00-0400"]),
    ("America/New_York", "30 1 * * *", "2024-11-03 00:00", "2024-11-03 12:00", ["03 01:30-0400"]),
    (
        "America/Santiago",
        "30 0 * * *",
        "2024-09-07 12:00",
        "2024-09-09 12:00",
        ["08 01:00-0300", "09 00:30-0300"],
    ),
    ("America/Santiago", "30 23 * * *", "2024-04-06 12:00", "2024-04-07 12:00", ["06 23:30-0300"]),
    ("Australia/Lord_Howe", "15 2 * * *", "2024-10-05 12:00", "2024-10-06 12:00", ["06 02:30+1100"]),
    ("Australia/Lord_Howe", "45 1 * * *", "2024-04-06 12:00", "2024-04-07 12:00", ["07 01:45+1100"]),
    (
        "Pacific/Apia",
        "0 12 * * *",
        "2011-12-29 00:00",
        "2012-01-01 00:00",
        ["29 12:00-1000", "31 00:00+1400", "31 12:00+1400"],
    ),
]


@pytest.mark.parametrize(("zone", "line", "start", "end", "expected"), CHANGES)
def test_when_the_clocks_change(zone: str, line: str, start: str, end: str, expected: list[str]) -> None:
    found = occurrences(make_rule(cron=line, timezone=zone), at(start, zone), at(end, zone))
    assert shown(found, zone) == expected


def changes(zone: str, year: int) -> list[float]:
    """The moments, to the hour, at which the zone's offset differs from an hour before."""
    start = datetime(year, 1, 1, tzinfo=UTC).timestamp()
    here = ZoneInfo(zone)
    offsets = [datetime.fromtimestamp(start + 3600 * hour, here).utcoffset() for hour in range(366 * 24)]
    return [start + 3600 * h for h in range(1, len(offsets)) if offsets[h] != offsets[h - 1]]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("year", [2011, 2024])
def test_a_daily_line_occurs_once_each_day_through_every_change(zone: str, year: int) -> None:
    """Minutes 0, 15, 30 and 45 of the hours 0 to 4 and 23, around both changes of the year."""
    lines = [f"{minute} {hour} * * *" for minute in (0, 15, 30, 45) for hour in (0, 1, 2, 3, 4, 23)]
    here = ZoneInfo(zone)
    moments = changes(zone, year)
    assert bool(moments) == (
        zone not in ("UTC", "Asia/Kathmandu") and (zone, year) != ("Pacific/Apia", 2024)
    )
    for change in moments:
        for line in lines:
            found = occurrences(
                make_rule(cron=line, timezone=zone), change - 2.5 * 86400, change + 2.5 * 86400
            )
            assert found == sorted(set(found))
            days = [datetime.fromtimestamp(moment, here).date() for moment in found]
            # Samoa left out a whole day: what lay in it comes right after, so that day has two.
            doubled = (
                1 if (zone, year) == ("Pacific/Apia", 2011) and change > at("2011-12-29 00:00") else 0
            )
            assert len(days) - len(set(days)) <= doubled, (line, shown(found, zone))
            wanted = tuple(int(part) for part in line.split()[:2])
            off = [
                m
                for m in found
                if (lambda d: (d.minute, d.hour))(datetime.fromtimestamp(m, here)) != wanted
            ]
            assert len(off) <= 1 and all(change - 7200 <= moment <= change + 7200 for moment in off)


def test_a_search_that_would_go_in_circles_is_ended_by_an_error() -> None:
    """On 31 October 2004 clocks went back there from 00:01 to 23:01 of the day before."""
    began = time.thread_time()
    with pytest.raises(RuleError, match="was not found within"):
        Cron("59 * L * */2", "America/St_Johns").next_after(at("2004-10-16 19:28"))
    assert time.thread_time() - began < 2


@settings(max_examples=150, deadline=None)
@given(
    line=st.builds(
        "{} {} {} {} {}".format,
        st.sampled_from(["0", "30", "*", "*/7", "5-10", "59", "0,15,45"]),
        st.sampled_from(["*", "2", "0", "*/3", "23", "1-3"]),
        st.sampled_from(["*", "1", "31", "L", "29"]),
        st.sampled_from(["*", "2", "JAN", "*/4"]),
        st.sampled_from(["*", "0", "MON-FRI", "5L", "*/2"]),
    ),
    zone=st.sampled_from(ZONES),
    moment=st.floats(YEAR_2000, YEAR_2050),
)
def test_property_the_next_occurrence_exists_grows_and_is_quick(
    line: str, zone: str, moment: float
) -> None:
    try:
        rule = make_rule(cron=line, timezone=zone)
    except ConfigurationError:  # 31 February and the like
        return
    for _ in range(4):
        began = time.thread_time()
        try:
            later = rule.next_after(moment)
        except RuleError:
            assert zone == "America/St_Johns" and moment < at("2011-11-06")  # see the test below
            return
        finally:
            assert time.thread_time() - began < 0.5  # 50 ms on an idle machine
        assert later > moment
        assert later == int(later)
        moment = later


@settings(max_examples=100, deadline=None)
@given(zone=st.sampled_from(ZONES), year=st.sampled_from([2011, 2024, 2030]), data=st.data())
def test_property_around_a_change_every_answer_is_later_than_the_question(
    zone: str, year: int, data: st.DataObject
) -> None:
    moments = changes(zone, year) or [YEAR_2000]
    moment = data.draw(st.sampled_from(moments)) + data.draw(st.floats(-90_000, 90_000))
    line = data.draw(
        st.sampled_from(["30 2 * * *", "*/10 * * * *", "0 0 * * *", "0 */2 * * *", "*/30 0-3 * * *"])
    )
    rule = Cron(line, zone)
    first, second = rule.next_after(moment), rule.next_after(rule.next_after(moment))
    assert moment < first < second
    # Asked at any moment up to an occurrence, the answer is that occurrence.
    between = moment + (first - moment) * data.draw(st.floats(0, 1, exclude_max=True))
    if between < first:
        assert rule.next_after(between) == first


@pytest.mark.parametrize(
    "line", ["* * * * *", "*/5 * * * * *", "30 2 * * *", "0 0 29 2 *", "0 0 29 2 */7"]
)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_a_leap_of_ten_years_costs_no_more_than_one_step(line: str, zone: str) -> None:
    rule = make_rule(cron=line, timezone=zone)
    now = at("2026-01-01 00:00")
    began = time.thread_time()
    for leap in (0.0, -10 * 366 * 86400.0, 10 * 366 * 86400.0):
        assert rule.next_after(now + leap) > now + leap
    assert time.thread_time() - began < 1.0


def test_a_rule_says_what_it_is() -> None:
    assert str(make_rule(cron="0 3 * * *", timezone="Europe/Berlin")) == "cron 0 3 * * * (Europe/Berlin)"
    assert make_rule(cron="0 3 * * *") == Cron("0 3 * * *", "UTC")
