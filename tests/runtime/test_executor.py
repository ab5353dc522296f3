"""One claim in, one outcome out, whatever the task does; and nothing of a job stays behind.

Runs in a real app context on the memory backend, without threads; must not know the other parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import random
import re
import sys
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from flask import Flask, current_app, g, has_app_context
from msgspec import structs

from flask_delayq.backends import open_backend
from flask_delayq.client import Client
from flask_delayq.config import Settings
from flask_delayq.errors import ArgumentError, JobFailedError
from flask_delayq.job import Claim, Failure, Outcome, ProcessRecord, StoredState, Verb
from flask_delayq.options import declare_task
from flask_delayq.retry import RETRIES_ON_REQUEST, Cancel, Fail, Retry, RetryPolicy, Snooze, Steer
from flask_delayq.running import running_job
from flask_delayq.runtime.executor import TEXT_LIMIT, Executor, describe
from flask_delayq.runtime.mismatches import PATIENCE
from flask_delayq.runtime.peers import fingerprint
from flask_delayq.runtime.signal_sender import SignalSender
from flask_delayq.serializer import decode, decode_failure, encode
from flask_delayq.signals import (
    job_cancelled,
    job_completed,
    job_failed,
    job_retried,
    job_started,
)
from flask_delayq.task import Task, TaskRegistry
from flask_delayq.testing import FakeClock

SIGNALS = (job_started, job_completed, job_retried, job_failed, job_cancelled)


class Bench:
    """An app, a store and an executor; `run` takes one job from its call to its recorded outcome."""

    def __init__(self, **settings: Any) -> None:
        self.app = Flask("bench")
        self.clock = FakeClock()
        self.settings = Settings(url="memory://", **settings)
        self.backend: Any = open_backend("memory://", clock=self.clock)
        self.registry = TaskRegistry()
        self.client = Client(
            backend=self.backend,
            registry=self.registry,
            settings=self.settings,
            clock=self.clock,
            sender=self.app,
        )
        self.signal_sender = SignalSender(
            backend=self.backend, sender=self.app, scope=self.app.app_context, clock=self.clock
        )
        self.executor = Executor(
            registry=self.registry,
            backend=self.backend,
            settings=self.settings,
            clock=self.clock,
            scope=self.app.app_context,
            sender=self.app,
        )

    def task(self, function: Callable[..., Any], **options: Any) -> Task[..., Any]:
        declared = declare_task(options.pop("name", f"t{len(self.registry)}"), **options)
        task: Task[..., Any] = Task(function, declared, lambda: self.client)
        self.registry.add(task)
        return task

    def claim(self) -> Claim:
        now = self.clock.now()
        (claim,) = self.backend.claim(None, now=now, limit=1, owner="me", lease=60.0)
        return claim  # type: ignore[no-any-return]

    def execute(self, claim: Claim, values: Any = None) -> Outcome:
        self.ended = self.executor.execute(self.executor.start(claim), values)
        return self.ended.outcome

    def run_next(self) -> Outcome:
        outcome = self.execute(self.claim())
        assert self.backend.record([outcome], now=self.clock.now()) == [True]
        self.signal_sender.tell_end(self.ended)
        self.signal_sender.turn(self.clock.now())
        return outcome

    def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Outcome:
        self.task(function, **options).enqueue(*args)
        return self.run_next()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_log_filter_that_raises_fails_no_job(bench: Bench) -> None:
    def broken(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError

    log = logging.getLogger("flask_delayq.runtime.executor")
    log.addFilter(broken)
    log.setLevel(logging.DEBUG)
    try:
        assert bench.run(lambda: 1).verb is Verb.COMPLETE
    finally:
        log.removeFilter(broken)
        log.setLevel(logging.NOTSET)


@pytest.fixture
def heard() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """What the signals told, in order."""
    told: list[tuple[str, dict[str, Any]]] = []
    receivers = []
    for signal in SIGNALS:

        def receive(sender: Any, _name: str = signal.name, **facts: Any) -> None:
            told.append((_name, {"sender": sender, **facts}))

        signal.connect(receive)
        receivers.append((signal, receive))
    yield told
    for signal, receive in receivers:
        signal.disconnect(receive)


def failure(outcome: Outcome) -> Failure:
    found = decode_failure(outcome.error)
    assert found is not None
    return found


def raising(error: BaseException | type[BaseException]) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


# --- results ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Parcel:
    weight: float
    sent: date


class Crate(msgspec.Struct):
    parcels: list[Parcel]


@pytest.mark.parametrize(
    ("result", "stored"),
    [
        (None, None),
        (0, 0),
        (False, False),
        ("", ""),
        ("\0ä", "\0ä"),
        ([1, {"a": None}], [1, {"a": None}]),
        ((1, 2), [1, 2]),
        ({3, 1, 2}, [1, 2, 3]),
        (date(2026, 1, 1), "2026-01-01"),
        (Decimal("1.10"), "1.10"),
        (b"ab", "YWI="),
        ({1: "a"}, {"1": "a"}),
        (Crate([Parcel(1.5, date(2026, 1, 1))]), {"parcels": [{"weight": 1.5, "sent": "2026-01-01"}]}),
    ],
    ids=str,
)
def test_a_result_is_stored_as_json(bench: Bench, result: Any, stored: Any) -> None:
    outcome = bench.run(lambda: result)
    assert outcome.verb is Verb.COMPLETE and outcome.error is None
    assert (decode(outcome.result) if outcome.result is not None else None) == stored
    assert outcome.at == bench.clock.now()


class Hostile:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("do not look at me")

    def __repr__(self) -> str:
        raise RuntimeError("do not print me")


@dataclasses.dataclass
class Broken:
    value: int

    def __getattribute__(self, name: str) -> Any:
        raise LookupError("gone")


def nested(depth: int) -> Any:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def in_itself() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "make",
    [
        *(object, Hostile, lambda: Broken(1), lambda: "\ud800", in_itself, lambda: nested(100_000)),
        *(
            lambda: lambda: 1,
            lambda: {object(): 1},
            lambda: 10**5000,
            lambda: open,
            lambda: {1, (2, "a")}.__iter__(),
            lambda: [msgspec.Raw(b"{")],
        ),
    ],
    ids=range(12),
)
def test_a_result_that_json_cannot_carry_completes_the_job_and_says_so(
    bench: Bench, make: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    runs = []
    bench.task(lambda: (runs.append(1), make())[1]).enqueue()
    outcome = bench.run_next()
    assert outcome.verb is Verb.COMPLETE and outcome.result is None
    assert failure(outcome).type == "ResultNotStored"
    message = failure(outcome).message
    assert "that JSON cannot encode" in message
    assert re.match(r"the task returned (an [aeiouAEIOU]|a [^aeiouAEIOU])", message)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert runs == [1]
    assert bench.backend.claim(None, now=bench.clock.now() + 1e6, limit=1, owner="me", lease=60.0) == []


@pytest.mark.parametrize("depth", [100, 10_000, 30_000, 50_000, 70_000])
def test_a_result_that_is_stored_can_be_read(bench: Bench, depth: int) -> None:
    outcome = bench.run(lambda: nested(depth))
    assert outcome.verb is Verb.COMPLETE
    if outcome.result is None:
        assert failure(outcome).type == "ResultNotStored"
        assert depth > 100
    else:
        assert decode(outcome.result)


@pytest.mark.parametrize(("size", "fits"), [(63, True), (64, True), (65, False)])
def test_a_result_above_the_limit_is_not_stored(size: int, fits: bool) -> None:
    bench = Bench(max_result=64)
    outcome = bench.run(lambda: "x" * (size - 2))
    assert outcome.verb is Verb.COMPLETE
    assert (outcome.result is not None) is fits
    if not fits:
        assert failure(outcome).message == "the result takes 65 bytes, the limit is 64"


def test_arguments_arrive_restored(bench: Bench) -> None:
    def function(when: date, *numbers: Decimal, note: str = "none") -> list[Any]:
        return [type(when).__name__, [type(n).__name__ for n in numbers], note]

    outcome = bench.run(function, date(2026, 1, 1), Decimal(1))
    assert decode(outcome.result) == ["date", ["Decimal"], "none"]


# --- exceptions ---------------------------------------------------------------------------------


class ExplodingError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("boom")

    __repr__ = __str__


class ExitingError(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class NumericError(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class Text(str):
    def __len__(self) -> int:
        raise RuntimeError("no length")


class SubclassedError(Exception):
    def __str__(self) -> str:
        return Text("sly")


def circular() -> Exception:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    first.__context__, second.__context__ = second, first
    return first


def deep_chain() -> Exception:
    error: Exception = ValueError("root")
    for number in range(3000):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer
    return error


ERRORS: list[tuple[Callable[[], BaseException], str, str]] = [
    (lambda: ValueError("bad"), "ValueError", "bad"),
    (lambda: ValueError(), "ValueError", ""),
    (lambda: SystemExit(0), "SystemExit", "0"),
    (lambda: KeyboardInterrupt(), "KeyboardInterrupt", ""),
    (lambda: GeneratorExit("x"), "GeneratorExit", "x"),
    (lambda: asyncio.CancelledError("x"), "asyncio.exceptions.CancelledError", "x"),
    (lambda: MemoryError("all gone"), "MemoryError", "all gone"),
    (lambda: StopIteration(5), "StopIteration", "5"),
    (lambda: BaseException("base"), "BaseException", "base"),
    (lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd"), "UnicodeDecodeError", "'utf-8' codec"),
    (lambda: ExplodingError(), "ExplodingError", "(the exception cannot be shown)"),
    (lambda: ExitingError(), "ExitingError", "(the exception cannot be shown)"),
    (lambda: NumericError(), "NumericError", "(the exception cannot be shown)"),
    (lambda: SubclassedError(), "SubclassedError", "sly"),
    (lambda: ValueError("half \ud800 a pair"), "ValueError", "half \\ud800 a pair"),
    (lambda: ValueError("x" * (1 << 20)), "ValueError", "xxx"),
    (lambda: ValueError("two\nlines\r\n\x1b[31mred"), "ValueError", "two\nlines"),
    (circular, "ValueError", "first"),
    (deep_chain, "ValueError", "2999"),
    (lambda: type("Ärger mit Leer", (Exception,), {})("x"), "Ärger", "x"),
    (lambda: type("Lost", (Exception,), {"__module__": None})("x"), "Lost", "x"),
    (lambda: Steer("which way?"), "Steer", "which way?"),
    (lambda: ArgumentError("t", "x", "no"), "ArgumentError", "task 't'"),
]


@pytest.mark.parametrize(("make", "kind", "message"), ERRORS, ids=range(len(ERRORS)))
def test_every_exception_becomes_a_failed_job(
    bench: Bench,
    make: Callable[[], BaseException],
    kind: str,
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    outcome = bench.run(raising(make()))
    assert outcome.verb is Verb.FAIL and outcome.result is None
    found = failure(outcome)
    assert kind in found.type
    assert found.message.startswith(message)
    assert "raising" in found.traceback or "function" in found.traceback
    assert len(outcome.error or b"") < 6 * TEXT_LIMIT
    for record in caplog.records:
        assert record.levelname == "ERROR"
        record.getMessage().encode()
    assert len(caplog.records) == 1


def test_what_is_too_long_is_cut_and_keeps_the_end_of_the_traceback() -> None:
    found = describe(ValueError("x" * (1 << 20)))
    assert len(found.message) == TEXT_LIMIT + len("[...]")
    assert found.message.endswith("[...]")
    assert len(found.traceback) <= TEXT_LIMIT + 10


def test_recursion_in_the_task_is_a_failure_like_others(bench: Bench) -> None:
    def dig() -> None:
        dig()

    found = failure(bench.run(dig))
    assert found.type == "RecursionError"
    assert len(found.traceback) < 5000


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_an_exception_group_is_shown_with_its_parts(bench: Bench) -> None:
    group = BaseExceptionGroup("all of it", [ValueError("one"), KeyboardInterrupt("two")])  # type: ignore[name-defined,unused-ignore]  # noqa: F821
    found = failure(bench.run(raising(group)))
    assert "all of it" in found.message
    assert "one" in found.traceback and "two" in found.traceback


HOSTILE = "\u202eevil\x1b]0;pwned\x07\x1b[2J\r\x85\n2026-11-21 15:00:00 CRITICAL root: forged"


def test_what_a_failed_task_says_cannot_steer_the_terminal_of_a_log_or_forge_a_line(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.run(raising(ValueError(HOSTILE)))

    def receive(sender: Any, **facts: Any) -> None:
        raise ValueError(HOSTILE)

    with job_failed.connected_to(receive):
        bench.run(raising(ValueError("plain")))
    assert len(caplog.records) == 3
    for record in caplog.records:
        first, *others = record.getMessage().split("\n")
        assert first.startswith(("job ", "a receiver of "))
        assert others and all(line.startswith("  ") and line.isprintable() for line in others)
    assert "\\u202eevil\\x1b]0;pwned\\x07\\x1b[2J\\r\\x85" in caplog.records[0].getMessage()
    assert "raise error" in caplog.records[0].getMessage()


def test_one_log_line_even_for_a_message_of_many(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.run(raising(ValueError("a\nERROR forged line")), max_attempts=2)
    assert caplog.records[0].levelname == "WARNING"
    assert "\n" not in caplog.records[0].getMessage()


def test_local_values_are_not_in_the_error(bench: Bench) -> None:
    def function(password: str) -> None:
        secret = password.upper()
        raise ValueError(len(secret))

    outcome = bench.run(function, "hunter2")
    assert b"hunter2" not in (outcome.error or b"") and b"HUNTER2" not in (outcome.error or b"")


# --- retries ------------------------------------------------------------------------------------


def test_an_exception_is_retried_while_the_policy_allows_it(bench: Bench) -> None:
    policy = RetryPolicy(max_attempts=3, backoff=(10, 20), jitter=0)
    bench.task(raising(ValueError("bad")), retry=policy).enqueue()
    now = bench.clock.now()
    first = bench.run_next()
    assert (first.verb, first.run_at, failure(first).message) == (Verb.RETRY, now + 10, "bad")
    bench.clock.advance(10)
    second = bench.run_next()
    assert (second.verb, second.run_at) == (Verb.RETRY, now + 30)
    bench.clock.advance(20)
    third = bench.run_next()
    assert third.verb is Verb.FAIL and third.claim.attempt == 3


@pytest.mark.parametrize(
    ("error", "verb"),
    [
        (ValueError, Verb.RETRY),
        (UnicodeError, Verb.RETRY),
        (KeyError, Verb.FAIL),
        (SystemExit, Verb.FAIL),
    ],
)
def test_only_the_exceptions_of_the_policy_are_retried(
    bench: Bench, error: type[BaseException], verb: Verb
) -> None:
    policy = RetryPolicy(max_attempts=3, retry_on=(ValueError,))
    assert (
        bench.run(raising(error("x" if error is not UnicodeError else "y")), retry=policy).verb is verb
    )


def test_by_default_a_base_exception_is_not_worth_another_run(bench: Bench) -> None:
    assert bench.run(raising(SystemExit), max_attempts=3).verb is Verb.FAIL
    assert bench.run(raising(Exception), max_attempts=3).verb is Verb.RETRY


def test_the_settings_speak_for_tasks_that_name_no_number() -> None:
    bench = Bench(max_attempts=2)
    assert bench.run(raising(ValueError)).verb is Verb.RETRY
    assert bench.run(raising(ValueError), max_attempts=1).verb is Verb.FAIL


def test_the_jobs_own_number_goes_before_the_tasks(bench: Bench) -> None:
    task = bench.task(raising(ValueError), max_attempts=5)
    task.options(max_attempts=1).enqueue()
    assert bench.run_next().verb is Verb.FAIL


def test_jitter_and_pauses_never_make_a_retry_come_early_or_raise(bench: Bench) -> None:
    random.seed(5)
    policy = RetryPolicy(
        max_attempts=10**6, backoff=timedelta(seconds=1), factor=1e6, cap=60, jitter=0.5
    )
    task = bench.task(raising(ValueError), retry=policy)
    task.enqueue()
    claim = bench.claim()
    for attempt in (1, 2, 100, 10_000):
        outcome = bench.execute(msgspec.structs.replace(claim, attempt=attempt))
        assert outcome.verb is Verb.RETRY and outcome.run_at is not None
        assert 0.5 <= outcome.run_at - bench.clock.now() <= 60


# --- Retry, Snooze, Cancel ----------------------------------------------------------------------


def test_a_task_may_ask_for_another_run(bench: Bench) -> None:
    now = bench.clock.now()
    outcome = bench.run(raising(Retry(timedelta(minutes=1), "busy")))
    assert (outcome.verb, outcome.run_at) == (Verb.RETRY, now + 60)
    assert failure(outcome) == Failure("Retry", "busy")


def test_without_a_delay_the_policy_says_when(bench: Bench) -> None:
    policy = RetryPolicy(backoff=7, jitter=0)
    outcome = bench.run(raising(Retry()), retry=policy)
    assert outcome.run_at == bench.clock.now() + 7


@pytest.mark.parametrize(("own", "runs"), [(None, RETRIES_ON_REQUEST), (2, 2), (1, RETRIES_ON_REQUEST)])
def test_asking_for_runs_ends_as_well(bench: Bench, own: int | None, runs: int) -> None:
    bench.task(raising(Retry(1)), max_attempts=own).enqueue()
    for _ in range(runs - 1):
        assert bench.run_next().verb is Verb.RETRY
        bench.clock.advance(1)
    last = bench.run_next()
    assert last.verb is Verb.FAIL and last.claim.attempt == runs


def test_a_snoozed_run_does_not_count(bench: Bench) -> None:
    task = bench.task(raising(Snooze(5)))
    job = task.enqueue()
    for number in range(1, 30):
        outcome = bench.run_next()
        assert (outcome.verb, outcome.claim.attempt, outcome.claim.claim_no) == (Verb.SNOOZE, 1, number)
        assert outcome.run_at == bench.clock.now() + 5 and outcome.error is None
        bench.clock.advance(5)
    assert job.refresh().attempt == 0


def test_a_task_may_fail_its_job_for_good(bench: Bench) -> None:
    job = bench.task(raising(Fail("no such customer")), max_attempts=5).enqueue()
    outcome = bench.run_next()
    assert outcome.verb is Verb.FAIL
    assert failure(outcome) == Failure("Fail", "no such customer")
    assert job.refresh().state == "failed"


def test_what_is_never_worth_another_run_fails_at_once(bench: Bench) -> None:
    policy = RetryPolicy(max_attempts=5, never_on=(KeyError,))
    job = bench.task(raising(KeyError("gone")), retry=policy).enqueue()
    assert bench.run_next().verb is Verb.FAIL
    assert job.refresh().state == "failed"


def test_a_task_may_cancel_its_job(bench: Bench) -> None:
    job = bench.task(raising(Cancel("order is gone")), max_attempts=5).enqueue()
    outcome = bench.run_next()
    assert outcome.verb is Verb.CANCEL
    assert failure(outcome) == Failure("Cancelled", "order is gone")
    assert job.refresh().state == "cancelled"


class Careless(Retry):
    def __init__(self) -> None:  # forgets super().__init__
        pass


class Sneaky(Snooze):
    def __init__(self) -> None:
        super().__init__(1)
        self.delay = float("nan")


class Mute(Cancel):
    def __str__(self) -> str:
        raise RuntimeError("mute")


@pytest.mark.parametrize(
    ("wish", "verb"),
    [(Careless, Verb.FAIL), (Sneaky, Verb.FAIL), (Mute, Verb.CANCEL), (Retry(1), Verb.RETRY)],
)
def test_a_wish_made_wrong_ends_the_run_and_no_thread(bench: Bench, wish: Any, verb: Verb) -> None:
    assert bench.run(raising(wish)).verb is verb


def test_a_wish_in_the_middle_of_cleaning_up_counts(bench: Bench) -> None:
    def function() -> None:
        try:
            raise ValueError("first")
        finally:
            raise Snooze(1)

    assert bench.run(function).verb is Verb.SNOOZE


# --- what does not fit the code here ------------------------------------------------------------


def foreign_claim(bench: Bench, claim_no: int, task: str = "gone", payload: bytes = b"{}") -> Claim:
    return Claim("j", task, "default", payload, "me", claim_no, 1, bench.clock.now())


def test_a_job_of_an_unknown_task_goes_back_at_once_however_long_that_goes_on(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flask_delayq")
    assert bench.executor.foreign_tasks.tasks is None
    for number in range(1, 50):
        outcome = bench.execute(foreign_claim(bench, number))
        assert (outcome.verb, outcome.run_at) == (Verb.RELEASE, None)
        bench.clock.advance(86_400)
    assert len([r for r in caplog.records if "'gone'" in r.getMessage()]) == 1
    bench.task(lambda: 5, name="here", aliases=["once"])
    assert set(bench.executor.foreign_tasks.tasks or ()) == {"here", "once"}


def test_a_job_that_is_left_to_others_has_not_begun_here(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this process dies before the job went back, nobody may think that it ran."""
    begun: list[str] = []
    monkeypatch.setattr(bench.backend, "mark_begun", lambda claim: begun.append(claim.task))
    bench.task(lambda: 5, name="here")
    bench.execute(foreign_claim(bench, 1))
    bench.execute(foreign_claim(bench, 2, "here"))
    assert begun == ["here"]


