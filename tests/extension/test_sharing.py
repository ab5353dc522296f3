"""Two apps on one store: each runs its own jobs on time and leaves the other's alone.

It must not know how a process tells its jobs from others.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask import Flask

from flask_delayq import DelayQ, Job
from flask_delayq.job import NewJob, StoredState
from flask_delayq.runtime.unknown import REMEDY
from kit import make_app, running
from waiting import wait_until

TOKEN = "QkD0vYw8m2HqzR5tXc7LbN3e"
IDLE_APP = Path(__file__).with_name("idle_app.py")


@contextmanager
def idle_app(url: str) -> Iterator[subprocess.Popen[str]]:
    """A process of another app that runs jobs of this store."""
    root = IDLE_APP.parents[2]
    process = subprocess.Popen(
        [sys.executable, str(IDLE_APP), url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])},
    )
    with process:
        try:
            assert process.stdout.readline() == "runs jobs\n"
            yield process
            process.stdin.close()
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/jobs.sqlite3"


def busy_app(url: str, **settings: object) -> tuple[Flask, DelayQ]:
    app, delayq = make_app(url=url, **settings)
    delayq.task(name="busy.task")(lambda n: n)
    return app, delayq


def lateness(jobs: list[Job]) -> list[float]:
    return [(job.started_at - job.run_at).total_seconds() for job in jobs]


def tried(delayq: DelayQ, job_id: str) -> bool:
    """Whether somebody has had the job in hand, and gave it back."""
    record = delayq.get(job_id).record
    return bool(record.claim_no) and record.stored is StoredState.WAITING


def run_delayed(delayq: DelayQ, count: int) -> list[Job]:
    """Jobs that were enqueued one by one, a second ahead, and have ended."""
    task = delayq.tasks.get("busy.task")
    jobs = [task.enqueue_in(1.0, n) for n in range(count)]
    due = [job.run_at for job in jobs]
    wait_until(lambda: delayq.counts()["completed"] == count, 40, "all have run")
    assert [job.refresh().run_at for job in jobs] == due, "none was put off"
    return jobs


def test_the_jobs_of_one_app_are_not_put_off_by_an_idle_other_one(url: str) -> None:
    with idle_app(url):
        _app, delayq = busy_app(url)
        with running(delayq):
            jobs = run_delayed(delayq, 200)
            # The first ones may have gone to the other process, which gives them back at once.
            assert sum(job.record.claim_no > 1 for job in jobs) < 60


@pytest.mark.stress
def test_none_is_late_beside_an_idle_app(url: str) -> None:
    with idle_app(url):
        _app, delayq = busy_app(url)
        with running(delayq):
            late = lateness(run_delayed(delayq, 200))
    assert max(late) < 1.0, f"median {statistics.median(late):.3f} s, worst {max(late):.3f} s"


@pytest.mark.stress
def test_a_hundred_thousand_jobs_of_others_slow_nothing_down(url: str) -> None:
    app, delayq = busy_app(url)
    now = time.time()
    for first in range(0, 100_000, 20_000):
        strangers = [
            NewJob(f"s{first + n:06}", "nobody.knows", "default", 1, now, now, b"{}")
            for n in range(20_000)
        ]
        delayq.state.backend.enqueue(strangers, now=now, timeout=60)
    backend = delayq.state.backend
    backend.next_due(None, tasks=["busy.task"])
    costs = []
    for _ in range(200):
        began = time.thread_time()
        assert backend.next_due(None, tasks=["busy.task"]) is None
        assert not backend.claim(
            None, now=time.time(), limit=8, owner="me", lease=60, tasks=["busy.task"]
        )
        costs.append(time.thread_time() - began)
    assert statistics.median(costs) < 0.002, f"a look and a claim took {statistics.median(costs):.6f} s"
    with idle_app(url), running(delayq):
        task = delayq.tasks.get("busy.task")
        jobs = [task.enqueue_in(1.0, n) for n in range(200)]
        for job in jobs:
            job.wait(20)
        late = lateness([job.refresh() for job in jobs])
    assert max(late) < 1.0, f"median {statistics.median(late):.3f} s, worst {max(late):.3f} s"


def test_whoever_asks_is_told_what_nobody_knows_and_who_shares_the_store(url: str) -> None:
    app, delayq = busy_app(url, admin_token=TOKEN)
    now = time.time()
    delayq.state.backend.enqueue(
        [NewJob("lost", "nobody.knows", "default", 1, now, now, b"{}")], now=now, timeout=5
    )
    job = delayq.tasks.get("busy.task").enqueue(1)

    def page(job_id: str) -> str | None:
        headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/json"}
        found = app.test_client().get(f"/delayq/jobs/{job_id}", headers=headers)
        return found.get_json()["job"]["waits_because"]

    def says(*words: str, status: int = 0) -> str:
        result = app.test_cli_runner().invoke(args=["delayq", *words])
        assert result.exit_code == status, result.output
        return str(result.output)

    assert "no process runs jobs: start" in str(page("lost"))
    with idle_app(url) as other:
        nobody = f"no process knows this task: {REMEDY}"
        wait_until(lambda: tried(delayq, "lost"), 20, "it has seen that it does not know the task")
        wait_until(lambda: page("lost") == page(job.id) == nobody, 20, "both jobs say so")
        assert "no process knows this task" in says("show", "lost")
        text = says("check", status=1)
        assert f"shared with: process {other.pid} of kit" in text
        assert "only there: idle.task" in text and "only here: busy.task" in text
        assert (
            "unknown here: task nobody.knows, 1 jobs wait; no process knows this task: "
            "import its module where the app is made" in text
        )
        with running(delayq):
            wait_until(lambda: job.refresh().state == "completed", 20, "ours has run")
            wait_until(lambda: page("lost") == nobody, 20, "it says so still")
    delayq.state.close()


def test_a_drain_leaves_alone_what_it_does_not_know() -> None:
    _app, delayq = busy_app("memory://")
    now = time.time() - 9
    strangers = [NewJob(f"s{n}", "nobody.knows", "default", 1, now, now, b"{}") for n in range(3)]
    delayq.state.backend.enqueue(strangers, now=now, timeout=5)
    job = delayq.tasks.get("busy.task").enqueue(1)
    assert [outcome.claim.id for outcome in delayq.drain()] == [job.id]
    assert [delayq.get(one.id).state.value for one in strangers] == ["ready"] * 3
    assert delayq.drain() == []
