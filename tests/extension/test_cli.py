"""``flask delayq ...`` as a person at a terminal sees it: output, exit codes, nothing that steers it.

It must not know HTTP; real processes are in tests/acceptance.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from click.testing import Result
from flask import Flask

from flask_delayq import DelayQ, RetryPolicy, current_job
from flask_delayq.cli.group import delayq_commands
from flask_delayq.cli.output import safe
from flask_delayq.cli.queues import schedules
from flask_delayq.cli.unimported import unimported
from flask_delayq.errors import BackendUnavailableError
from flask_delayq.job import Health, NewJob, ProcessRecord, ScheduleRecord
from kit import make_app, running
from pace import quiet_seconds
from waiting import wait_until

HOSTILE = "\x1b[2J\x1b]8;;http://evil\x07\r\n\u202e\u2066\x9b31m\u2028\ufeffend"


class Shell:
    """An app, its DelayQ, and ``shell("status", "--json")``."""

    def __init__(self, app: Flask, delayq: DelayQ) -> None:
        self.app = app
        self.delayq = delayq

    def __call__(self, *words: str) -> Result:
        result = self.app.test_cli_runner().invoke(args=["delayq", *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def says(self, *words: str) -> str:
        result = self(*words)
        assert result.exit_code == 0, result.output
        return str(result.stdout)

    def json(self, *words: str) -> Any:
        return json.loads(self.says(*words, "--json"))

    def refuses(self, *words: str) -> str:
        """One line on stderr and exit code 1."""
        result = self(*words)
        assert result.exit_code == 1, result.output
        assert result.stdout == ""
        assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
        return str(result.stderr)


@pytest.fixture
def shell() -> Shell:
    app, delayq = make_app(max_pending=20)

    @delayq.task(name="add", queue="sums")
    def add(a: int, b: int = 2) -> int:
        return a + b

    @delayq.task(name="fail")
    def fail(password: str = "hunter2-x") -> None:
        raise ValueError(f"no\x1b[31m {password}")

    @delayq.task(name="tick", every=60)
    def tick() -> None: ...

    return Shell(app, delayq)


# --- without a store -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["status", "jobs", "tasks", "threads", "schedules", "check", "prune"]
)
def test_a_command_that_reads_makes_no_store(tmp_path: Path, command: str) -> None:
    path = tmp_path / "instance" / "jobs.sqlite3"
    app, delayq = make_app(url=f"sqlite:///{path}")
    shell = Shell(app, delayq)
    text = shell.says(command)
    if command in ("status", "check"):
        assert "no store yet" in text
    shell.json(command)
    for words in ("show x", "cancel x", "retry x", "pause x", "resume x"):
        shell.refuses(*words.split())
    for verb in ("pause", "resume", "remove"):
        shell.refuses("schedules", verb, "x")
    delayq.state.close()
    assert not path.parent.exists()


# --- status ----------------------------------------------------------------------------------------


def test_status_of_nothing(shell: Shell) -> None:
    text = shell.says("status")
    assert text.startswith("ok\nstore memory://, mode manual\n")
    assert "no process runs jobs" in text
    found = shell.json("status")
    assert found["healthy"] is True
    assert set(found["counts"].values()) == {0}


def test_status_shows_queues_processes_and_schedules(shell: Shell) -> None:
    shell.says("enqueue", "add", "--args", "[1]")
    shell.says("enqueue", "add", "--args", "[1]", "--delay", "60")
    shell.says("pause", "sums")
    with running(shell.delayq):
        wait_until(lambda: shell.json("status")["schedules"], what="the schedules are stored")
        wait_until(lambda: shell.json("status")["processes"], what="the process is announced")
        found = shell.json("status")
        text = shell.says("status")
        assert str(os.getpid()) in shell.says("threads")
        assert "/delayq/threads" in shell.says("threads")
    assert (found["counts"]["ready"], found["counts"]["scheduled"]) == (1, 1)
    queue = next(queue for queue in found["queues"] if queue["name"] == "sums")
    assert (queue["paused"], queue["ready"], queue["scheduled"]) == (True, 1, 1)
    assert queue["lateness"] >= 0
    process = found["processes"][0]
    assert (process["pid"], process["alive"]) == (os.getpid(), True)
    assert (process["busy"], process["workers"]) == (0, 4)
    assert found["schedules"][0]["name"] == "tick"
    for word in ("sums", "paused", "0 of 4", str(os.getpid()), "tick", "every minute", "ready 1"):
        assert word in text


def test_status_fails_when_the_store_does(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: object, **kwargs: object) -> None:
        raise BackendUnavailableError("the disk is full", reason="full")

    backend = shell.delayq.state.backend
    monkeypatch.setattr(backend, "health", lambda probe=True: Health(False, "the disk is full"))
    monkeypatch.setattr(backend, "counts", away)
    result = shell("status")
    assert result.exit_code == 1
    assert result.stdout.startswith("failing: the disk is full\n")
    result = shell("status", "--json")
    assert (result.exit_code, json.loads(result.stdout)["healthy"]) == (1, False)


@pytest.mark.parametrize("late, exit_code", [(59.0, 0), (61.0, 1)])
def test_status_fails_when_nobody_runs_what_is_due(shell: Shell, late: float, exit_code: int) -> None:
    backend = shell.delayq.state.backend
    now = shell.delayq.state.clock.now() - late
    job = NewJob("j1", "add", "sums", 1, now, now, b'{"a":1}')
    backend.enqueue([job], now=now, timeout=1.0)
    result = shell("status")
    assert result.exit_code == exit_code
    assert ("no process runs any" in result.stdout) is bool(exit_code)
    shell.says("pause", "sums")
    assert shell("status").exit_code == 0  # somebody wanted it so


@pytest.mark.parametrize("alive, exit_code", [(True, 0), (False, 1)])
def test_a_dead_process_runs_nothing(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, alive: bool, exit_code: int
) -> None:
    backend = shell.delayq.state.backend
    now = shell.delayq.state.clock.now() - 120
    backend.enqueue([NewJob("j1", "add", "sums", 1, now, now, b'{"a":1}')], now=now, timeout=1.0)
    monkeypatch.setattr(
        backend, "processes", lambda: [ProcessRecord("o", 77, "h", now, now, b"{}", alive)]
    )
    result = shell("status")
    assert result.exit_code == exit_code
    assert ("77 (dead)" in result.stdout) is not alive


def announce(shell: Shell, owner: str, pid: int, **info: Any) -> None:
    now = shell.delayq.state.clock.now()
    record = ProcessRecord(owner, pid, "h", now, now, json.dumps({"workers": 4, **info}).encode())
    shell.delayq.state.backend.announce(record)


def due_for(shell: Shell, seconds: float, queue: str = "sums", job_id: str = "j1") -> None:
    now = shell.delayq.state.clock.now() - seconds
    job = NewJob(job_id, "add", queue, 1, now, now, b'{"a":1}')
    shell.delayq.state.backend.enqueue([job], now=now, timeout=1.0)


@pytest.mark.parametrize("late, exit_code", [(59.0, 0), (61.0, 1)])
def test_status_names_a_due_queue_that_nobody_serves(shell: Shell, late: float, exit_code: int) -> None:
    due_for(shell, late)
    due_for(shell, late + 100, "mial", "j2")  # somebody serves that one
    announce(shell, "o", 77, queues=["mial"])
    result = shell("status", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == exit_code
    assert found["healthy"] is not bool(exit_code)
    assert {one["name"]: one["served_by"] for one in found["queues"]} == {"mial": [77], "sums": []}
    text = shell("status").stdout
    assert ("no process serves" in text.splitlines()[0]) is bool(exit_code)
    if exit_code:
        assert text.startswith(
            "failing: jobs of queue 'sums' have been due for 61 s and no process serves it"
            " (process 77 serves mial): start `flask delayq worker --queues sums`,"
            " or change DELAYQ_QUEUES\n"
        )
        assert "serves it" in shell("check").stdout and shell("check").exit_code == 1
    assert shell("check").exit_code == exit_code
    shell.says("pause", "sums")
    assert shell("status").exit_code == shell("check").exit_code == 0


def test_a_process_without_a_list_of_queues_serves_all(shell: Shell) -> None:
    due_for(shell, 61)
    announce(shell, "o", 77, queues=None)
    assert shell.json("status")["queues"][0]["served_by"] == [77]
    assert " all " in shell.says("status")


def test_busy_is_counted_in_the_store(shell: Shell) -> None:
    backend = shell.delayq.state.backend
    now = shell.delayq.state.clock.now()
    announce(shell, "o", 77, busy=0)
    announce(shell, "other", 78, busy=3)
    due_for(shell, 1, job_id="j1")
    due_for(shell, 1, job_id="j2")
    assert len(backend.claim(None, now=now, limit=2, owner="o", lease=60.0)) == 2
    found = {one["pid"]: one["busy"] for one in shell.json("status")["processes"]}
    assert found == {77: 2, 78: 0}


def test_watch_looks_again_until_interrupted(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter([None, None])

    def sleep(seconds: float) -> None:
        if next(rounds, "end") == "end":
            raise KeyboardInterrupt

    monkeypatch.setattr("flask_delayq.cli.status.time.sleep", sleep)
    assert shell.says("status", "--watch").count("store memory://") == 3


# --- jobs ------------------------------------------------------------------------------------------


def test_tasks_are_listed_with_their_signature(shell: Shell) -> None:
    assert "add" in (text := shell.says("tasks"))
    assert "(a, b=2)" in text and "every minute" in text
    assert "hunter2" not in text
    assert [task["name"] for task in shell.json("tasks")["tasks"]] == ["add", "fail", "tick"]


def test_a_job_from_enqueue_to_its_result(shell: Shell) -> None:
    job_id = shell.says("enqueue", "add", "--args", "[1]", "--kwargs", '{"b": 41}').strip()
    assert shell.json("show", job_id)["job"]["state"] == "ready"
    shell.delayq.drain()
    text = shell.says("show", job_id)
    assert (
        "state:        completed" in text and "result:       42" in text and '{"a": 1, "b": 41}' in text
    )
    assert job_id in shell.says("jobs", "--state", "completed", "--wide")
    assert shell.says("jobs", "--state", "failed") == "no job matches\n"
    assert shell.says("prune", "--older-than", "0") == "1 job deleted\n"
    assert "no job has the id" in shell.refuses("show", job_id)


def test_enqueue_of_an_id_that_exists_says_so(shell: Shell) -> None:
    assert shell("enqueue", "add", "--args", "[1]", "--id", "mine").stderr == ""
    shell.delayq.drain()
    result = shell("enqueue", "add", "--args", "[1]", "--id", "mine")
    assert (result.exit_code, result.stdout) == (0, "mine\n")
    assert result.stderr == "this job existed already (completed); nothing was stored\n"


@pytest.mark.parametrize(
    "mode, url, wanted, unwanted",
    [
        ("auto", "sqlite", "start the server or `flask delayq worker`", "delayq.start()"),
        ("external", "sqlite", "start `flask delayq worker`", "start the server"),
        ("auto", "memory", "this store ends with the process", "worker"),
        ("manual", "sqlite", "delayq.start()", "start the server"),
    ],
)
def test_the_advice_fits_the_mode_and_the_store(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    mode: str,
    url: str,
    wanted: str,
    unwanted: str,
) -> None:
    app, delayq = make_app(mode=mode, url="memory://" if url == "memory" else f"sqlite:///{tmp_path}/s")
    delayq.task(name="t")(lambda: None)
    shell = Shell(app, delayq)
    for word in ("status", "threads"):
        said = shell.says(word)
        assert wanted in said and unwanted not in said
    shell.says("enqueue", "t", "--id", "one")
    shell.says("enqueue", "t")
    hints = [one.getMessage() for one in caplog.records if "a job was stored, but" in one.getMessage()]
    assert len(hints) == (0 if mode == "manual" else 1)
    assert all(wanted in hint and unwanted not in hint for hint in hints)
    delayq.state.close()


def test_no_job_was_stored_is_not_said_to_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app, delayq = make_app(mode="manual", url=f"sqlite:///{tmp_path}/s")
    delayq.task(name="t")(lambda: None).options(id="one").enqueue()
    other = Flask("kit")
    other.config.update(DELAYQ_URL=f"sqlite:///{tmp_path}/s", DELAYQ_MODE="auto")
    again = DelayQ(other)
    again.task(name="t")(lambda: None)
    Shell(other, again).says("enqueue", "t", "--id", "one")
    assert "was stored, but" not in caplog.text
    delayq.state.close()
    again.state.close()


def test_options_of_enqueue(shell: Shell) -> None:
    options = ["--queue", "q", "--priority", "high", "--id", "mine", "--delay", "60"]
    found = shell.json("enqueue", "add", "--args", "[1]", *options)
    assert found["created"] is True
    job = found["job"]
    assert (job["id"], job["queue"], job["priority"], job["state"]) == ("mine", "q", "high", "scheduled")
    assert shell.json("enqueue", "add", "--args", "[1]", *options)["created"] is False
    at = shell.json("enqueue", "add", "--args", "[1]", "--at", "2030-01-31T08:00:00+01:00")["job"]
    assert at["run_at"] == "2030-01-31T07:00:00.000Z"


@pytest.mark.parametrize(
    "words, reason",
    [
        (["enqueue", "ad"], "did you mean 'add'"),
        (["enqueue", "os:system"], "no task named"),
        (["enqueue", "add"], "missing a required argument"),
        (["enqueue", "add", "--args", "1"], """--args '1' cannot be read: Expected `array`"""),
        (["enqueue", "add", "--args", "["], """truncated; write it like '["ann", 1]'"""),
        (["enqueue", "add", "--args", '["x"]'], "argument a"),
        (["enqueue", "add", "--args", "[1]", "--delay", "-1"], "must not be negative"),
        (["enqueue", "add", "--args", "[1]", "--delay", "nan"], "must be finite"),
        (
            ["enqueue", "add", "--args", "[1]", "--at", "soon"],
            "--at 'soon' cannot be read; write it like 2030-01-31T08:00:00+01:00",
        ),
        (
            ["enqueue", "add", "--args", "[1]", "--at", "2030-01-01T00:00:00"],
            "--at 2030-01-01 00:00:00 has no time zone; write 2030-01-01T00:00:00Z for UTC",
        ),
        (["enqueue", "add", "--args", "[1]", "--queue", "a b"], "queue"),
        (["show", "nobody"], "no job has the id"),
        (["show", HOSTILE], "no job has the id"),
        (["cancel", "nobody"], "no job has the id"),
        (["retry", "nobody"], "no job has the id"),
        (["pause", HOSTILE], "not allowed"),
        (["schedules", "pause", "nobody"], "no schedule named"),
    ],
)
def test_a_mistake_is_one_line(shell: Shell, words: list[str], reason: str) -> None:
    message = shell.refuses(*words)
    assert reason in message
    assert message == safe(message, lines=True)


def test_lists_fit_a_terminal() -> None:
    app, delayq = make_app()
    for name in ("shop.tasks.mail.send_reminder", "shop.tasks.orders.expire"):
        delayq.task(name=name, every=3600)(lambda attempts=1, language="en", template="reminder": None)
    shell = Shell(app, delayq)
    job = shell.says("enqueue", "shop.tasks.orders.expire").strip()
    shell.says("enqueue", "shop.tasks.mail.send_reminder", "--delay", "7200")
    facts: dict[str, Any] = {
        "role": "gunicorn worker",
        "lateness_p50": 0.5,
        "lateness_p99": 1.5,
        "queues": None,
    }
    announce(shell, "o", 12345678, **facts)
    for words in (["jobs"], ["tasks"], ["schedules"], ["status"]):
        said = shell.says(*words)
        assert max(len(line) for line in said.splitlines()) <= 80, said
    long_name = shell.delayq.task(name="shop." + "x" * 90)(lambda: None).enqueue()
    assert max(map(len, shell.says("jobs").splitlines())) <= 80
    long_name.cancel()
    shell.says("prune", "--older-than", "0")
    said = shell.says("jobs")
    assert "TASK shop.tasks.*" in said and " orders.expire " in said
    assert job in shell.says("jobs", "--wide") and "shop.tasks.orders" in shell.says("jobs", "--wide")
    short = said.splitlines()[2].split()[0]
    assert len(short) < len(job)
    assert shell.json("show", short)["job"]["id"] == job
    assert shell.json("cancel", short)["job"]["state"] == "cancelled"
    assert shell.json("retry", short)["job"]["state"] == "ready"
    assert "2 jobs have an id that begins with" in shell.refuses("show", short[:4])
    assert "no job has the id" in shell.refuses("show", short[:3])


def test_names_that_are_nearly_right_are_suggested(shell: Shell) -> None:
    shell.delayq.task(name="app.send")(lambda: None)
    assert "no job matches; no task named 'ad' is registered; did you mean 'add'?" in shell.says(
        "jobs", "--task", "ad"
    )
    assert "uses a queue named 'sum'; did you mean 'sums'?" in shell.says("jobs", "--queue", "sum")
    assert shell.says("jobs", "--task", "add") == "no job matches\n"
    assert "no task named 'send' is registered; did you mean 'app.send'?" in shell.refuses(
        "enqueue", "send"
    )
    result = shell("enqueue", "add", "--args", "[1]", "--queue", "sum")
    assert result.exit_code == 0 and "did you mean 'sums'?" in result.stderr
    assert shell("enqueue", "add", "--args", "[1]", "--queue", "brand-new").stderr == ""


def test_colours_are_for_terminals_that_want_them(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    shell.says("enqueue", "fail")
    shell.delayq.drain()
    assert "\x1b" not in shell.says("jobs")
    monkeypatch.setattr("flask_delayq.cli.output._on_terminal", lambda: True)

    def coloured() -> str:
        return str(shell.app.test_cli_runner().invoke(args=["delayq", "jobs"], color=True).stdout)

    assert "\x1b[31mfailed" in coloured()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in coloured()


def test_every_command_but_the_worker_takes_json() -> None:
    commands = dict(delayq_commands.commands)
    commands.update({f"schedules {name}": one for name, one in schedules.commands.items()})
    lacking = {name for name, one in commands.items() if "as_json" not in {p.name for p in one.params}}
    assert lacking == {"worker"}


def test_every_command_that_prints_data_prints_it_as_json(shell: Shell) -> None:
    announce(shell, "o", 77)
    assert [one["pid"] for one in shell.json("threads")["processes"]] == [77]
    assert shell.json("threads")["stacks"] == "/delayq/threads"
    found = shell.json("check")
    assert (found["ok"], found["problems"], found["store"]["url"]) == (True, [], "memory://")
    due_for(shell, 1)
    assert shell.json("cancel", "j1")["cancelled"] is True
    assert shell.json("prune", "--older-than", "0") == {"deleted": 1}
    shell.delayq.task(name="broken")(_takes_a_lock)
    result = shell("check", "--json")
    assert (result.exit_code, json.loads(result.stdout)["ok"]) == (1, False)
    assert "parameter 'thing'" in json.loads(result.stdout)["problems"][0]


def _takes_a_lock(thing: threading.Lock) -> None: ...


def test_cancel_and_retry(shell: Shell) -> None:
    job = shell.says("enqueue", "fail").strip()
    assert "(fail) is cancelled: it was ready and will not run" in shell.says("cancel", job)
    assert "was cancelled already" in shell.says("cancel", job)
    assert "(fail) was cancelled and is ready again" in shell.says("retry", job)
    shell.delayq.drain()
    assert "is failed already" in shell.refuses("cancel", job)
    assert "is ready" in shell.says("retry", job)
    assert "cannot retry" in shell.refuses("retry", job)


def test_cancel_of_a_running_job_asks_it_to_stop(shell: Shell) -> None:
    begun, release = threading.Event(), threading.Event()

    @shell.delayq.task(name="long")
    def long() -> None:
        begun.set()
        release.wait(20)

    with running(shell.delayq):
        try:
            job = long.enqueue()
            assert begun.wait(5)
            assert "asked to stop" in shell.says("cancel", job.id)
        finally:
            release.set()


def test_secrets_and_control_characters_of_a_job(shell: Shell) -> None:
    job = shell.says("enqueue", "fail", "--args", '["top-secret-1"]').strip()
    shell.delayq.drain()
    text = shell.says("show", job)
    assert "ValueError: no\\x1b[31m [hidden]" in text
    assert "Traceback (most recent call last):\n" in text
    assert "\x1b" not in text and "top-secret-1" not in text
    found = shell.json("show", job)["job"]
    assert found["error"]["message"] == "no\x1b[31m [hidden]"  # JSON is exact
    assert "\x1b" not in shell.says("show", job, "--json")


def test_forged_rows_do_not_steer_the_terminal(shell: Shell) -> None:
    backend = shell.delayq.state.backend
    forged = NewJob("forged", HOSTILE, HOSTILE, 1, 0.0, 0.0, b"\x80")
    backend.enqueue([forged], now=0.0, timeout=1.0)
    backend.announce(ProcessRecord("o", 1, HOSTILE, 0.0, 0.0, json.dumps({"role": HOSTILE}).encode()))
    for words in (["status"], ["jobs"], ["show", "forged"], ["threads"]):
        output = shell(*words).output
        assert "end" in output
        assert not any(
            char in output for char in HOSTILE if char not in "\n end" and not char.isprintable()
        )
    assert json.loads(shell("jobs", "--json").stdout)["jobs"][0]["task"] == HOSTILE


def test_safe_leaves_texts_readable() -> None:
    assert safe(HOSTILE).isprintable()
    assert safe("Grüße, 你好 🙂 → ok") == "Grüße, 你好 🙂 → ok"
    assert safe("a\nb\tc\x00\udcff") == "a\\nb\\tc\\x00\\udcff"
    assert safe("a\nb\r", lines=True) == "a\nb\\r"


# --- queues, schedules, check ----------------------------------------------------------------------


def test_pause_and_resume(shell: Shell) -> None:
    shell.says("enqueue", "add", "--args", "[1]")
    shell.says("pause", "sums")
    assert shell.delayq.drain() == []
    shell.says("resume", "sums")
    assert len(shell.delayq.drain()) == 1


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_a_queue_that_nobody_knows_is_refused_and_not_stored(shell: Shell, verb: str) -> None:
    message = shell.refuses(verb, "sum")
    assert "no task, schedule, job or process uses a queue named 'sum'; did you mean 'sums'?" in message
    assert "did you mean" not in shell.refuses(verb, "nosuchqueue")
    assert shell.json("status")["queues"] == []
    shell.says("pause", "sum", "--force")
    assert "sum" in shell.says("status")
    assert shell.json(verb, "sum")["queue"]["paused"] is (verb == "pause")


def test_a_queue_that_only_a_process_or_a_job_knows_is_paused(shell: Shell) -> None:
    announce(shell, "o", 77, queues=["theirs"])
    due_for(shell, 1, "of-a-job")
    assert shell.says("pause", "theirs") == "queue theirs is paused\n"
    assert shell.json("pause", "of-a-job")["queue"]["paused"] is True
    assert shell.says("resume", "of-a-job") == "queue of-a-job is resumed\n"


def test_a_queue_that_only_a_schedule_uses_is_paused(shell: Shell) -> None:
    with shell.app.app_context():
        shell.delayq.schedules.add("nightly", "add", args=[1], cron="0 3 * * *", queue="night")
    assert shell.says("pause", "night") == "queue night is paused\n"


def test_schedules(shell: Shell) -> None:
    line = shell.says("schedules").splitlines()[1]
    assert line.split() == "tick every minute - at the next start".split()
    shell.delayq.drain()  # declares them
    assert "every minute" in shell.says("schedules") and "at the next start" not in shell.says(
        "schedules"
    )
    shell.says("schedules", "pause", "tick")
    assert "paused" in shell.says("schedules")
    shell.says("schedules", "resume", "tick")
    assert shell.json("schedules")["schedules"][0]["paused"] is False
    changed = shell.json("schedules", "pause", "tick")["schedule"]
    assert (changed["name"], changed["paused"]) == ("tick", True)
    assert shell.json("schedules", "resume", "tick")["schedule"]["paused"] is False
    early = json.loads(shell.says("schedules", "--json", "pause", "tick"))
    assert early["schedule"]["paused"] is True
    assert shell.json("schedules", "remove", "tick") == {"schedule": None}
    assert "at the next start" in shell.says("schedules")  # as the code still says


def test_a_schedule_that_is_not_there_is_told_with_what_to_do(shell: Shell) -> None:
    assert "the first process that runs jobs stores it" in shell.refuses("schedules", "pause", "tick")
    shell.delayq.drain()
    for verb in ("pause", "resume", "remove"):
        assert "'tik' is stored; did you mean 'tick'?" in shell.refuses("schedules", verb, "tik")
        assert "`flask delayq schedules` lists" in shell.refuses("schedules", verb, "x")


def test_check_says_where_jobs_live_and_whether_they_stay(tmp_path: Path) -> None:
    app = Flask("kit", instance_path=str(tmp_path))
    shell = Shell(app, DelayQ(app))
    text = shell.says("check")
    assert "configuration: ok" in text
    assert str(tmp_path / "delayq.sqlite3") in text and "instance folder" in text
    assert text.endswith(
        "launch: this process serves no requests, so it runs no jobs; a server does, or "
        "`flask delayq worker`\n"
    )
    shell.delayq.state.close()
    for mode, who in (
        ("external", "jobs; `flask delayq worker` does (mode external)\n"),
        ("thread", "jobs\n"),
    ):
        other, its_delayq = make_app(mode=mode, url=f"sqlite:///{tmp_path}/other")
        assert Shell(other, its_delayq).says("check").endswith(who)
        its_delayq.state.close()
    app, delayq = make_app()
    assert "end with it" in Shell(app, delayq).says("check")


def test_check_finds_a_task_that_cannot_be_called(shell: Shell) -> None:
    @shell.delayq.task(name="broken")
    def broken(thing: threading.Lock) -> None: ...

    result = shell("check")
    assert result.exit_code == 1
    assert "parameter 'thing'" in result.stdout


def test_check_finds_a_store_that_does_not_add_up(tmp_path: Path) -> None:
    app, delayq = make_app(url=f"sqlite:///{tmp_path}/jobs.sqlite3")
    job = delayq.task(name="t")(lambda: None).enqueue()
    connection = apsw.Connection(f"{tmp_path}/jobs.sqlite3")
    connection.execute("DELETE FROM body")
    connection.close()
    result = Shell(app, delayq)("check")
    assert result.exit_code == 1
    assert f"job '{job.id}' has lost its arguments" in result.stdout
    delayq.state.close()


def test_check_finds_a_schedule_with_a_time_zone_that_this_machine_does_not_know(shell: Shell) -> None:
    rule = '{"type":"cron","line":"0 3 * * *","timezone":"America/Nowhere"}'
    schedule = ScheduleRecord("nightly", "t", b"{}", rule, "default", 1, 0.0, from_code=False)
    shell.delayq.state.backend.put_schedule(schedule)
    result = shell("check")
    assert result.exit_code == 1
    assert "schedule nightly: this system has no time zone named 'America/Nowhere'" in result.stdout


def test_check_finds_a_wrong_setting() -> None:
    app, delayq = make_app(workers="many")
    assert "DELAYQ_WORKERS" in Shell(app, delayq).refuses("check")


# --- worker ----------------------------------------------------------------------------------------


@pytest.fixture
def quiet_root() -> Iterator[None]:
    """The worker sets logging up for its own process; here it must not stay."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before, level
    logging.getLogger("flask_delayq").setLevel(logging.NOTSET)