def test_arguments_that_do_not_fit_are_looked_at_again_ever_more_rarely(bench: Bench) -> None:
    bench.task(lambda x: x, name="mail")
    pauses: list[float] = []
    while sum(pauses) < PATIENCE:
        outcome = bench.execute(foreign_claim(bench, 500, "mail", b"{}"))  # however often others had it
        assert outcome.verb is Verb.SNOOZE and outcome.run_at is not None
        pauses.append(round(outcome.run_at - bench.clock.now(), 3))
        bench.clock.advance(pauses[-1])
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert bench.execute(foreign_claim(bench, 501, "mail", b"{}")).verb is Verb.FAIL


def test_receivers_hear_why_a_job_failed_whose_arguments_never_fitted(bench: Bench) -> None:
    heard: list[BaseException] = []

    def receive(sender: Any, error: BaseException, **more: Any) -> None:
        heard.append(error)

    bench.task(lambda x: x, name="mail")
    claim = foreign_claim(bench, 1, "mail", b"{}")
    with job_failed.connected_to(receive):
        bench.execute(claim)
        bench.clock.advance(PATIENCE)
        assert bench.execute(claim).verb is Verb.FAIL
        bench.signal_sender.tell_end(bench.ended)
        bench.signal_sender.turn(bench.clock.now())
    (error,) = heard
    assert isinstance(error, JobFailedError) and str(error.error).startswith("ArgumentError: ")


