"""What a rescue makes of a job, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from flask_delayq.backends.crashes import CUT_OFF, suspect_from, verdict_of
from flask_delayq.job import StoredState

WAITING, FAILED, CANCELLED = StoredState.WAITING, StoredState.FAILED, StoredState.CANCELLED


def judged(**facts: Any) -> tuple[StoredState, int, bool, bool]:
    defaults: dict[str, Any] = {
        "rescues": 0,
        "max_rescues": 3,
        "fail_on_crash": False,
        "interrupted": False,
        "cancel_requested": False,
        "begun": True,
    }
    verdict = verdict_of(**{**defaults, **facts})
    assert (verdict.failure is not None) == (verdict.state is FAILED)
    return verdict.state, verdict.rescues, verdict.charged, verdict.suspect


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, (WAITING, 1, True, False)),
        ({"rescues": 1}, (WAITING, 2, True, True)),
        ({"rescues": 2}, (WAITING, 3, True, True)),
        ({"rescues": 3}, (FAILED, 4, True, True)),
        ({"max_rescues": 0}, (FAILED, 1, True, True)),
        ({"max_rescues": 1}, (WAITING, 1, True, True)),
        ({"max_rescues": 2}, (WAITING, 1, True, False)),
        ({"fail_on_crash": True}, (FAILED, 1, True, False)),
        ({"interrupted": True}, (WAITING, 0, False, False)),
        ({"interrupted": True, "rescues": 3, "max_rescues": 2}, (WAITING, 3, False, True)),
        ({"interrupted": True, "fail_on_crash": True}, (FAILED, 0, False, False)),
        ({"begun": False}, (WAITING, 0, False, False)),
        ({"begun": False, "fail_on_crash": True}, (WAITING, 0, False, False)),
        ({"begun": False, "interrupted": True, "fail_on_crash": True}, (WAITING, 0, False, False)),
        ({"begun": False, "rescues": 9, "max_rescues": 0}, (WAITING, 9, False, True)),
        ({"cancel_requested": True}, (CANCELLED, 1, True, False)),
        ({"cancel_requested": True, "begun": False}, (CANCELLED, 0, False, False)),
        ({"cancel_requested": True, "fail_on_crash": True}, (CANCELLED, 1, True, False)),
    ],
)
def test_what_becomes_of_a_job(
    facts: dict[str, Any], expected: tuple[StoredState, int, bool, bool]
) -> None:
    assert judged(**facts) == expected


def test_a_stop_is_told_apart_from_a_crash() -> None:
    def why(interrupted: bool) -> Any:
        return verdict_of(
            rescues=0,
            max_rescues=3,
            fail_on_crash=True,
            interrupted=interrupted,
            cancel_requested=False,
        ).failure

    assert why(True) == CUT_OFF
    assert why(False).type == "Crashed"


@pytest.mark.parametrize("allowed", range(1, 8))
def test_no_job_fails_for_one_poison_job_beside_it(allowed: int) -> None:
    """Until the poison is a suspect it can have another job charged so often, and then no more."""
    assert suspect_from(allowed) <= allowed