@pytest.mark.usefixtures("quiet_root")
def test_a_worker_runs_so_many_jobs_and_restores_the_handlers(shell: Shell) -> None:
    for number in range(5):
        shell.says("enqueue", "add", "--args", f"[{number}]")
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    result = shell("worker", "--workers", "1", "--max-jobs", "3", "--queues", "sums")
    assert result.exit_code == 0
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    states = [job.state.value for job in shell.delayq.jobs(queue="sums")]
    assert sorted(states) == ["completed"] * 3 + ["ready"] * 2
    assert shell.delayq.state.supervisor is None


@pytest.mark.usefixtures("quiet_root")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_lets_a_running_job_end_after_a_signal(shell: Shell, number: int) -> None:
    release = threading.Event()

    @shell.delayq.task(name="signals", queue="mine")
    def signals() -> str:
        os.kill(os.getpid(), number)
        release.wait(0.3)
        return "ended"

    job = signals.enqueue()
    other = shell.says("enqueue", "add", "--args", "[1]").strip()
    assert shell("worker", "--queues", "mine, other").exit_code == 0
    assert job.refresh().result == "ended"
    assert shell.delayq.get(other).state == "ready"  # not its queue


@pytest.mark.usefixtures("quiet_root")
def test_a_second_signal_shortens_the_drain(shell: Shell) -> None:
    release = threading.Event()

    @shell.delayq.task(name="stubborn")
    def stubborn() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(
            lambda: not shell.delayq.state.supervisor.dispatcher.accepting, what="the drain began"
        )
        os.kill(os.getpid(), signal.SIGTERM)
        release.wait(30)

    job = stubborn.enqueue()
    clock = shell.delayq.state.clock
    began = clock.monotonic()
    try:
        assert shell("worker").exit_code == 1
    finally:
        release.set()
    assert quiet_seconds(began) < 10
    assert job.refresh().record.interrupted or job.state == "completed"
    shell.delayq.state.stop(5)


