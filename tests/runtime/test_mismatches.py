"""Jobs whose arguments do not fit: when each is looked at again, and when the patience is used up."""

from __future__ import annotations

from heapq import heappop, heappush

import pytest

from flask_delayq.runtime import mismatches as module
from flask_delayq.runtime.mismatches import LONGEST_PAUSE, PATIENCE, Mismatches

MOST = 100


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", MOST)


def test_the_pauses_double_and_the_patience_ends() -> None:
    mismatches = Mismatches()
    now, pauses = 0.0, []
    while True:
        pause, over = mismatches.look("a", now)
        if over:
            break
        pauses.append(pause)
        now += pause
    assert pauses == [1, 2, 4, 8, 16, 32, *[60] * 4]
    assert now - 60 < PATIENCE <= now


def test_of_more_jobs_than_are_remembered_all_fail_and_none_is_looked_at_all_the_time() -> None:
    mismatches = Mismatches()
    jobs = 2 * MOST + 1
    line = [(0.0, n) for n in range(jobs)]
    looks = failed = 0
    while line:
        now, n = heappop(line)
        looks += 1
        pause, over = mismatches.look(f"job-{n}", now)
        if over:
            mismatches.forget(f"job-{n}")
            failed += 1
        else:
            heappush(line, (now + pause, n))
        assert looks <= 25 * jobs, f"{failed} failed by {now} s"
    assert failed == jobs


def test_jobs_that_never_come_back_make_room() -> None:
    mismatches = Mismatches()
    for n in range(MOST):
        mismatches.look(f"taken-elsewhere-{n}", 0)
    assert mismatches.look("full", PATIENCE - 0.1) == (LONGEST_PAUSE, False)
    assert mismatches.look("a", PATIENCE) == (1, False)
    assert mismatches.look("a", 2 * PATIENCE) == (2, True)
