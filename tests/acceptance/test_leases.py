"""Leases and claims seen from outside: who runs a job while processes stall, and after odd endings.

What ran is known from the notes of the processes (`accounting.py`). The lease is the shortest that
can be set, so that a test takes seconds.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import apsw
import pytest

from acceptance.accounting import Account, rows_of
from acceptance.conftest import Figure
from acceptance.nursery import Nursery
from acceptance.stores import config, opened, producing, unfinished, wait_until_all_final
from flask_delayq.job import StoredState
from pace import quiet_seconds
from waiting import wait_until

LEASE = 3.0

WORKERS = 4  # the default of DELAYQ_WORKERS


def start(children: Nursery, name: str, store: str = "store") -> None:
    children.start(name, config=config(children.folder, store, DELAYQ_LEASE=LEASE), run=True)


def gates(folder: Path) -> Path:
    made = folder / "gates"
    made.mkdir(exist_ok=True)
    return made


def began(folder: Path, job: str, process: str) -> bool:
    return any(run.process == process for run in Account(folder).runs.get(job, ()))


@pytest.mark.parametrize("first", ["stalled", "other"])
def test_a_late_finisher_changes_nothing(children: Nursery, first: str) -> None:
    """A process is stopped for longer than its lease; its job runs elsewhere; then it wakes up.

    :param first: whose run of the job ends first.
    """
    folder = children.folder
    open_gates = gates(folder)
    with producing(folder) as delayq, opened(folder) as backend:
        start(children, "stalled")
        job = delayq.tasks.get("hold").enqueue(str(open_gates)).id
        wait_until(lambda: began(folder, job, "stalled"), 10, "the job runs")
        children.send("stalled", signal.SIGSTOP)
        start(children, "other")
        wait_until(lambda: began(folder, job, "other"), LEASE + 20, "it runs elsewhere")
        if first == "other":
            (open_gates / "other").touch()
            wait_until(lambda: unfinished(backend) == 0, 10, "it is completed")
        (open_gates / "stalled").touch()
        children.send("stalled", signal.SIGCONT)
        refused = "its claim was lost, so how its run ended (complete) is not recorded"
        wait_until(lambda: refused in children.log(), 10, "the late end is refused")
        record = backend.get(job)
        assert record.claim_no == 2
        assert record.stored is (StoredState.COMPLETED if first == "other" else StoredState.RUNNING)
        (open_gates / "other").touch()
        wait_until(lambda: unfinished(backend) == 0, 10, "it is completed")
        assert delayq.get(job).result == "other"
        assert delayq.get(job).rescues == 1
        # And the one that slept works on.
        children.stop("other")
        later = delayq.tasks.get("work").enqueue().id
        wait_until_all_final(folder, 10)
    children.stop()
    account = Account(folder)
    assert [run.process for run in account.runs[job]] == ["stalled", "other"]
    assert [run.process for run in account.runs[later]] == ["stalled"]


def test_a_process_that_slept_begins_nothing_that_was_taken_from_it(children: Nursery) -> None:
    """It had claimed more than it had begun: what others have run meanwhile does not run again."""
    folder = children.folder
    with producing(folder) as delayq, opened(folder) as backend:
        start(children, "stalled")
        for _ in range(4):  # short jobs before, so that it prefetches
            delayq.tasks.get("work").enqueue_many([(0.002,)] * 500)
        wait_until(lambda: len(Account(folder).runs) > 300, 20, "it is well under way")
        wait_until(lambda: stopped_between_writes(children, "stalled"), 10, "it stands still")
        start(children, "other")
        wait_until(lambda: unfinished(backend) == 0, LEASE + 30, "the other one does the rest")
        woken = time.monotonic()
        children.send("stalled", signal.SIGCONT)
        later = delayq.tasks.get("work").enqueue_many([(0.002,)] * 20)
        wait_until_all_final(folder, 10)
    children.stop()
    account = Account(folder)
    rows = rows_of(folder / "store.sqlite3")
    taken = sum(row.rescues > 0 for row in rows.values())
    assert taken > 4, "nothing was claimed that had not begun"
    twice = {job: runs for job, runs in account.runs.items() if len(runs) > 1}
    # A worker may have stood between taking a job (then it counts as begun) and its first line.
    late = [job for job, runs in twice.items() if runs[-1].began >= woken]
    assert len(late) <= WORKERS, f"{late} ran again after they had been run"
    assert all(rows[job].rescues for job in late), "what had begun is charged"
    assert [job for job, runs in twice.items() if runs[0].process != "stalled" and job not in late] == []
    assert all(len(account.runs[job.id]) == 1 for job in later)


def stopped_between_writes(children: Nursery, name: str) -> bool:
    """Stop a process; not in the middle of a write, where it would hold up every other one."""
    children.send(name, signal.SIGSTOP)
    with closing(apsw.Connection(str(children.folder / "store.sqlite3"))) as guest:
        try:
            guest.execute("BEGIN IMMEDIATE")
            guest.execute("ROLLBACK")
        except apsw.BusyError:
            children.send(name, signal.SIGCONT)
            return False
    return True


def test_a_job_longer_than_its_lease_runs_once(children: Nursery) -> None:
    """On two stores at once: on one the record of the process is deleted meanwhile."""
    folder = children.folder
    jobs = {}
    for store in ("kept", "gone"):
        with producing(folder, store) as delayq:
            jobs[store] = delayq.tasks.get("work").enqueue(LEASE * 1.5).id
        start(children, f"{store}-one", store)
    for store, job in jobs.items():
        wait_until(lambda store=store, job=job: began(folder, job, f"{store}-one"), 10, "it runs")
    delete_process_record(folder, "gone")
    for store in jobs:
        start(children, f"{store}-two", store)
    for store, job in jobs.items():
        wait_until_all_final(folder, LEASE * 1.5 + 10, store)
        account = Account(folder, only=store)
        with opened(folder, store) as backend:
            assert backend.get(job).rescues == 0
        assert [run.process for run in account.runs[job]] == [f"{store}-one"]
    children.stop()


def delete_process_record(folder: Path, store: str) -> None:
    with closing(apsw.Connection(str(folder / f"{store}.sqlite3"))) as guest:
        guest.execute("DELETE FROM process")
        assert guest.changes() == 1


def test_an_orphan_in_the_name_of_a_living_process_is_given_back(children: Nursery) -> None:
    """A claim whose answer never arrived: nobody holds it, though its owner lives and renews."""
    with producing(children.folder) as delayq, opened(children.folder) as backend:
        start(children, "one")
        wait_until(lambda: len(backend.processes()) == 1, 10, "it is announced")
        (owner,) = (process.owner for process in backend.processes())
        job = delayq.tasks.get("work").enqueue_in(3.5).id
        far = time.time() + 60
        (claim,) = backend.claim(None, now=far, limit=1, owner=owner, lease=LEASE)
        assert (claim.id, backend.get(job).stored) == (job, StoredState.RUNNING)
        wait_until(lambda: backend.get(job).stored is StoredState.WAITING, LEASE + 2, "it is given back")
        wait_until_all_final(children.folder, 10)
        record = backend.get(job)
        assert (record.claim_no, record.attempt, record.rescues) == (2, 1, 0)
    children.stop()
    assert f"released 1 running jobs that no worker of this process held: {job}" in children.log()
    account = Account(children.folder)
    rows = rows_of(children.folder / "store.sqlite3")
    assert account.faults(rows) == []
    assert account.runs[job][0].wall >= rows[job].run_at


def crashed(backend: Any, jobs: int, times: int) -> None:
    """Let so many jobs that wait be taken back from an owner that is gone."""
    for _ in range(times):
        now = time.time()
        assert len(backend.claim(None, now=now, limit=jobs, owner="gone", lease=0)) == jobs
        assert len(backend.rescue(now=now, max_rescues=1000, limit=jobs)) == jobs


def test_jobs_that_were_rescued_run_side_by_side(children: Nursery, figure: Figure) -> None:
    jobs, seconds, workers = 600, 0.02, 4
    with producing(children.folder) as delayq, opened(children.folder) as backend:
        delayq.tasks.get("work").enqueue_many([(seconds,)] * jobs)
        crashed(backend, jobs, times=1)
        start(children, "one")
        start(children, "two")
        wait_until_all_final(children.folder, 60)
    children.stop()
    account = Account(children.folder)
    rows = rows_of(children.folder / "store.sqlite3")
    assert account.faults(rows) == []
    assert {row.rescues for row in rows.values()} == {1}
    runs = sorted((run for runs in account.runs.values() for run in runs), key=lambda run: run.began)
    ended = max(run.ended or 0 for run in runs)
    took = quiet_seconds(runs[0].began, ended)
    ideal = jobs * seconds / (2 * workers)
    figure(
        f"{jobs} rescued jobs of 20 ms on 2 x {workers} workers: {ended - runs[0].began:.2f} s,"
        f" ideal {ideal:.2f} s"
    )
    # One at a time in the store they would take 12 s, one at a time in each process 6 s.
    assert took < jobs * seconds / 3


def test_suspects_follow_one_another_at_once(children: Nursery, figure: Figure) -> None:
    """At most one of them runs at a time in a process; none waits for anything but the one before."""
    with producing(children.folder) as delayq, opened(children.folder) as backend:
        delayq.tasks.get("work").enqueue_many([()] * 50)
        crashed(backend, 50, times=2)
        start(children, "one")
        start(children, "two")
        wait_until_all_final(children.folder, 30)
    children.stop()
    account = Account(children.folder)
    rows = rows_of(children.folder / "store.sqlite3")
    assert account.faults(rows) == []
    assert {row.rescues for row in rows.values()} == {2}
    runs = sorted((run for runs in account.runs.values() for run in runs), key=lambda run: run.began)
    for process in ("one", "two"):
        for run, following in pairwise(run for run in runs if run.process == process):
            assert run.ended is not None
            assert run.ended <= following.began
    seconds = quiet_seconds(runs[0].began, runs[-1].began)
    in_all = runs[-1].began - runs[0].began
    figure(f"50 suspects in two processes, one at a time in each, in {in_all:.2f} s")
    assert seconds < 5


def test_a_long_suspect_holds_up_no_other_process(children: Nursery) -> None:
    folder = children.folder
    open_gates = gates(folder)
    with producing(folder) as delayq, opened(folder) as backend:
        held = delayq.tasks.get("hold").enqueue(str(open_gates)).id
        others = delayq.tasks.get("work").enqueue_many([()] * 5)
        crashed(backend, 6, times=2)
        start(children, "one")
        wait_until(lambda: began(folder, held, "one"), 10, "the long one runs")
        start(children, "two")
        wait_until(lambda: unfinished(backend) == 1, 10, "all others are final")
        assert backend.get(held).stored is StoredState.RUNNING
        (open_gates / "one").touch()
        wait_until_all_final(folder, 10)
    children.stop()
    account = Account(folder)
    assert account.faults(rows_of(folder / "store.sqlite3")) == []
    assert {run.process for job in others for run in account.runs[job.id]} == {"two"}


def test_jobs_are_judged_by_their_own_lease_when_the_process_record_is_gone(
    children: Nursery,
) -> None:
    """Nothing tells that their process died, so they are taken back when the lease has ended."""
    folder = children.folder
    open_gates = gates(folder)
    with producing(folder) as delayq:
        start(children, "one")
        job = delayq.tasks.get("hold").enqueue(str(open_gates)).id
        wait_until(lambda: began(folder, job, "one"), 10, "the job runs")
        delete_process_record(folder, "store")
        children.kill("one")
        start(children, "two")
        (open_gates / "two").touch()
        wait_until_all_final(folder, LEASE + 15)
    children.stop()
    account = Account(folder, children.deaths)
    assert account.faults(rows_of(folder / "store.sqlite3")) == []
    assert [run.process for run in account.runs[job]] == ["one", "two"]


def test_a_process_id_says_nothing(children: Nursery) -> None:
    """A new process under the pid of a dead one does not keep the dead one's jobs."""
    folder = children.folder
    open_gates = gates(folder)
    with producing(folder) as delayq, opened(folder) as backend:
        start(children, "one")
        job = delayq.tasks.get("hold").enqueue(str(open_gates)).id
        wait_until(lambda: began(folder, job, "one"), 10, "the job runs")
        children.kill("one")
        with closing(apsw.Connection(str(folder / "store.sqlite3"))) as guest:
            guest.execute("UPDATE process SET pid = ?", (os.getpid(),))
        start(children, "two")
        (open_gates / "two").touch()
        wait_until(lambda: unfinished(backend) == 0, LEASE / 2, "it is rescued, not after the lease")
    children.stop()
    account = Account(folder, children.deaths)
    assert account.faults(rows_of(folder / "store.sqlite3")) == []
