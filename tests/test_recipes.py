"""What the pages ``recipes.md`` and ``coming-from.md`` promise of their samples, beyond that they run.

It must not hold samples of its own: it runs those of the pages.
"""

from __future__ import annotations

import base64
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
from flask import Flask

from flask_delayq import DelayQ
from flask_delayq.cli import delayq_commands
from flask_delayq.config import PREFIX, Settings
from flask_delayq.errors import ArgumentError, JobConflictError
from flask_delayq.testing import FakeClock, advance
from pages import Mails, blocks, page_namespace, rows, run_due, run_programs, run_project, write_files
from servers import ROOT

RECIPES = ROOT / "docs" / "recipes.md"
COMING = ROOT / "docs" / "coming-from.md"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> Iterator[dict[str, Any]]:
    with page_namespace(tmp_path, monkeypatch, clock) as names:
        names["app"].secret_key = "for sessions"
        yield names


# --- the project of the recipes ----------------------------------------------------------------------

AT_COMMITS = """
from datetime import datetime

import pytest
from flask_delayq.errors import BackendUnavailableError
from flask_delayq.testing import assert_enqueued, refute_enqueued, run_jobs
from shop.after_commit import enqueue_after_commit
from shop.extensions import db, delayq
from shop.models import Order
from shop.tasks import enqueue_missing_receipts, send_receipt


@pytest.fixture
def order(app):
    db.session.add(order := Order(item="tea", made_at=0.0))
    db.session.flush()
    enqueue_after_commit(send_receipt, order.id)
    return order


def test_nothing_before_the_commit(order):
    refute_enqueued(delayq, send_receipt)
    db.session.commit()
    assert_enqueued(delayq, send_receipt, args=(order.id,), count=1)
    db.session.commit()
    assert_enqueued(delayq, send_receipt, count=1)


def test_a_savepoint_is_no_commit(order):
    with db.session.begin_nested():
        db.session.add(Order(item="cup", made_at=0.0))
    refute_enqueued(delayq, send_receipt)
    db.session.commit()
    assert_enqueued(delayq, send_receipt, count=1)


def test_the_rollback_of_a_savepoint_is_none_of_all(order):
    inner = db.session.begin_nested()
    db.session.add(Order(item="cup", made_at=0.0))
    inner.rollback()
    db.session.commit()
    assert_enqueued(delayq, send_receipt, count=1)


def test_it_is_refused_inside_a_savepoint(order):
    with db.session.begin_nested(), pytest.raises(RuntimeError, match="begin_nested"):
        enqueue_after_commit(send_receipt, 1)


@pytest.mark.parametrize("end", ["rollback", "close"])
def test_what_is_not_committed_is_forgotten(order, end):
    getattr(db.session, end)()
    db.session.add(Order(item="cup", made_at=0.0))
    db.session.commit()
    refute_enqueued(delayq, send_receipt)


def test_a_store_that_is_away_spoils_no_commit_and_the_sweep_makes_it_good(order, monkeypatch, caplog):
    def away(*args):
        raise BackendUnavailableError("away", reason="locked")

    with monkeypatch.context() as patch:
        patch.setattr(send_receipt, "enqueue", away)
        db.session.commit()
    assert "is not enqueued" in caplog.text
    enqueue_missing_receipts()
    enqueue_missing_receipts()
    assert_enqueued(delayq, send_receipt, args=(order.id,), count=1)
    run_jobs(delayq)
    db.session.expire_all()
    enqueue_missing_receipts()
    refute_enqueued(delayq, send_receipt)
"""


def test_the_project_passes_its_tests_and_enqueues_at_commits_alone(tmp_path: Path) -> None:
    if find_spec("flask_sqlalchemy") is None:
        pytest.skip("needs Flask-SQLAlchemy")
    number = write_files(RECIPES, tmp_path)
    (tmp_path / "test_commits.py").write_text(AT_COMMITS)
    run_project(tmp_path, number + AT_COMMITS.count("\ndef test_"))
    assert not list(tmp_path.rglob("*.sqlite3"))


# --- jobs that belong together -----------------------------------------------------------------------


