"""The kit that an application's tests use: its clock, its runs, its expectations, its pytest plugin.

It must not know more of an app than such a test does.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_delayq import DelayQ, JobState, Retry, RetryPolicy, current_job
from flask_delayq.errors import (
    ArgumentError,
    DelayError,
    SetupError,
    TaskNotFoundError,
    WaitTimeoutError,
)
from flask_delayq.testing import (
    FakeClock,
    advance,
    assert_enqueued,
    refute_enqueued,
    run_jobs,
    use_clock,
)
from kit import make_app

START = 1_800_000_000.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


@pytest.fixture(params=["memory", "sqlite"])
def delayq(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Any:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.sqlite3"
    _app, delayq = make_app(url=url)
    use_clock(delayq, clock)
    yield delayq
    delayq.state.close()


Note = Callable[[str], None]


@pytest.fixture
def seen() -> list[tuple[float, str]]:
    """What has run, and when by the clock."""
    return []


def moments(seen: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Seconds after the start, rounded as floats of this size need it."""
    return [(round(at - START, 5), text) for at, text in seen]


# --- use_clock ---------------------------------------------------------------------------------------


def test_the_app_lives_by_the_clock_that_it_was_given(delayq: DelayQ, clock: FakeClock) -> None:
    task = delayq.task(name="t")(lambda: None)
    job = task.enqueue_in(30)
    assert job.run_at == datetime.fromtimestamp(START + 30, timezone.utc)
    clock.advance(29.999)
    assert (job.state, delayq.drain()) == (JobState.SCHEDULED, [])
    clock.advance(0.001)
    assert job.state is JobState.READY
    assert len(delayq.drain()) == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda delayq: delayq.task(name="t")(lambda: None).enqueue(),
        lambda delayq: delayq.counts(),
        lambda delayq: delayq.state.health(),
    ],
)
def test_a_clock_that_comes_too_late_is_refused(use: Callable[[DelayQ], object]) -> None:
    _app, delayq = make_app()
    use(delayq)
    with pytest.raises(SetupError, match="too late"):
        use_clock(delayq, FakeClock())


def test_the_same_clock_may_be_given_again(delayq: DelayQ, clock: FakeClock) -> None:
    delayq.counts()
    use_clock(delayq, clock)


def test_with_several_apps_the_clock_is_for_the_one_of_the_context() -> None:
    delayq = DelayQ()
    apps = [Flask("one"), Flask("two")]
    for app in apps:
        app.config["TESTING"] = True
        delayq.init_app(app)
    task = delayq.task(name="t")(lambda: None)
    with pytest.raises(SetupError, match="several apps"):
        use_clock(delayq, FakeClock())
    with apps[0].app_context():
        use_clock(delayq, FakeClock(1000.0))
        assert task.enqueue().run_at.timestamp() == 1000.0
    with apps[1].app_context():
        assert task.enqueue().run_at.timestamp() > 1_000_000_000


# --- run_jobs ----------------------------------------------------------------------------------------


def test_a_failed_job_fails_the_test_with_its_traceback(delayq: DelayQ) -> None:
    ran: list[str] = []

    @delayq.task(name="broken")
    def broken(text: str) -> None:
        raise ValueError(f"no {text}")

    good = delayq.task(name="good")(lambda: ran.append("good"))
    first = broken.enqueue("one")
    broken.enqueue("two")
    good.enqueue()
    with pytest.raises(AssertionError) as caught:
        run_jobs(delayq)
    text = str(caught.value)
    assert f"job {first.id} (broken) failed: ValueError: no one\n" in text
    assert "ValueError: no two" in text
    assert 'raise ValueError(f"no {text}")' in text and "Traceback" in text
    assert ran == ["good"]


def test_a_failed_expectation_shows_the_test_and_none_of_the_kit(
    delayq: DelayQ, clock: FakeClock
) -> None:
    @delayq.task(name="broken")
    def broken() -> None:
        raise ValueError("no")

    def failing() -> list[Callable[[], object]]:
        return [
            lambda: assert_enqueued(delayq, broken, count=5),
            lambda: refute_enqueued(delayq, broken),
            lambda: run_jobs(delayq),
            lambda: (broken.enqueue_in(5), advance(delayq, clock, 5)),
        ]

    broken.enqueue()
    for fail in failing():
        with pytest.raises(AssertionError) as caught:
            fail()
        shown = [Path(str(entry.path)).name for entry in caught.traceback.filter(caught)]
        assert shown and set(shown) == {"test_testing.py"}