@pytest.mark.parametrize("tasks", [{"mail": "another version"}, None], ids=["tells", "tells nothing"])
def test_arguments_that_another_process_may_read_do_not_fail_here(
    bench: Bench, tasks: dict[str, str] | None
) -> None:
    """A rolling deploy that takes hours."""
    bench.task(lambda x: x, name="mail")
    now = bench.clock.now()
    claim = structs.replace(foreign_claim(bench, 1, "mail", b"{}"), enqueued_at=now)
    info = encode({} if tasks is None else {"tasks": tasks})
    bench.backend.announce(ProcessRecord("other", 7, "host", now, now, info))
    for _ in range(20):
        assert bench.execute(claim).verb is Verb.SNOOZE
        bench.clock.advance(PATIENCE)
    bench.backend.withdraw("other")
    assert bench.execute(claim).verb is Verb.FAIL


def test_arguments_that_all_processes_read_alike_fail_in_spite_of_them(bench: Bench) -> None:
    task = bench.task(lambda x: x, name="mail")
    now = bench.clock.now()
    claim = structs.replace(foreign_claim(bench, 1, "mail", b"{}"), enqueued_at=now)
    info = encode({"tasks": {"mail": fingerprint(task)}})
    bench.backend.announce(ProcessRecord("other", 7, "host", now, now, info))
    assert bench.execute(claim).verb is Verb.SNOOZE
    bench.clock.advance(PATIENCE)
    assert bench.execute(claim).verb is Verb.FAIL


