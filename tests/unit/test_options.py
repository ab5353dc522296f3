"""What a decorator and a call may say, and what they hear when it makes no sense.

Must not know functions or jobs.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from flask_delayq.arguments import Arguments
from flask_delayq.errors import ConfigurationError, DelayQError, InvalidNameError
from flask_delayq.job import Priority
from flask_delayq.options import CallOptions, TaskOptions, declare_task, to_priority
from flask_delayq.recurrence import Cron, Every
from flask_delayq.retry import RetryPolicy


def test_a_task_without_options_has_the_defaults() -> None:
    assert declare_task("mail.send") == TaskOptions(name="mail.send")


def test_all_options_together() -> None:
    declared = declare_task(
        "mail.send",
        aliases=["send", "old.send"],
        queue="mail",
        priority="high",
        max_attempts=5,
        backoff=[1, timedelta(seconds=5)],
        on_crash="fail",
        produce=True,
        produce_queues=["mail-slow"],
        produce_priorities=["low"],
        cron="0 3 * * *",
        timezone="Europe/Berlin",
    )
    assert declared == TaskOptions(
        name="mail.send",
        aliases=("send", "old.send"),
        queue="mail",
        priority=Priority.HIGH,
        retry=RetryPolicy(max_attempts=5, backoff=(1.0, 5.0)),
        fail_on_crash=True,
        produce=True,
        produce_queues=("mail-slow",),
        produce_priorities=(Priority.LOW,),
        rule=Cron("0 3 * * *", "Europe/Berlin"),
    )


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"queu": "mail"}, "queu"),
        ({"max_attempt": 3}, "max_attempt"),
        ({"self": 1}, "self"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
        ({"max_attempts": "3"}, "max_attempts"),
        ({"max_attempts": 3, "backoff": -1}, "backoff"),
        ({"max_attempts": 3, "backoff": "5"}, "backoff"),
        ({"max_attempts": 3, "backoff": []}, "backoff"),
        ({"backoff": 5}, "backoff"),
        ({"retry": 3}, "retry"),
        ({"retry": RetryPolicy(), "max_attempts": 3}, "retry"),
        ({"retry": RetryPolicy(), "backoff": 3}, "retry"),
        ({"on_crash": "ignore"}, "on_crash"),
        ({"on_crash": None}, "on_crash"),
        ({"on_crash": ["fail"]}, "on_crash"),
        ({"priority": "urgent"}, "priority"),
        ({"priority": 0}, "priority"),
        ({"priority": None}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": ["high"]}, "priority"),
        ({"aliases": "old"}, "aliases"),
        ({"aliases": None}, "aliases"),
        ({"aliases": 5}, "aliases"),
        ({"produce": "no"}, "produce"),
        ({"produce": 1}, "produce"),
        ({"produce": None}, "produce"),
        ({"produce_queues": "mail"}, "produce_queues"),
        ({"produce_queues": None}, "produce_queues"),
        ({"produce_priorities": "high"}, "produce_priorities"),
        ({"produce_priorities": ["urgent"]}, "priority"),
        ({"every": 60, "cron": "* * * * *"}, "every"),
        ({"every": 0}, "every"),
        ({"every": 60, "timezone": "UTC"}, "timezone"),
        ({"timezone": "UTC"}, "timezone"),
        ({"cron": ""}, "cron"),
        ({"cron": "* * * * *", "timezone": "Nope"}, "timezone"),
    ],
    ids=str,
)
def test_an_option_that_makes_no_sense_is_named(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        declare_task("mail.send", **options)
    assert caught.value.key == key


@pytest.mark.parametrize(
    "options",
    [{"queue": "a b"}, {"queue": None}, {"queue": 5}, {"aliases": ["ok", "not ok"]}, {"aliases": [5]}],
    ids=str,
)
def test_names_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidNameError):
        declare_task("mail.send", **options)


@pytest.mark.parametrize("name", ["", "größe", "a b", "x" * 129, None])
def test_the_tasks_own_name_is_checked(name: Any) -> None:
    with pytest.raises(InvalidNameError, match="task"):
        declare_task(name)


@pytest.mark.parametrize("every", [-1, "60", True, float("nan")])
def test_an_interval_that_is_none_is_an_error_of_ours(every: Any) -> None:
    with pytest.raises(DelayQError, match="every"):
        declare_task("t", every=every)


def test_an_unknown_option_names_the_one_meant() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'queue'"):
        declare_task("t", queu="mail")
    with pytest.raises(ConfigurationError, match="did you mean 'priority'"):
        CallOptions().with_changes(priorty="high")
    with pytest.raises(ConfigurationError) as caught:
        CallOptions().with_changes(zzz=1)
    assert "did you mean" not in str(caught.value)


def test_rules() -> None:
    assert declare_task("t", every=timedelta(minutes=1)).rule == Every(60.0)
    assert declare_task("t", cron="* * * * *").rule == Cron("* * * * *", "UTC")
    assert declare_task("t", every=None, cron=None, timezone=None).rule is None


def test_retries() -> None:
    policy = RetryPolicy(max_attempts=9)
    assert declare_task("t", retry=policy).retry is policy
    assert declare_task("t", max_attempts=2).retry == RetryPolicy(max_attempts=2)
    assert declare_task("t", retry=None, max_attempts=None, backoff=None).retry is None


def test_a_call_changes_what_it_names_and_nothing_else() -> None:
    first = CallOptions().with_changes(queue="mail", priority="low")
    second = first.with_changes(id="job-1", max_attempts=3)
    assert second == CallOptions(id="job-1", queue="mail", priority=Priority.LOW, max_attempts=3)
    assert first == CallOptions(queue="mail", priority=Priority.LOW)
    assert second.with_changes(queue=None).queue is None


@pytest.mark.parametrize(
    "changes",
    [
        *({"id": value} for value in ("", "a b", 5, b"a", "x" * 129, "a\n")),
        *({"queue": value} for value in ("", "a/b", 5)),
        *({"priority": value} for value in ("HIGH", 1, True, ["high"], "")),
        *({"max_attempts": value} for value in (0, -1, 1.0, True, "3")),
        *({name: 1} for name in ("delay", "args", "retry", "self_", "fail_on_crash")),
    ],
    ids=str,
)
def test_a_bad_call_option_is_an_error_of_ours(changes: dict[str, Any]) -> None:
    with pytest.raises((ConfigurationError, InvalidNameError)):
        CallOptions().with_changes(**changes)


def test_levels_have_names() -> None:
    assert [to_priority(name) for name in ("high", "normal", "low")] == sorted(Priority)
    assert to_priority(Priority.LOW) is Priority.LOW


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            "timeout",
            "no option is named 'timeout': this is not supported yet; set a timeout on each call",
        ),
        ("rate_limit", "served by `flask delayq worker --queues NAME --workers 1`"),
        ("unique", "task.options(id=...) stores one job for each id"),
        ("max_retries", "use max_attempts=, which counts the first run too"),
        ("crontab", "use every= seconds or cron="),
        ("queues", "did you mean 'queue'?"),
        ("zzz", "no option is named 'zzz'; there are name, aliases, queue, priority, max_attempts, "),
    ],
)
def test_an_option_of_another_library_is_answered_with_ours(option: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)) as caught:
        declare_task("t", **{option: 1})
    assert caught.value.key == option
    assert "mean 'timezone'" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "said"),
    [("delay", "use task.enqueue_in(seconds, ...)"), ("eta", "use task.enqueue_at(when, ...)")],
)
def test_so_is_one_of_a_call(option: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        CallOptions().with_changes(**{option: 1})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("queue", "; pass options like this: task.options(queue=...).enqueue(...)"),
        ("countdown", "; use task.enqueue_in(seconds, ...)"),
        ("colour", "; it takes (to)"),
    ],
)
def test_an_option_among_the_arguments_is_told_its_place(name: str, said: str) -> None:
    def send(to: str) -> None: ...

    arguments = Arguments(send, "send")
    with pytest.raises(TypeError) as caught:
        arguments.encode(("x",), {name: 1})
    assert str(caught.value) == f"send() got an unexpected keyword argument {name!r}{said}"