def test_an_outcome_reads_like_a_sentence(delayq: DelayQ) -> None:
    @delayq.task(name="mail", max_attempts=2, backoff=[30])
    def mail(secret: str) -> str:
        if secret == "hunter2":
            raise ValueError(secret)
        return secret

    good, bad = mail.enqueue("hunter3"), mail.enqueue("hunter2")
    first, second = run_jobs(delayq)
    assert repr(first) == f"<Outcome of mail: complete; attempt 1 of job {good.id}>"
    assert re.fullmatch(
        r"<Outcome of mail: retry \(ValueError\), due in [23]\d(\.\d)? s; attempt 1 of job \w+>",
        repr(second),
    )
    assert bad.id in repr(second)
    assert first.failure is None
    assert second.failure is not None and str(second.failure) == "ValueError: hunter2"


def test_who_waits_in_a_test_hears_that_the_test_runs_the_jobs(
    delayq: DelayQ, caplog: pytest.LogCaptureFixture
) -> None:
    job = delayq.task(name="idle")(lambda: None).enqueue()
    with pytest.raises(WaitTimeoutError, match="automatically with DELAYQ_MODE=manual"):
        job.wait(0)
    delayq.state.app.testing = True
    with pytest.raises(WaitTimeoutError, match=r"with TESTING: call run_jobs\(delayq\)"):
        job.wait(0)
    assert not delayq.join(0)
    assert caplog.text == ""

    def look() -> bool:  # as a job that ends in another thread
        if caplog.text:
            run_jobs(delayq)
        return job.refresh().is_final

    assert delayq.client.await_change(job.id, look, None)
    assert "waiting without a limit, but no jobs run automatically with TESTING" in caplog.text
    delayq.start()
    assert delayq.client.why_idle() == ""
    delayq.stop()


def test_a_test_that_uses_the_store_of_the_app_is_warned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    app = Flask(__name__, instance_path=str(tmp_path).replace("test", "t"))
    app.config.update(TESTING=True, DELAYQ_URL="sqlite:///delayq.sqlite3")
    delayq = DelayQ(app)
    with pytest.warns(UserWarning, match="Set DELAYQ_URL = 'memory://'"):
        assert delayq.state.backend.url.startswith("sqlite:")
    assert delayq.state.backend.url.startswith("sqlite:")  # no second warning, which would be an error


def test_without_raise_errors_the_outcomes_tell(delayq: DelayQ) -> None:
    @delayq.task(name="broken")
    def broken() -> None:
        raise ValueError("no")

    broken.enqueue()
    broken.enqueue()
    assert [outcome.verb.value for outcome in run_jobs(delayq, raise_errors=False, limit=1)] == ["fail"]
    assert delayq.counts()["ready"] == 1


def test_an_error_that_will_be_retried_is_no_failure_yet(delayq: DelayQ) -> None:
    @delayq.task(name="flaky", max_attempts=2)
    def flaky() -> None:
        raise ValueError("no")

    flaky.enqueue()
    assert [outcome.verb.value for outcome in run_jobs(delayq)] == ["retry"]


# --- advance -----------------------------------------------------------------------------------------


def test_chains_retries_and_periodic_tasks_happen_at_their_moments(
    delayq: DelayQ, clock: FakeClock, seen: list[tuple[float, str]]
) -> None:
    def note(text: str) -> None:
        seen.append((clock.now(), text))

    @delayq.task(name="step")
    def step(left: int) -> None:
        note(f"step {left}")
        if left:
            step.enqueue_in(7.5, left - 1)

    @delayq.task(name="flaky", retry=RetryPolicy(max_attempts=3, backoff=(4, 8), jitter=0))
    def flaky() -> None:
        note(f"flaky {current_job.attempt}")
        if current_job.attempt < 3:
            raise OSError("not yet")

    @delayq.task(name="tick", every=10)
    def tick() -> None:
        note("tick")

    step.enqueue_in(0.1, 2)
    flaky.enqueue()
    outcomes = advance(delayq, clock, 20)
    assert moments(seen) == [
        (0, "flaky 1"),
        (0.1, "step 2"),
        (4, "flaky 2"),
        (7.6, "step 1"),
        (10, "tick"),
        (12, "flaky 3"),
        (15.1, "step 0"),
        (20, "tick"),
    ]
    assert len(outcomes) == 8
    assert clock.now() == START + 20


def test_the_end_belongs_to_the_time_that_passed_and_not_more(delayq: DelayQ, clock: FakeClock) -> None:
    task = delayq.task(name="t")(lambda: None)
    task.enqueue_in(30)
    assert advance(delayq, clock, 29.999) == []
    assert len(advance(delayq, clock, timedelta(milliseconds=1))) == 1
    assert clock.now() == START + 30