def test_a_former_name_finds_the_task(bench: Bench) -> None:
    bench.task(lambda: 5, name="new.name", aliases=["old.name"])
    assert bench.execute(foreign_claim(bench, 1, "old.name")).result == b"5"


@dataclasses.dataclass
class Leaving:
    size: int

    def __post_init__(self) -> None:
        if self.size == 1:
            raise LookupError("one")
        if self.size == 2:
            raise SystemExit("two")


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"null", b"[]", b"{", b"\xff", b"{}", b'{"parcel":5}', b'{"parcel":{"size":0},"more":1}'),
        *(b'{"parcel":{"size":1}}', b'{"parcel":{"size":2}}', b"[" * 100_000),
    ],
    ids=range(11),
)
def test_arguments_that_do_not_fit_never_run_the_task(bench: Bench, payload: bytes) -> None:
    runs: list[Leaving] = []

    def function(parcel: Leaving) -> None:
        runs.append(parcel)

    bench.task(function, name="mail", max_attempts=5)
    assert bench.execute(foreign_claim(bench, 1, "mail", payload)).verb is Verb.SNOOZE
    bench.clock.advance(PATIENCE)
    last = bench.execute(foreign_claim(bench, 2, "mail", payload))
    assert last.verb is Verb.FAIL and runs == []


