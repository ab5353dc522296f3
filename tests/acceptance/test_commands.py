"""The commands beside real servers and workers: separate processes, one store in the instance folder.

It must not look into any of them other than by their commands, pages, logs and exit codes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from servers import ROOT, Program, program, server
from waiting import wait_until

APP = """
import time
from pathlib import Path
from flask import Flask
from flask_delayq import DelayQ

app = Flask(__name__, instance_path=str(Path(__file__).parent / "instance"))
app.config.from_prefixed_env()
delayq = DelayQ(app)

@delayq.task(name="add", produce=True)
def add(a: int, b: int = 2) -> int:
    return a + b

@delayq.task(name="nap")
def nap(seconds: float) -> str:
    Path(app.instance_path, "napping").touch()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not Path(app.instance_path, "wake").exists():
        time.sleep(0.01)
    return "rested"
"""

FLASK = [sys.executable, "-m", "flask", "--app", "an_app"]


class Site:
    """A folder with an app in it, and a terminal there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "an_app.py").write_text(APP)

    def run(self, *words: str, status: int = 0) -> str:
        found = subprocess.run(
            [*FLASK, "delayq", *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert found.returncode == status, found.stdout + found.stderr
        return found.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))

    def state_of(self, job_id: str) -> str:
        return str(self.json("show", job_id)["job"]["state"])

    def nap(self, worker: Program) -> str:
        """Enqueue a long job and wait until it runs."""
        job_id = self.run("enqueue", "nap", "--args", "[60]").strip()
        begun = self.folder / "instance" / "napping"
        wait_until(begun.exists, 20, f"the job runs; the worker said:\n{worker.output()}")
        return job_id

    def wake(self) -> None:
        (self.folder / "instance" / "wake").touch()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_status_sees_a_serving_process_from_another_terminal(site: Site) -> None:
    assert site.json("status")["processes"] == []
    with server([*FLASK, "run", "--port", "{port}"], folder=site.folder) as web:
        found = wait_until(
            lambda: site.json("status")["processes"], 20, f"a process is announced; {web.output()}"
        )
        assert [(one["pid"], one["alive"], one["workers"]) for one in found] == [(web.pid, True, 4)]
        assert site.json("status")["healthy"] is True
        job_id = site.run("enqueue", "add", "--args", "[40]").strip()
        wait_until(lambda: site.state_of(job_id) == "completed", 20, "the server ran the job")
        assert site.json("show", job_id)["job"]["result"] == 42
        assert site.json("status")["counts"]["completed"] == 1
        assert str(web.pid) in site.run("status")
        assert "serve" in site.run("check") or "instance folder" in site.run("check")
        assert web.get("/delayq/health") == "ok\n"
        web.kill()
    wait_until(
        lambda: not any(one["alive"] for one in site.json("status")["processes"]),
        20,
        "its death is seen",
    )


def test_a_worker_drains_at_sigterm(site: Site) -> None:
    with program([*FLASK, "delayq", "worker", "--workers", "2"], folder=site.folder) as worker:
        job_id = site.nap(worker)
        found = site.json("status")["processes"]
        # Busy at once: it is counted in the store, not read from a record of some seconds ago.
        assert [(one["pid"], one["role"], one["busy"], one["workers"]) for one in found] == [
            (worker.pid, "worker", 1, 2)
        ]
        os.kill(worker.pid, signal.SIGTERM)
        wait_until(lambda: "stops after SIGTERM" in worker.output(), 10, "the worker noticed")
        later = site.run("enqueue", "add", "--args", "[1]").strip()
        site.wake()
        assert worker.wait(20) == 0, worker.output()
        said = worker.output()
    assert site.state_of(job_id) == "completed"
    assert site.state_of(later) == "ready"  # begun by nobody any more
    assert site.json("status")["processes"] == []
    assert "INFO flask_delayq.cli.worker: worker" in said
    assert said.count("runs jobs of all queues with 2 threads") == 1
    assert said.count("has stopped, all its jobs had ended") == 1


def test_at_the_end_of_the_drain_a_job_is_given_back_uncharged(site: Site) -> None:
    env = {"FLASK_DELAYQ_DRAIN_TIMEOUT": "0.5"}
    with program([*FLASK, "delayq", "worker"], folder=site.folder, env=env) as worker:
        job_id = site.nap(worker)
        assert worker.terminate() == 1
        assert "unfinished jobs will run again elsewhere" in worker.output()
    (site.folder / "instance" / "napping").unlink()
    site.wake()
    with program([*FLASK, "delayq", "worker", "--max-jobs", "1"], folder=site.folder) as worker:
        assert worker.wait(20) == 0, worker.output()
    job = site.json("show", job_id)["job"]
    assert (job["state"], job["attempt"], job["rescues"]) == ("completed", 1, 0)


def test_a_third_signal_ends_a_worker_at_once(site: Site) -> None:
    with program([*FLASK, "delayq", "worker"], folder=site.folder) as worker:
        site.nap(worker)
        os.kill(worker.pid, signal.SIGINT)
        wait_until(lambda: "stops after SIGINT" in worker.output(), 10, "the worker noticed")
        wait_until(lambda: worker.has_ended() or os.kill(worker.pid, signal.SIGINT), 10, "it ended")
        assert worker.wait() == 128 + signal.SIGINT  # not the 1 of a drain that was cut short