@pytest.mark.parametrize("start", [START, START + 0.1, START + 1 / 3, 1_799_999_999.999999])
def test_no_rounding_keeps_a_job_from_its_moment(start: float) -> None:
    clock = FakeClock(start)
    _app, delayq = make_app()
    use_clock(delayq, clock)
    task = delayq.task(name="t")(lambda: None)
    delays = [n * 0.0370370370370001 for n in range(300)]
    for delay in delays:
        task.enqueue_in(delay)
    late = []
    for _ in range(3):
        for outcome in advance(delayq, clock, delays[-1] / 3):
            late.append(outcome.at - outcome.claim.run_at)
    assert len(late) == 300
    assert 0 <= min(late) and max(late) < 1e-6
    assert abs(clock.now() - start - delays[-1]) < 1e-6


def test_nothing_runs_that_is_paused_or_unknown_and_time_goes_on(
    delayq: DelayQ, clock: FakeClock, seen: list[tuple[float, str]]
) -> None:
    task = delayq.task(name="t")(lambda: seen.append((clock.now(), "t")))
    ticking = delayq.task(name="tick")(lambda: seen.append((clock.now(), "tick")))
    task.options(queue="shut").enqueue()
    delayq.pause("shut")
    delayq.schedules.add("quiet", ticking, every=2)
    delayq.schedules.pause("quiet")
    task.enqueue_in(5)
    assert len(advance(delayq, clock, 10)) == 1
    assert moments(seen) == [(5, "t")]
    assert clock.now() == START + 10


def test_errors_surface_at_their_moment(delayq: DelayQ, clock: FakeClock) -> None:
    @delayq.task(name="broken")
    def broken() -> None:
        raise ValueError("no")

    broken.enqueue_in(3)
    broken.enqueue_in(8)
    with pytest.raises(AssertionError, match="ValueError: no"):
        advance(delayq, clock, 10)
    assert clock.now() == START + 3
    assert len(advance(delayq, clock, 7, raise_errors=False)) == 1


def test_only_the_clock_of_the_app_can_be_advanced(delayq: DelayQ) -> None:
    with pytest.raises(SetupError, match="another clock"):
        advance(delayq, FakeClock(), 1)


@pytest.mark.parametrize("seconds", [-1, float("nan"), "soon", None])
def test_only_time_can_pass(delayq: DelayQ, clock: FakeClock, seconds: Any) -> None:
    with pytest.raises(DelayError, match="seconds"):
        advance(delayq, clock, seconds)
    assert clock.now() == START


# --- assert_enqueued, refute_enqueued ------------------------------------------------------------------


def mailer(delayq: DelayQ) -> Any:
    @delayq.task(name="mail", aliases=["post"])
    def mail(to: str, when: datetime | None = None, *, size: float = 1.0) -> None: ...

    return mail


MOMENT = datetime(2030, 1, 1, tzinfo=timezone.utc)


def test_a_call_is_the_same_however_its_arguments_are_passed(delayq: DelayQ) -> None:
    mail = mailer(delayq)
    job = mail.enqueue("ann", when=MOMENT, size=2)
    assert assert_enqueued(delayq, mail) == [job]
    assert_enqueued(delayq, "mail")
    assert_enqueued(delayq, "post")
    assert_enqueued(delayq, mail, args=("ann", MOMENT), kwargs={"size": 2.0})
    assert_enqueued(delayq, mail, kwargs={"to": "ann", "when": MOMENT, "size": 2})
    for args, kwargs in [
        (("ann",), {}),
        (("ann", MOMENT), {}),
        (("ann", MOMENT), {"size": 3}),
        (("bob", MOMENT), {"size": 2}),
    ]:
        refute_enqueued(delayq, mail, args=args, kwargs=kwargs)


def test_defaults_may_be_left_out(delayq: DelayQ) -> None:
    mail = mailer(delayq)
    mail.enqueue("ann")
    assert_enqueued(delayq, mail, args=["ann", None], kwargs={"size": 1.0})
    mail.enqueue("bob", None, size=1.0)
    assert_enqueued(delayq, mail, args=["bob"])


def test_what_no_call_could_be_is_an_error_of_the_test(delayq: DelayQ) -> None:
    mail = mailer(delayq)
    mail.enqueue("ann")
    with pytest.raises(TypeError, match="missing a required argument: 'to'"):
        assert_enqueued(delayq, mail, kwargs={"size": 1.0})
    with pytest.raises(ArgumentError):
        assert_enqueued(delayq, mail, args=(object(),))
    with pytest.raises(TaskNotFoundError, match="did you mean 'mail'"):
        assert_enqueued(delayq, "mial")
    with pytest.raises(TypeError, match="need a task"):
        refute_enqueued(delayq, args=("ann",))