def test_an_annotation_that_breaks_later_is_a_matter_of_the_job(bench: Bench) -> None:
    def function(x: int) -> None: ...

    function.__annotations__["x"] = "Missing"
    bench.task(function, name="late")
    assert bench.execute(foreign_claim(bench, 1, "late", b'{"x":1}')).verb is Verb.SNOOZE
    bench.clock.advance(PATIENCE)
    outcome = bench.execute(foreign_claim(bench, 2, "late", b'{"x":1}'))
    assert outcome.verb is Verb.FAIL and failure(outcome).type == "ConfigurationError"


# --- async --------------------------------------------------------------------------------------


def test_an_async_task_runs_to_its_end_in_the_context_of_the_job(bench: Bench) -> None:
    async def function(x: int) -> list[Any]:
        await asyncio.sleep(0)
        inner = await asyncio.create_task(asyncio.sleep(0, current_app.name))
        return [x, inner, running_job.get().attempt]

    assert decode(bench.run(function, 5).result) == [5, "bench", 1]


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, SystemExit, KeyboardInterrupt])
def test_an_async_task_fails_like_any_other(bench: Bench, error: type[BaseException]) -> None:
    async def function() -> None:
        await asyncio.sleep(0)
        raise error("x")

    assert bench.run(function).verb is Verb.FAIL


