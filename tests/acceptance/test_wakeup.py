"""How soon a process that has nothing to do runs what another one enqueued, and what idling costs it.

Moments are the machine's monotonic clock, noted by the processes themselves (`accounting.py`).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.accounting import Account, Run
from acceptance.conftest import Figure
from acceptance.nursery import Nursery
from acceptance.stores import config, opened, producing
from flask_delayq import DelayQ
from pace import quiet_seconds
from servers import APPS, ROOT, program
from waiting import wait_until

SAFETY = 1.0
"""Seconds between two looks of an idle process that nobody rang for."""

AT_ONCE = 0.25
"""Seconds of a quiet machine: far from a second, which it takes where nobody rings or hears."""


def percentile(found: list[float], percent: int) -> float:
    return found[min(len(found) - 1, len(found) * percent // 100)]


def shown(found: list[float]) -> str:
    parts = (f"p{percent} {percentile(found, percent) * 1e3:.2f} ms" for percent in (50, 99))
    return f"{', '.join(parts)}, worst {found[-1] * 1e3:.2f} ms (n = {len(found)})"


class Idle:
    """A process that runs jobs and has nothing to do, and the notes that it takes."""

    def __init__(self, children: Nursery) -> None:
        self.folder = children.folder
        children.start("idle", config=config(self.folder), run=True)
        with opened(self.folder) as backend:
            wait_until(lambda: len(backend.processes()) == 1, 10, "it is announced")
        wait_until(lambda: list(self.bells()), 10, "its doorbell is there")

    def bells(self) -> Iterator[Path]:
        return self.folder.glob("store.sqlite3.live/*.bell")

    def run_of(self, job: str, timeout: float = 5) -> Run:
        needle = job.encode()
        path = self.folder / "idle.notes"
        wait_until(lambda: path.read_bytes().count(needle) == 2, timeout, f"{job} has run")
        (run,) = Account(self.folder).runs[job]
        return run

    def delays(self, delayq: DelayQ, count: int) -> list[float]:
        """Of so many jobs one by one; of fewer if that takes longer than ten seconds."""
        ends = time.monotonic() + 10
        found = [self.delay_of_one(delayq)]
        while len(found) < count and time.monotonic() < ends:
            found.append(self.delay_of_one(delayq))
        return found

    def delay_of_one(self, delayq: DelayQ) -> float:
        """Seconds of a quiet machine from the return of an enqueue to the beginning of the run; 0 if
        that was sooner."""
        job = delayq.tasks.get("work").enqueue()
        returned = time.monotonic()
        return max(0.0, quiet_seconds(returned, self.run_of(job.id).began))


def test_a_job_of_another_process_begins_at_once(children: Nursery, figure: Figure) -> None:
    idle = Idle(children)
    with producing(children.folder) as delayq:
        found = sorted(idle.delays(delayq, 200))
    children.stop()
    figure(f"from the return of enqueue to the run in another process: {shown(found)}")
    assert percentile(found, 50) < 0.050
    assert found[-1] < AT_ONCE


def test_a_job_of_a_command_begins_at_once(children: Nursery, figure: Figure) -> None:
    idle = Idle(children)

    def one() -> float:
        job = enqueue_by_command(children.folder)
        with opened(children.folder) as backend:
            run, apart = idle.run_of(job), time.time() - time.monotonic()
            return quiet_seconds(float(backend.get(job).enqueued_at) - apart, run.wall - apart)

    found = sorted(one() for _ in range(4))
    children.stop()
    figure(f"from the moment `flask delayq enqueue` stores a job to its run: {shown(found)}")
    assert found[-1] < AT_ONCE


def enqueue_by_command(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "chaos_app", "delayq", "enqueue", "work"],
        cwd=folder,
        env=chaos_environment(folder, "command"),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def chaos_environment(folder: Path, name: str, store: str = "store") -> dict[str, str]:
    spec = {"name": name, "notes": str(folder), "config": config(folder, store)}
    paths = os.pathsep.join(map(str, [ROOT, ROOT / "tests", APPS]))
    return {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "CHAOS": json.dumps(spec)}


@pytest.mark.parametrize("loss", ["removed", "dead"])
def test_a_lost_bell_costs_a_second_at_most(children: Nursery, figure: Figure, loss: str) -> None:
    """A cleaner removed the doorbell, or what lies there belongs to nobody any more."""
    idle = Idle(children)
    for bell in list(idle.bells()):
        bell.unlink()
        if loss == "dead":
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nobody:
                nobody.bind(str(bell))
    with producing(children.folder) as delayq:
        found = sorted(idle.delays(delayq, 2))
    children.stop()
    figure(f"the same with the doorbell {loss}: {shown(found)}")
    assert found[-1] < SAFETY + AT_ONCE


def test_idle_processes_sleep(children: Nursery, figure: Figure) -> None:
    """With four workers each: the dispatcher's safety turn and the maintenance, once a second; the
    command's main thread looks for signals once a second as well."""
    folder = children.folder
    children.start("idle", config=config(folder), run=True)
    command = [sys.executable, "-m", "flask", "--app", "chaos_app", "delayq", "worker"]
    env = chaos_environment(folder, "worker", store="other")
    with program(command, folder=folder, env=env) as worker:
        pids = {"store": children.pid("idle"), "other": worker.pid}
        began = time.monotonic()
        rates = wakeups(folder, pids)
        pace = quiet_seconds(began) / (time.monotonic() - began)
        assert worker.terminate() == 0
    children.stop()
    served, commanded = rates["store"], rates["other"]
    figure(f"wake-ups a second of an idle process: {served}, of `flask delayq worker`: {commanded}")
    assert served["delayq-dispatcher"] + served["delayq-maintenance"] > 1, "the clock is not watched"
    # A thread that waits for Python's lock asks for it every 5 ms: on a busy machine, whoever has it may
    # have to wait for a processor.
    assert sum(served.values()) - served.get(LAUNCH, 0.0) < 3 / pace
    assert sum(commanded.values()) - commanded.get(LAUNCH, 0.0) < 4 / pace


LAUNCH = "delayq-launch"
"""It waits to see this process serve, which these never do: no part of a process that does."""

WATCHED = 4.0
"""Seconds."""


def wakeups(folder: Path, pids: dict[str, int]) -> dict[str, dict[str, float]]:
    """By store: how often a second the threads of a process give up the processor by themselves."""
    names = {store: threads_of(folder, store) for store in pids}
    # What starting up and that job left to do: the first checkpoint of an idle store, for example.
    started = time.monotonic()
    wait_until(lambda: quiet_seconds(started) > 2.5, 5, "it has settled")
    before, began = {store: switches(pid) for store, pid in pids.items()}, time.monotonic()
    wait_until(lambda: time.monotonic() > began + WATCHED, WATCHED + 5)
    after, seconds = {store: switches(pid) for store, pid in pids.items()}, time.monotonic() - began
    return {
        store: {
            names[store].get(number, "unknown"): round((after[store][number] - count) / seconds, 1)
            for number, count in before[store].items()
            if after[store][number] > count
        }
        for store in pids
    }


def threads_of(folder: Path, store: str) -> dict[int, str]:
    """The threads of the process that runs a store's jobs, by number."""
    with producing(folder, store) as delayq:
        job = delayq.tasks.get("threads").enqueue()
        assert job.wait(20)
        return {number: name for name, number in job.result.items()}


def switches(pid: int) -> dict[int, int]:
    counts = {}
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        words: dict[str, Any] = dict(line.split(":", 1) for line in status.read_text().splitlines())
        counts[int(status.parent.name)] = int(words["voluntary_ctxt_switches"])
    return counts
