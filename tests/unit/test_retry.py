"""When a failed job runs again: pauses, caps, jitter, limits, and policies that cannot be used.

Must not know jobs or clocks.
"""

from __future__ import annotations

import math
import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_delayq.errors import ConfigurationError, DelayError, DelayQError
from flask_delayq.retry import RETRIES_ON_REQUEST, Cancel, Retry, RetryPolicy, Snooze, Steer


def still() -> float:
    return 0.0


def pauses(policy: RetryPolicy, count: int) -> list[float]:
    return [policy.pause(attempt, still) for attempt in range(1, count + 1)]


def test_pauses_double_up_to_the_cap() -> None:
    assert pauses(RetryPolicy(backoff=2, cap=30), 6) == [2, 4, 8, 16, 30, 30]


def test_another_factor_grows_for_as_long_as_it_takes() -> None:
    slow = RetryPolicy(backoff=1, factor=1.01, cap=3600)
    assert slow.pause(101, still) == pytest.approx(1.01**100)
    assert slow.pause(2000, still) == 3600
    assert pauses(RetryPolicy(backoff=3, factor=1), 3) == [3, 3, 3]


def test_a_list_of_pauses_is_followed_and_its_last_one_repeats() -> None:
    assert pauses(RetryPolicy(backoff=(1, 5, 2)), 5) == [1, 5, 2, 2, 2]
    assert pauses(RetryPolicy(backoff=(7200,), cap=60), 2) == [60, 60]


@pytest.mark.parametrize(
    ("backoff", "first"),
    [
        (timedelta(minutes=1), 60.0),
        ([1, timedelta(seconds=2)], 1.0),
        (0, 0.0),
        (range(3, 5), 3.0),
    ],
)
def test_pauses_may_be_timedeltas_and_lists(backoff: Any, first: float) -> None:
    assert RetryPolicy(backoff=backoff).pause(1, still) == first
    assert RetryPolicy.of(3, backoff).pause(1, still) == first
    assert RetryPolicy(backoff=0, cap=timedelta(minutes=1)).cap == 60.0


@pytest.mark.parametrize(
    "policy",
    [
        RetryPolicy(),
        RetryPolicy(factor=1e6),
        RetryPolicy(factor=1e300, backoff=0.001),
        RetryPolicy(factor=10**9, backoff=3),
        RetryPolicy(factor=1e300, backoff=0),
        RetryPolicy(backoff=(1, 2)),
    ],
)
@pytest.mark.parametrize("attempt", [65, 1024, 1025, 10_000, 10**6])
def test_no_attempt_is_too_high(policy: RetryPolicy, attempt: int) -> None:
    pause = policy.pause(attempt)
    assert math.isfinite(pause) and 0 <= pause <= policy.cap