def test_an_async_task_may_steer(bench: Bench) -> None:
    async def function() -> None:
        raise Snooze(5)

    assert bench.run(function).verb is Verb.SNOOZE


def test_what_an_async_task_left_running_is_cancelled(bench: Bench) -> None:
    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def function() -> None:
        function.left = asyncio.create_task(endless())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    assert bench.run(function).verb is Verb.COMPLETE
    assert ended == ["cancelled"]
    del function.left  # type: ignore[attr-defined]


def test_a_function_that_returns_a_coroutine_is_run_to_its_end(bench: Bench) -> None:
    async def inner() -> int:
        return 7

    assert bench.run(lambda: inner()).result == b"7"


# --- contexts -----------------------------------------------------------------------------------

flavour: ContextVar[str] = ContextVar("flavour")


def test_nothing_that_a_job_sets_is_seen_by_the_next(bench: Bench) -> None:
    seen: list[Any] = []

    def function() -> None:
        seen.append((flavour.get("none"), g.get("user"), id(g._get_current_object())))  # type: ignore[attr-defined]
        flavour.set("bitter")
        g.user = "me"

    flavour_outside = flavour.set("outside")
    for _ in range(2):
        bench.run(function)
    assert flavour.get() == "outside"
    flavour.reset(flavour_outside)
    assert [(one[0], one[1]) for one in seen] == [("none", None)] * 2
    assert not has_app_context()