def test_a_first_step_that_runs_twice_enqueues_the_second_once(page: dict[str, Any]) -> None:
    run_programs(RECIPES, page, "A chain")
    delayq = page["delayq"]
    first, second = page["fetch"], page["parse"]
    (job,) = delayq.jobs(task=first.name)
    assert delayq.get(f"{job.id}-parse").arguments == ((7,), {})

    @delayq.task(name="twice")
    def twice() -> None:
        first(7)
        first(7)

    run = twice.enqueue()
    run_due(delayq)
    assert {one.id for one in delayq.jobs(task=second.name)} == {f"{job.id}-parse", f"{run.id}-parse"}
    with pytest.raises(JobConflictError):
        second.options(id=f"{run.id}-parse").enqueue(8)


def test_the_final_step_of_a_group_looks_at_all_members(page: dict[str, Any], clock: FakeClock) -> None:
    run_programs(RECIPES, page, "A group with a final step")
    delayq = page["delayq"]
    page["start"]("winter", 2)
    page["start"]("winter", 2)  # as after one that was cut off
    delayq.get("winter-1").cancel()
    advance(delayq, clock, 2)
    assert delayq.get("summer-publish").result == "3 pictures"
    assert delayq.get("winter-publish").state == "cancelled"
    assert "winter-1" in str(delayq.get("winter-publish").error)
    assert len(delayq.jobs(task=page["resize"].name)) == 3 + 2


def test_a_final_step_snoozes_while_a_member_waits(page: dict[str, Any], clock: FakeClock) -> None:
    run_programs(RECIPES, page, "A group with a final step")
    delayq = page["delayq"]
    page["resize"].options(id="late-0").enqueue_in(60, "late", 0)
    page["publish"].options(id="late-publish").enqueue("late", 1)
    advance(delayq, clock, 59)
    job = delayq.get("late-publish")
    assert (job.state, job.attempt) == ("scheduled", 0)
    advance(delayq, clock, 4)
    assert job.refresh().result == "1 pictures"


# --- what users see ----------------------------------------------------------------------------------


def test_a_user_sees_and_cancels_the_exports_of_no_other(page: dict[str, Any]) -> None:
    run_programs(RECIPES, page, "Progress for users")
    app, delayq = page["app"], page["delayq"]
    ann, bob = app.test_client(), app.test_client()
    for number, client in enumerate((ann, bob), 1):
        with client.session_transaction() as session:
            session["user"] = number
    path = f"/exports/{ann.post('/exports').json['id']}"
    assert ann.get(path).json == {"state": "ready", "done": 0, "total": None, "file": None}
    run_due(delayq)
    assert ann.get(path).json == {
        "state": "completed",
        "done": 1000,
        "total": 1000,
        "file": "/download/1.csv",
    }
    assert bob.get(path).status_code == app.test_client().get(path).status_code == 404
    assert bob.post(f"{path}/cancel").status_code == 404
    waiting = f"/exports/{ann.post('/exports').json['id']}"
    assert ann.post(f"{waiting}/cancel").json == {"state": "cancelled"}

    @delayq.task
    def secret(user: int, rows: int) -> None: ...

    other = secret.enqueue(1, 2)
    assert ann.get(f"/exports/{other.id}").status_code == 404
    assert ann.get("/exports/none").status_code == 404


def test_the_password_opens_the_pages_and_nothing_else_does(page: dict[str, Any]) -> None:
    app = page["app"]
    app.config["DELAYQ_ADMIN_TOKEN"] = token = "a token for programs"
    run_programs(RECIPES, page, "A password for the admin pages")
    client = app.test_client()

    def status(header: str | None) -> int:
        headers = {} if header is None else {"Authorization": header}
        answer = client.get("/delayq/", headers=headers)
        asks = answer.headers.get("WWW-Authenticate", "").lower().startswith("basic ")
        assert asks == (answer.status_code == 401)
        return answer.status_code

    def basic(user: str, password: str) -> str:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    assert client.get("/delayq/", headers={"Authorization": basic("admin", "")}).status_code == 500
    app.config["ADMIN_PASSWORD"] = password = "only for this test"
    assert status(basic("admin", password)) == status(f"Bearer {token}") == 200
    wrong = [None, basic("admin", "wrong"), basic("root", password), "Bearer wrong", "Basic ?", "Basic"]
    assert [status(header) for header in wrong] == [401] * len(wrong)
    assert client.get("/delayq/health").status_code == 200


