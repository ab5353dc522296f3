"""Every error carries its facts, descends from the one root and speaks in few words.

Must not know where they are raised.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from flask_delayq import errors
from flask_delayq.errors import DelayQError

LONG = "x" * 100_000

EXAMPLES: list[tuple[DelayQError, dict[str, Any], type[Exception]]] = [
    (errors.ConfigurationError("no", key="DELAYQ_URL"), {"key": "DELAYQ_URL"}, Exception),
    (errors.SetupError("no app"), {}, RuntimeError),
    (errors.TaskNotFoundError("a", ["b"]), {"name": "a", "suggestions": ("b",)}, LookupError),
    (errors.TaskAlreadyRegisteredError("a", "mod.f"), {"name": "a"}, Exception),
    (errors.ArgumentError("t", "x[0]", "no"), {"task": "t", "path": "x[0]", "reason": "no"}, TypeError),
    (errors.DelayError("no", -1), {"value": -1}, ValueError),
    (errors.PayloadTooLargeError("it", 2000, 1000), {"size": 2000, "limit": 1000}, ValueError),
    (errors.InvalidNameError("queue", LONG), {"value": LONG}, ValueError),
    (errors.JobNotFoundError("j"), {"job_id": "j"}, LookupError),
    (
        errors.ScheduleNotFoundError("s", ["t"]),
        {"name": "s", "suggestions": ("t",), "declared": False},
        LookupError,
    ),
    (errors.RuleError("no"), {}, ValueError),
    (errors.JobConflictError("j"), {"job_id": "j"}, Exception),
    (
        errors.InvalidTransitionError("j", "ready", "retry"),
        {"job_id": "j", "state": "ready", "action": "retry"},
        Exception,
    ),
    (errors.JobFailedError("j", "failed", "E: no"), {"state": "failed", "error": "E: no"}, Exception),
    (errors.JobNotFinishedError("j", "ready"), {"state": "ready"}, Exception),
    (errors.WaitTimeoutError("j", 2.5), {"timeout": 2.5}, TimeoutError),
    (errors.WaitInsideTaskError("j"), {"job_id": "j"}, RuntimeError),
    (errors.BackendUnavailableError("no", reason="locked"), {"reason": "locked"}, errors.BackendError),
    (
        errors.EnqueueUncertainError(["a", "b", "c", "d"]),
        {"job_ids": ("a", "b", "c", "d"), "job_id": "a"},
        errors.BackendError,
    ),
    (errors.QueueFullError("mail", 1000), {"queue": "mail", "limit": 1000}, errors.BackendError),
    (errors.QueueFullError(None, 1000), {"queue": None, "limit": 1000}, errors.BackendError),
    (errors.StoreCorruptError("no"), {}, errors.BackendError),
    (errors.StoreMismatchError("no"), {}, errors.BackendError),
    (errors.UnsupportedOperationError("no"), {}, errors.BackendError),
]


@pytest.mark.parametrize(("error", "facts", "base"), EXAMPLES, ids=lambda v: type(v).__name__)
def test_an_error_carries_its_facts(error: DelayQError, facts: dict[str, Any], base: type) -> None:
    assert isinstance(error, DelayQError) and isinstance(error, base)
    assert {name: getattr(error, name) for name in facts} == facts
    assert 0 < len(str(error)) < 300


def test_no_error_is_missing_above() -> None:
    defined = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, DelayQError) and kind.__module__ == errors.__name__
    }
    shown = {type(error) for error, *_ in EXAMPLES}
    assert defined - shown == {DelayQError, errors.JobError, errors.BackendError}


def test_only_what_was_not_done_at_all_may_be_repeated_blindly() -> None:
    """Loops retry this one class; nothing else may hide under it."""
    assert errors.BackendUnavailableError.__subclasses__() == []


def test_suggestions_and_numbers_are_written_for_people() -> None:
    assert "did you mean 'send'" in str(errors.TaskNotFoundError("sned", ["send"]))
    assert "did you mean" not in str(errors.TaskNotFoundError("sned"))
    assert "2,000 bytes" in str(errors.PayloadTooLargeError("it", 2000, 1000))
    assert "a, b, c, ..." in str(errors.EnqueueUncertainError(["a", "b", "c", "d"]))


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "text"),
    [(5, "5"), ("a", "'a'"), (10**5000, "<int>"), (Unspeakable(), "<Unspeakable>"), ([LONG], "['xxx")],
    ids=["int", "str", "huge int", "unspeakable", "long"],
)
def test_any_value_can_be_shown(value: Any, text: str) -> None:
    assert errors.shown(value).startswith(text)
    assert len(errors.shown(value)) <= 60


def test_a_task_that_is_not_found_is_told_with_what_may_be_the_reason() -> None:
    assert str(errors.TaskNotFoundError("shop.mail")).endswith("registered; is its module imported?")
    assert str(errors.TaskNotFoundError("mial", ["mail"])).endswith(
        "; did you mean 'mail'? If not, is its module imported?"
    )