@pytest.mark.parametrize(
    "function", [lambda: None, raising(ValueError), raising(SystemExit), raising(Snooze(1))]
)
def test_teardown_functions_run_however_the_job_ends(bench: Bench, function: Any) -> None:
    torn_down: list[str | None] = []

    @bench.app.teardown_appcontext
    def note(error: BaseException | None) -> None:
        torn_down.append(None if error is None else type(error).__name__)

    bench.run(function)
    assert len(torn_down) == 1
    assert not has_app_context()


@pytest.mark.parametrize("function", [lambda: 5, raising(ValueError("first"))])
def test_a_teardown_function_that_raises_fails_the_run(bench: Bench, function: Any) -> None:
    @bench.app.teardown_appcontext
    def explode(error: BaseException | None) -> None:
        raise RuntimeError("the database is gone")

    outcome = bench.run(function)
    assert outcome.verb is Verb.FAIL
    assert "the database is gone" in failure(outcome).traceback
    assert not has_app_context()


def test_a_context_that_cannot_be_entered_fails_the_run(bench: Bench) -> None:
    @contextlib.contextmanager
    def scope() -> Iterator[None]:
        raise OSError("no context today")
        yield

    bench.executor._scope = scope
    assert failure(bench.run(lambda: 5)).message == "no context today"


def test_the_job_is_known_inside_and_unknown_outside(bench: Bench) -> None:
    def function() -> list[Any]:
        run = running_job.get()
        return [run.id, run.task, run.queue, run.attempt, run.rescues]

    job = bench.task(function, name="me", queue="mail").enqueue()
    assert decode(bench.run_next().result) == [job.id, "me", "mail", 1, 0]
    assert running_job.get(None) is None


# --- what stays behind --------------------------------------------------------------------------


class Burden(msgspec.Struct, weakref=True):
    size: int = 0


@pytest.mark.parametrize("ending", ["return", "raise", "snooze", "unencodable"])
def test_arguments_and_locals_die_with_the_job(bench: Bench, ending: str) -> None:
    alive: list[weakref.ref[Any]] = []

    def function(burden: Burden) -> Any:
        local = Burden(1)
        alive.extend((weakref.ref(burden), weakref.ref(local)))
        if ending == "raise":
            raise ValueError("bad")
        if ending == "snooze":
            raise Snooze(5)
        return {local: 1} if ending == "unencodable" else None

    task = bench.task(function, max_attempts=3)
    task.enqueue(Burden(7))
    claim = bench.claim()
    gc.disable()
    try:
        outcome = bench.execute(claim)
        assert [ref() for ref in alive] == [None, None], "held by something other than a cycle"
    finally:
        gc.enable()
    assert outcome.claim is claim


