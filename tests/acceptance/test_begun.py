"""A crash charges what had begun and nothing else: kills at every instant of a run, and under load.

What had begun is known from the notes of the processes (`accounting.py`): a worker notes each claim
right before it marks it, each task its own beginning and end.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest

from acceptance.accounting import COMPLETED, FAILED, Account
from acceptance.conftest import Figure
from acceptance.nursery import Nursery
from acceptance.stores import config, opened, producing, url_of
from flask_delayq.job import StoredState
from waiting import wait_until

INSTANTS = {
    # where the process dies: state and rescues of a job that may be repeated, state of one that must not
    "before:mark_begun:1": (StoredState.WAITING, 0, StoredState.WAITING),
    "after:mark_begun:1": (StoredState.WAITING, 1, StoredState.FAILED),
    "in the run": (StoredState.WAITING, 1, StoredState.FAILED),
    "before:record:1": (StoredState.WAITING, 1, StoredState.FAILED),
    "after:record:1": (StoredState.COMPLETED, 0, StoredState.COMPLETED),
}


@pytest.mark.parametrize("instant", INSTANTS)
def test_a_kill_at_each_instant_charges_what_had_begun(children: Nursery, instant: str) -> None:
    folder = children.folder
    again, rescues, once = INSTANTS[instant]
    stores = {"again": "crash" if instant == "in the run" else "work"}
    stores["once"] = "crash_once" if instant == "in the run" else "once"
    jobs = {}
    for store, task in stores.items():
        with producing(folder, store) as delayq:
            arguments = ("kill",) if instant == "in the run" else ()
            jobs[store] = delayq.tasks.get(task).enqueue(*arguments).id
        fault = {} if instant == "in the run" else {"fault": instant}
        children.start(store, config=config(folder, store), run=True, **fault)
    for store, job in jobs.items():
        wait_until(lambda store=store: children.status(store) == -signal.SIGKILL, 20, "it died")
        with opened(folder, store) as backend:
            rescue_all(backend)
            record = backend.get(job)
            assert record.stored is (again if store == "again" else once)
            if store == "again" or record.stored is not StoredState.FAILED:
                assert record.rescues == rescues
    runs = Account(folder).runs
    assert bool(runs) == (not instant.endswith("mark_begun:1"))


def rescue_all(backend: Any) -> None:
    while backend.rescue(now=time.time(), max_rescues=1000):
        pass


class Killed(NamedTuple):
    """What a killed process left of its jobs, once others have taken them back."""

    completed: int
    failed: int
    given_back: int
    """Claimed, and not begun: they wait, uncharged."""
    faults: list[str]
    unreached: int
    """Failed ones of which the process died between the mark and the task's first line."""


def kill_under_load(children: Nursery, name: str, number: signal.Signals, jobs: int) -> Killed:
    """Kill a process in the middle of many short jobs that must not be repeated."""
    folder = children.folder
    with producing(folder, name) as delayq:
        delayq.tasks.get("once").enqueue_many([(0.001,)] * jobs)
    children.start(name, config=config(folder, name), run=True, unguarded=True, takes=True)
    notes = folder / f"{name}.notes"
    wait_until(lambda: notes.exists() and notes.read_bytes().count(b"\nend\t") > 200, 20, "it is at it")
    children.kill(name, number)
    assert children.status(name) == -number
    with opened(folder, name) as backend:
        rescue_all(backend)
        assert backend.counts(now=time.time())["running"] == 0
    return account_of(folder, name)


def account_of(folder: Path, name: str) -> Killed:
    account = Account(folder, only=name)
    taken = {words[2] for words in account.noted("takes")}
    begun = set(account.runs)
    connection = apsw.Connection(url_of(folder, name).removeprefix("sqlite:///"))
    rows = connection.execute("SELECT id, state, rescues, claim_no FROM job").fetchall()
    connection.close()
    faults, counts, unreached, given_back = [], {COMPLETED: 0, FAILED: 0, 0: 0}, 0, 0
    for job, state, rescues, claim_no in rows:
        counts[state] += 1
        if state == FAILED and job not in taken:
            faults.append(f"{job}: failed, and no worker had taken it")
        if state == 0 and job in begun:
            faults.append(f"{job}: had begun, and would be repeated")
        if state == 0 and rescues:
            faults.append(f"{job}: charged, and had not begun")
        unreached += state == FAILED and job not in begun
        given_back += state == 0 and claim_no > 0
    return Killed(counts[COMPLETED], counts[FAILED], given_back, faults, unreached)


def kill_often(children: Nursery, figure: Figure, times: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        names = [f"{number.name}-{i}" for i in range(times)]
        killed = [kill_under_load(children, name, number, jobs=3000) for name in names]
        figure(
            f"{times} x {number.name} among 3,000 jobs of 1 ms that must not be repeated:"
            f" {sum(one.failed for one in killed)} had begun and failed"
            f" ({sum(one.unreached for one in killed)} before their first line),"
            f" {sum(one.given_back for one in killed)} were claimed only and wait,"
            f" failed without having begun: {sum(len(one.faults) for one in killed)}"
        )
        assert [one.faults for one in killed] == [[]] * times
        assert sum(one.given_back for one in killed) > 0, "nothing was claimed and not begun"


def test_what_was_only_claimed_never_fails(children: Nursery, figure: Figure) -> None:
    kill_often(children, figure, times=2)


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_what_was_only_claimed_never_fails_often(children: Nursery, figure: Figure) -> None:
    kill_often(children, figure, times=20)