@given(
    attempt=st.integers(1, 10_000),
    backoff=st.floats(0, 1e6),
    factor=st.floats(1, 1e9),
    cap=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_property_a_pause_lies_between_its_jitter_and_the_cap(
    attempt: int, backoff: float, factor: float, cap: float, jitter: float, chance: float
) -> None:
    policy = RetryPolicy(backoff=backoff, factor=factor, cap=cap, jitter=jitter)
    full = policy.pause(attempt, still)
    pause = policy.pause(attempt, lambda: chance)
    assert 0 <= full * (1 - jitter) <= pause <= full <= cap
    assert full <= policy.pause(attempt + 1, still)


def test_jitter_takes_away_its_share_and_no_more() -> None:
    policy = RetryPolicy(backoff=100, jitter=0.25)
    assert policy.pause(1, lambda: 0.0) == 100
    assert policy.pause(1, lambda: 1.0) == 75
    spread = [policy.pause(1, random.Random(seed).random) for seed in range(50)]
    assert 75 <= min(spread) < 80 and 95 < max(spread) <= 100
    assert RetryPolicy(backoff=100, jitter=0).pause(1) == 100
    assert RetryPolicy(backoff=100, jitter=1).pause(1, lambda: 1.0) == 0


ALLOWS: list[tuple[int, int, bool, int | None, bool]] = [
    # policy, after attempt, on request, the job's own number, another run?
    (1, 1, False, None, False),
    (3, 1, False, None, True),
    (3, 2, False, None, True),
    (3, 3, False, None, False),
    (3, 4, False, None, False),
    (3, 2, False, 2, False),
    (1, 1, False, 2, True),
    (1, 2, False, 2, False),
    (1, 1, True, None, True),
    (1, RETRIES_ON_REQUEST - 1, True, None, True),
    (1, RETRIES_ON_REQUEST, True, None, False),
    (3, 2, True, None, True),
    (3, 3, True, None, False),
    (50, 49, True, None, True),
    (5, 2, True, 3, True),
    (5, 3, True, 3, False),
]


@pytest.mark.parametrize(("runs", "attempt", "on_request", "own", "allowed"), ALLOWS)
def test_whether_another_run_is_allowed(
    runs: int, attempt: int, on_request: bool, own: int | None, allowed: bool
) -> None:
    policy = RetryPolicy(max_attempts=runs)
    assert policy.allows(attempt, on_request=on_request, max_attempts=own) is allowed


BAD: list[tuple[str, Any]] = [
    *(("max_attempts", value) for value in (0, -1, 1.0, True, None, "3", math.inf)),
    *(("jitter", value) for value in (-0.001, 1.001, math.nan, math.inf, "0.1", None, True, [0.1])),
    *(("factor", value) for value in (0.999, 0, -2, math.nan, math.inf, "2", None, True, timedelta(1))),
    *(("cap", value) for value in (-1, math.nan, math.inf, "60", None, True, [60], 1e12)),
    *(("backoff", value) for value in (-1, math.nan, math.inf, "5", None, True, (), [], {}, object())),
    *(("backoff", value) for value in ((1, -1), (1, math.nan), ("1",), [1, None], ((1,),), 1e12)),
    *(
        ("retry_on", value)
        for value in (5, "ValueError", (5,), (int,), [ValueError], (ValueError(),), None)
    ),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_policy_that_cannot_be_used_is_refused_when_it_is_made(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RetryPolicy(**{key: value})
    assert caught.value.key == key


@pytest.mark.parametrize("backoff", [-1, math.nan, "5", (), True, object()])
def test_the_short_form_is_checked_the_same(backoff: Any) -> None:
    with pytest.raises(ConfigurationError):
        RetryPolicy.of(3, backoff)
    with pytest.raises(ConfigurationError):
        RetryPolicy.of(0, 1.0)


def test_one_exception_class_needs_no_tuple() -> None:
    assert RetryPolicy(retry_on=KeyError).retry_on == (KeyError,)  # type: ignore[arg-type]


def test_the_short_form_makes_a_policy() -> None:
    assert RetryPolicy.of(2, None) == RetryPolicy(max_attempts=2)


def test_some_exceptions_are_never_worth_another_run() -> None:
    policy = RetryPolicy(max_attempts=4, retry_on=(OSError,), never_on=(FileNotFoundError,))
    assert policy.covers(ConnectionError())
    assert not policy.covers(FileNotFoundError())
    assert not policy.covers(ValueError())
    with pytest.raises(ConfigurationError, match="never_on must be a tuple of exception classes"):
        RetryPolicy(never_on=("OSError",))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "delay", [-1, math.nan, math.inf, "5", True, None, 10**5000], ids=lambda value: type(value).__name__
)
def test_a_bad_delay_is_an_error_where_the_task_says_it(delay: Any) -> None:
    if delay is not None:
        with pytest.raises(DelayError):
            Retry(delay)
    with pytest.raises(DelayError):
        Snooze(delay)


def test_what_a_task_raises_says_what_it_wants_and_is_no_error_of_ours() -> None:
    assert Retry().delay is None
    assert Retry(timedelta(minutes=1), "busy").delay == 60.0
    assert str(Retry(reason="busy")) == "busy" and str(Retry()) == "the task asked for a retry"
    assert Snooze(timedelta(seconds=2)).delay == 2.0
    assert str(Cancel()) == "the task cancelled its job" and Cancel("gone").reason == "gone"
    for kind in (Retry, Snooze, Cancel):
        assert issubclass(kind, Steer) and not issubclass(kind, DelayQError)