def test_a_failure_is_reported_once_with_its_exception_and_so_is_a_crash(page: dict[str, Any]) -> None:
    from flask_delayq.errors import JobFailedError
    from flask_delayq.signals import job_failed

    run_programs(RECIPES, page, "Sentry")
    sentry: Any = sys.modules["sentry_sdk"]
    delayq = page["delayq"]

    @delayq.task(name="boom", max_attempts=2, backoff=[0])
    def boom() -> None:
        raise ZeroDivisionError

    job = boom.enqueue()
    delayq.drain()
    (event,) = sentry.events
    assert (event["job"], event["task"], type(event["error"])) == (job.id, "boom", ZeroDivisionError)
    crash = JobFailedError(job.id, "failed", "Crashed: crashed the worker once")
    job_failed.send(page["app"], job=job, error=crash)
    assert sentry.events[1]["error"] is crash


def test_the_logger_of_failures_has_the_name_that_the_page_says(
    page: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run_programs(RECIPES, page, "Sentry")
    delayq = page["delayq"]

    @delayq.task(name="boom", max_attempts=2, backoff=[0])
    def boom() -> None:
        raise ZeroDivisionError

    boom.enqueue()
    delayq.drain()
    (logger,) = vars(sys.modules["sentry_sdk"])["ignored"]
    lines = [(one.levelname, one.exc_info) for one in caplog.records if one.name == logger]
    assert lines == [("WARNING", None), ("ERROR", None)]


def test_a_mail_carries_the_file_and_keeps_its_id(page: dict[str, Any]) -> None:
    run_programs(RECIPES, page, "Mail with attachments")
    (mail,) = Mails.sent
    (job,) = page["delayq"].jobs(task=page["send_mail"].name)
    (part,) = mail.iter_attachments()
    assert (part.get_filename(), part.get_content()) == ("invoice.pdf", b"%PDF-1.7")
    assert mail["Message-ID"] == f"<{job.id}@example.org>"


# --- ids, names, arguments ---------------------------------------------------------------------------


def test_an_id_is_free_again_after_the_retention_and_not_before(
    page: dict[str, Any], clock: FakeClock
) -> None:
    run_programs(RECIPES, page, "The same work once")
    charge = page["charge"].options(id="order-12-charge")
    assert page["first"].refresh().state == "completed"

    def enqueued_after(seconds: float) -> tuple[bool, str]:
        clock.advance(seconds)
        page["app"].test_cli_runner().invoke(args=["delayq", "prune"])
        job = charge.enqueue(12)
        return job.created, job.refresh().state.value

    assert enqueued_after(86_399) == (False, "completed")
    assert enqueued_after(2) == (True, "ready")


def test_an_alias_runs_what_was_stored_under_the_old_name(page: dict[str, Any]) -> None:
    run_programs(RECIPES, page, "Rename a task")
    delayq, new = page["delayq"], page["greet"]
    (old,) = new.declared.aliases
    app = Flask("before", instance_path=page["app"].instance_path)
    before = DelayQ(app)

    @before.task(name=old)
    def send_welcome(user: int) -> None: ...

    job = send_welcome.enqueue(3)
    before.state.close()
    run_due(delayq)
    assert delayq.get(job.id).state == "completed"
    assert delayq.get(job.id).task == old


def versions() -> dict[str, Any]:
    def old(a: int, b: int = 0) -> None: ...
    def reordered(b: int = 0, a: int = 0) -> None: ...
    def with_default(a: int, b: int = 0, c: int = 0) -> None: ...
    def without_default(a: int, c: int, b: int = 0) -> None: ...
    def removed(a: int) -> None: ...
    def renamed(a: int, d: int = 0) -> None: ...

    return {name: function for name, function in locals().items()}


def fits(written: Any, args: dict[str, int], read: Any) -> bool:
    """Whether a call of one version of a task can be read by another."""
    tasks = DelayQ()
    payload, _ = tasks.task(name="written")(written).arguments.encode((), args)
    try:
        tasks.task(name="read")(read).arguments.decode(payload)
    except ArgumentError:
        return False
    return True


def test_the_table_of_changed_arguments_says_what_fits() -> None:
    table = {row[0]: [cell.startswith("fit") for cell in row[1:]] for row in rows(RECIPES, "change")}
    of = versions()
    old, both = of["old"], {"a": 1, "b": 2}

    def seen(new: str, call: dict[str, int]) -> list[bool]:
        return [fits(old, both, of[new]), fits(of[new], call, old)]

    assert table == {
        "reorder parameters": seen("reordered", both),
        "a new parameter with a default": seen("with_default", both),
        "a new parameter without a default": seen("without_default", both | {"c": 3}),
        "remove a parameter": seen("removed", {"a": 1}),
        "rename a parameter": seen("renamed", {"a": 1, "d": 2}),
    }
    assert not fits(of["with_default"], both | {"c": 3}, old)


# --- the tables of two columns -----------------------------------------------------------------------

LIBRARIES = ["Celery", "RQ", "Huey", "APScheduler", "Flask-Executor"]
LINES = [
    (library, line)
    for library in LIBRARIES
    for _, ours in rows(COMING, library)
    for line in re.findall(r"`([^`]+)`", ours)
]
WORDS = {"DelayQ", "False"}
"""What is quoted on our side and is no line of a program."""


def test_every_library_has_its_table_and_lines() -> None:
    assert {library for library, _ in LINES} == set(LIBRARIES)
    assert len(LINES) > 100
    heads = re.findall(r"^## (.+)$", COMING.read_text("utf-8"), re.MULTILINE)
    assert heads == LIBRARIES


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_line_of_ours_runs(library: str, page: dict[str, Any]) -> None:
    page["app"].config["DELAYQ_ADMIN_TOKEN"] = "for the pages of this test"
    (setup,) = blocks(COMING, "python")
    # The page's app is one more: its own store is in memory, and it is `delayq` that all lines mean.
    source = setup.text.replace(
        "delayq = DelayQ(app)", "app.config.update(SETTINGS); delayq = DelayQ(app)"
    )
    page["SETTINGS"] = {"TESTING": True, "DELAYQ_ADMIN_TOKEN": "for the pages of this test"}
    exec(compile(source, COMING, "exec", dont_inherit=True), page)
    run_due(page["delayq"])
    for number, line in enumerate(line for name, line in LINES if name == library):
        try:
            run_line(line, number, page)
            run_due(page["delayq"])
        except Exception as error:
            raise AssertionError(f"{library}: {line}") from error


def run_line(line: str, number: int, page: dict[str, Any]) -> None:
    delayq, app = page["delayq"], page["app"]
    if line in WORDS:
        return
    if line.startswith("flask delayq "):
        run_command(app, shlex.split(line)[2:], page)
    elif line.startswith(PREFIX):
        key, _, value = line.partition("=")
        Settings.read({key: value.strip('"')}, folder="/app")
    elif "/delayq/" in line:
        method, _, path = line.rpartition(" ")
        headers = {"Authorization": "Bearer for the pages of this test", "Accept": "application/json"}
        path = path.replace("<name>", "mail")
        page["send"].options(queue="mail").enqueue_in(60, "ann")
        answer = app.test_client().open(path, method=method or "GET", headers=headers)
        assert answer.status_code == 200
    elif line.startswith("@"):
        exec(f"{line}\ndef declared_{number}(*args, **kwargs): ...", page)
    elif "current_job" in line or line.startswith("raise "):
        exec(f"@delayq.task\ndef inside_{number}():\n    {line}", page)
        page[f"inside_{number}"].enqueue()
        assert next(outcome.verb.value for outcome in delayq.drain()) in ("complete", "retry", "cancel")
    else:
        # What can be cancelled waits, what can be retried was cancelled, all else looks at an end.
        page["job"] = page["send"].enqueue_in(60 if line == "job.cancel()" else 0, "ann")
        if line == "job.retry()":
            page["job"].cancel()
        elif line != "job.cancel()":
            run_due(delayq)
        exec(line, page)
        if line == "job.cancel()":
            assert page["job"].state == "cancelled"


def run_command(app: Flask, words: list[str], page: dict[str, Any]) -> None:
    """Run a command of the page; ``worker`` never ends, so its options alone are read."""
    if words[0] == "worker":
        command = delayq_commands.get_command(click.Context(delayq_commands), words[0])
        assert command is not None
        command.make_context("worker", words[1:])
        return
    job = page["send"].enqueue_in(60, "ann")
    job.cancel()
    names = {"ID": job.id, "NAME": "tidy"}
    result = app.test_cli_runner().invoke(args=["delayq", *(names.get(word, word) for word in words)])
    assert result.exit_code == 0, result.output