def test_an_exception_that_is_raised_again_and_again_gathers_no_frames(bench: Bench) -> None:
    again = Snooze(1)
    error = ValueError("the same object")
    for one in (again, error):
        for _ in range(3):
            bench.run(raising(one))
            bench.clock.advance(1)
            bench.backend.purge("default", now=bench.clock.now())
        assert one.__traceback__ is None


# --- signals ------------------------------------------------------------------------------------


def test_signals_tell_what_happens(bench: Bench, heard: list[tuple[str, dict[str, Any]]]) -> None:
    def slow() -> int:
        bench.clock.advance(2.5)
        return 7

    bench.run(slow)
    error = ValueError("bad")
    bench.run(raising(error))
    now = bench.clock.now()
    bench.run(raising(error), max_attempts=2, backoff=0)
    bench.run_next()
    bench.run(raising(Snooze(5)))
    bench.run(raising(Cancel("gone")))
    bench.run(raising(Retry(3)))
    names = [name for name, _ in heard if name != "job-started"]
    assert names == [
        *(
            "job-completed",
            "job-failed",
            "job-retried",
            "job-failed",
            "job-retried",
            "job-cancelled",
            "job-retried",
        ),
    ]
    facts = {name: told for name, told in reversed(heard)}
    assert (facts["job-completed"]["result"], facts["job-completed"]["seconds"]) == (7, 2.5)
    assert facts["job-failed"]["error"] is error
    assert facts["job-cancelled"]["reason"] == "gone"
    assert facts["job-started"]["attempt"] == 1
    retried = [told for name, told in heard if name == "job-retried"]
    assert [(told["error"], told["run_at"] - now) for told in retried[:2]] == [(error, 0.0), (None, 5.0)]
    assert isinstance(retried[2]["error"], Retry)
    for _, told in heard:
        assert told["sender"] is bench.app and isinstance(told["job"], Claim)


def test_an_exception_reaches_receivers_with_its_traceback(bench: Bench) -> None:
    found: list[Any] = []

    @job_failed.connect
    def receive(sender: Any, job: Claim, error: Exception) -> None:
        found.append(error.__traceback__ is not None)

    try:
        bench.run(raising(ValueError("x")))
    finally:
        job_failed.disconnect(receive)
    assert found == [True]


@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError, ExplodingError]
)
@pytest.mark.parametrize(
    ("signal", "function", "verb"),
    [
        (job_started, lambda: 5, Verb.COMPLETE),
        (job_completed, lambda: 5, Verb.COMPLETE),
        (job_failed, raising(ValueError), Verb.FAIL),
        (job_retried, raising(Snooze(1)), Verb.SNOOZE),
        (job_retried, raising(Retry(1)), Verb.RETRY),
        (job_cancelled, raising(Cancel()), Verb.CANCEL),
    ],
)
def test_a_receiver_that_raises_changes_nothing_for_the_job(
    bench: Bench,
    error: type[BaseException],
    signal: Any,
    function: Any,
    verb: Verb,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def receive(sender: Any, **facts: Any) -> None:
        raise error()

    signal.connect(receive)
    try:
        outcome = bench.run(function)
    finally:
        signal.disconnect(receive)
    assert outcome.verb is verb
    complaint = [record for record in caplog.records if "receiver" in record.getMessage()]
    assert len(complaint) == 1 and complaint[0].levelno == logging.ERROR
    assert signal.name in complaint[0].getMessage()


def test_the_state_in_the_store_follows(bench: Bench) -> None:
    job = bench.task(raising(ValueError("bad")), max_attempts=2, backoff=5).enqueue()
    bench.run_next()
    job.refresh()
    assert (job.state, job.attempt, job.record.stored) == ("scheduled", 1, StoredState.WAITING)
    assert job.error is not None and job.error.message == "bad"


def test_a_run_that_the_end_of_its_process_cut_off_is_no_failure(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[object] = []

    def receiver(sender: object, **facts: object) -> None:
        told.append(sender)

    job_failed.connect(receiver)
    bench.task(raising(RuntimeError("can't create new thread at interpreter shutdown"))).enqueue()
    monkeypatch.setattr("concurrent.futures.thread._shutdown", True)
    outcome = bench.run_next()
    assert (outcome.verb, outcome.error, told) == (Verb.INTERRUPT, None, [])
    assert "was interrupted by the end of its process and runs again elsewhere" in caplog.text