def test_queue_moment_and_number_count(delayq: DelayQ, clock: FakeClock) -> None:
    mail = mailer(delayq)
    first = mail.options(queue="slow").enqueue_in(60, "ann")
    second = mail.enqueue("ann")
    assert assert_enqueued(delayq, mail, count=2) == [first, second]
    assert_enqueued(delayq, mail, queue="slow", due_in=60, count=1)
    assert_enqueued(delayq, mail, due_in=0, count=1)
    refute_enqueued(delayq, mail, queue="slow", due_in=0)
    refute_enqueued(delayq, mail, due_in=59.999)
    refute_enqueued(delayq, mail, queue="fast")
    clock.advance(20)
    assert_enqueued(delayq, mail, due_in=timedelta(seconds=40), count=1)
    assert_enqueued(delayq, mail, due_in=0, count=1)
    for wrong in (0, 1, 3):
        with pytest.raises(AssertionError, match=rf"2 jobs of task 'mail' enqueued \({wrong} exp"):
            assert_enqueued(delayq, mail, count=wrong)


def test_what_has_run_is_not_enqueued_any_more_but_what_will_be_retried_is(
    delayq: DelayQ, clock: FakeClock
) -> None:
    @delayq.task(name="again")
    def again() -> None:
        raise Retry(5)

    mail = mailer(delayq)
    mail.enqueue("ann")
    again.enqueue()
    run_jobs(delayq)
    refute_enqueued(delayq, mail)
    assert_enqueued(delayq, again, due_in=5)
    with pytest.raises(AssertionError) as caught:
        assert_enqueued(delayq, mail)
    assert str(caught.value) == (
        "no job of task 'mail' enqueued; enqueued are:\n"
        "  again()  queue default, due in 5 s, attempts made: 1\n"
        "(not waiting any more: 1 completed)"
    )


def test_a_failure_shows_what_is_enqueued(delayq: DelayQ) -> None:
    mail = mailer(delayq)
    with pytest.raises(AssertionError) as caught:
        assert_enqueued(delayq, mail, args=("ann",), queue="slow", due_in=30)
    assert str(caught.value) == (
        "no job of task 'mail' with ('ann') in queue 'slow' due in 30 s enqueued; nothing is enqueued"
    )
    mail.enqueue("bob", size=3.5)
    mail.enqueue_in(9, "cat" * 100)
    with pytest.raises(AssertionError) as caught:
        assert_enqueued(delayq, mail, args=("ann",))
    first, second, *rest = str(caught.value).splitlines()[1:]
    assert first == "  mail('bob', size=3.5)  queue default, due now"
    assert second.startswith("  mail('catcat") and second.endswith("...)  queue default, due in 9 s")
    assert not rest
    mail.enqueue_many([("x",)] * 30)
    with pytest.raises(AssertionError, match="and 12 more"):
        refute_enqueued(delayq)


def test_refute_without_a_task_means_none_at_all(delayq: DelayQ) -> None:
    refute_enqueued(delayq)
    mailer(delayq).enqueue_in(3600, "ann")
    with pytest.raises(AssertionError, match="1 job enqueued"):
        refute_enqueued(delayq)


def test_under_a_real_clock_a_delay_is_compared_within_a_second() -> None:
    _app, delayq = make_app()
    mail = mailer(delayq)
    mail.enqueue_in(30, "ann")
    assert_enqueued(delayq, mail, due_in=30)
    refute_enqueued(delayq, mail, due_in=32)


# --- the plugin ----------------------------------------------------------------------------------------

PLUGIN = "flask_delayq.testing.plugin"


def run_pytest(folder: Path, source: str, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, "test_it.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def test_the_installed_package_brings_its_plugin() -> None:
    found = [point.value for point in entry_points(group="pytest11", name="delayq")]
    assert found == [PLUGIN]


def test_the_fixture_is_a_clock_of_its_own_for_each_test(tmp_path: Path) -> None:
    source = """
def test_one(delayq_clock):
    delayq_clock.advance(5)

def test_two(delayq_clock):
    assert delayq_clock.now() == 1_800_000_000
"""
    ended = run_pytest(tmp_path, source, "-W", "error")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_project_without_any_app_does_not_notice_the_plugin(tmp_path: Path) -> None:
    """What the libraries beneath bring is not counted; some of them import asyncio themselves."""
    source = """
import pathlib, sys, threading
import blinker, flask, msgspec

def test_it():
    assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
    pathlib.Path("loaded").write_text("\\n".join(sys.modules))
"""
    loaded = {}
    for how in ("with", "without"):
        folder = tmp_path / how
        folder.mkdir()
        without = ["-p", "no:delayq"] if how == "without" else []
        ended = run_pytest(folder, source, "-W", "error", *without)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        loaded[how] = set((folder / "loaded").read_text().splitlines())
        assert list(folder.glob("*.sqlite3")) == []
    assert PLUGIN in loaded["with"] - loaded["without"]
    assert not {"apsw", "asyncio", "sqlite3"} & (loaded["with"] - loaded["without"])