@pytest.mark.usefixtures("quiet_root")
def test_a_workers_options_are_checked(shell: Shell) -> None:
    assert "queue" in shell.refuses("worker", "--queues", "a b")
    assert shell("worker", "--workers", "0").exit_code == 2


@pytest.mark.usefixtures("quiet_root")
def test_a_worker_for_a_misspelt_queue_is_told(
    shell: Shell, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_delayq.cli.worker.StopRequest.await_stop", lambda self: "a test")
    assert shell("worker", "--queues", "sum,elsewhere").exit_code == 0
    warned = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert warned == ["no task, schedule, job or process uses a queue named 'sum'; did you mean 'sums'?"]


def life_of(records: list[logging.LogRecord], job_id: str) -> list[tuple[str, str]]:
    """The lines about one job, each as its level and what comes after the id, without the seconds."""
    found = [(one.levelname, one.getMessage()) for one in records]
    return [
        (level, re.sub(r"\d+\.\d+ s", "N s", text.splitlines()[0].removeprefix(f"job {job_id} ")))
        for level, text in found
        if text.startswith(f"job {job_id} ")
    ]


@pytest.mark.usefixtures("quiet_root")
@pytest.mark.parametrize("option, lives", [(None, True), ("--verbose", True), ("--quiet", False)])
def test_a_worker_logs_the_life_of_each_job(
    shell: Shell, caplog: pytest.LogCaptureFixture, option: str | None, lives: bool
) -> None:
    attempts = iter([1, 2])

    @shell.delayq.task(name="flaky", retry=RetryPolicy(max_attempts=2, backoff=0, jitter=0))
    def flaky() -> None:
        if next(attempts) == 1:
            raise ValueError("not yet")

    good = shell.says("enqueue", "add", "--args", "[1]").strip()
    bad = flaky.enqueue().id
    if option is None:
        caplog.set_level(logging.INFO)
    assert (
        shell("worker", "--workers", "1", "--max-jobs", "3", *([option] if option else [])).exit_code
        == 0
    )
    started, ended = ("INFO", "(add) attempt 1 started"), ("INFO", "(add) attempt 1 succeeded in N s")
    assert life_of(caplog.records, good) == ([started, ended] if lives else [])
    failed = ("WARNING", "(flaky) attempt 1 failed, next in N s: ValueError: not yet")
    assert [one for one in life_of(caplog.records, bad) if one[0] == "WARNING"] == [failed]
    if lives:
        assert life_of(caplog.records, bad)[-1] == ("INFO", "(flaky) attempt 2 succeeded in N s")


def test_a_web_process_tells_of_jobs_at_debug_only(
    shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "flask_delayq")
    job = shell.says("enqueue", "add", "--args", "[1]").strip()
    with running(shell.delayq):
        wait_until(lambda: shell.delayq.get(job).is_final, what="the job ran")
    assert life_of(caplog.records, job) == [
        ("DEBUG", "(add) attempt 1 started"),
        ("DEBUG", "(add) attempt 1 succeeded in N s"),
    ]


def test_progress_in_show(shell: Shell) -> None:
    @shell.delayq.task(name="slow")
    def slow() -> None:
        current_job.progress(3, 4, "pages")

    job = slow.enqueue()
    shell.delayq.drain()
    assert '"done": 3' in shell.says("show", job.id)


PACKAGE = {
    "shop/__init__.py": "from flask_delayq import DelayQ\nfrom . import known\ndelayq = DelayQ()\n",
    "shop/known.py": "class delayq:\n    task = staticmethod(str)\n@delayq.task\ndef a(): ...\n",
    "shop/periodic.py": "from . import delayq\n"
    "@delayq.task(every=60)\ndef b(): ...\n@delayq.task\ndef c(): ...\n",
    "shop/mail/tasks.py": "from .. import delayq\nclass X:\n    @delayq.task\n    def d(): ...\n",
    "shop/celery_tasks.py": "@app.task\ndef e(): ...\n",
    "shop/talk.py": "# about delayq and its @delayq.task\n",
    "shop/tests/helpers.py": "@delayq.task\ndef f(): ...\n",
    "shop/.venv/lib.py": "@delayq.task\ndef g(): ...\n",
    "shop/broken.py": "\x00 delayq (((",
    "alone.py": "x = 1\n",
    "beside.py": "@delayq.task\ndef h(): ...\n",
    "folder/inner.py": "@delayq.task\ndef i(): ...\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.usefixtures("project")
def test_modules_with_tasks_that_nobody_imported_are_named_and_stay_so() -> None:
    importlib.import_module("shop")
    importlib.import_module("alone")
    assert unimported("shop.factory") == [("shop/mail/tasks.py", 1), ("shop/periodic.py", 2)]
    assert unimported("alone") == [("beside.py", 1)]
    assert unimported("nobody") == unimported("sys") == []
    assert "shop.periodic" not in sys.modules
    importlib.import_module("shop.periodic")
    assert unimported("shop") == [("shop/mail/tasks.py", 1)]


@pytest.mark.usefixtures("project")
def test_the_search_for_modules_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("shop")
    monkeypatch.setattr("flask_delayq.cli.unimported.MOST_FILES", 1)
    assert unimported("shop") == []
    monkeypatch.setattr("flask_delayq.cli.unimported.MOST_FILES", 2000)
    monkeypatch.setattr("flask_delayq.cli.unimported.MOST_SECONDS", -1.0)
    assert unimported("shop") == []


@pytest.mark.usefixtures("project")
def test_check_says_which_modules_were_not_imported() -> None:
    importlib.import_module("shop")
    app = Flask("shop")
    app.config.update(TESTING=True)
    text = Shell(app, DelayQ(app)).says("check")
    assert "not imported here: shop/periodic.py, with 2 tasks; import it where the app is made" in text
