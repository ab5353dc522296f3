"""Who could not renew may not judge: a store away, and everything stopped, for longer than the lease.

Every process has jobs under way whose leases end meanwhile, and short ones beside them. What ran is
known from the notes of the processes. The lease is the shortest that can be set. In the long forms the
processes are old enough to judge leases before it begins.
"""

from __future__ import annotations

import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import apsw
import pytest

from acceptance.accounting import Account, rows_of
from acceptance.conftest import Figure
from acceptance.nursery import Nursery
from acceptance.stores import config, opened, producing, unfinished, wait_until_all_final
from flask_delayq.backends.base import LONGEST_WAIT
from flask_delayq.job import StoredState
from waiting import wait_until

LEASE = 3.0
PROCESSES = ("one", "two", "three")
HELD = 6
"""Jobs under way during the trouble."""

SETTLED = LEASE / 2 + LONGEST_WAIT
"""Seconds of renewals on time after which a process judges leases."""

LIMIT = 300_000
"""Bytes at the beginning of a file that can be written on a full disk."""


@contextmanager
def locked(children: Nursery) -> Iterator[None]:
    """Somebody holds the write lock."""
    with closing(apsw.Connection(str(children.folder / "store.sqlite3"))) as guest:
        guest.set_busy_timeout(10_000)
        guest.execute("BEGIN IMMEDIATE")
        yield
        guest.execute("ROLLBACK")


@contextmanager
def full(children: Nursery) -> Iterator[None]:
    """No process can write beyond the beginning of any file, which the log has left behind."""
    wal = children.folder / "store.sqlite3-wal"
    with closing(apsw.Connection(str(children.folder / "store.sqlite3"))) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM job").fetchall()  # so that it cannot begin anew
        assert wal.stat().st_size > LIMIT * 2
        pids = [children.pid(name) for name in PROCESSES]
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (LIMIT, hard))
        yield
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        reader.execute("ROLLBACK")


@contextmanager
def stopped(children: Nursery) -> Iterator[None]:
    """Everything stands still, as when a container or a machine is paused."""
    for name in PROCESSES:
        children.send(name, signal.SIGSTOP)
    yield
    for name in random.sample(PROCESSES, len(PROCESSES)):
        children.send(name, signal.SIGCONT)


QUICK = [(locked, 1.5 * LEASE), (stopped, 1.5 * LEASE)]
LONG = [(one, times * LEASE) for one in (locked, full, stopped) for times in (3, 20)]


@pytest.mark.parametrize(
    ("trouble", "seconds"), [*QUICK, *(pytest.param(*one, marks=pytest.mark.stress) for one in LONG)]
)
def test_trouble_for_longer_than_the_lease_costs_no_job(
    children: Nursery, figure: Figure, trouble: Callable[[Nursery], object], seconds: float
) -> None:
    folder = children.folder
    open_gates = folder / "gates"
    open_gates.mkdir()
    with producing(folder) as delayq, opened(folder) as backend:
        for name in PROCESSES:
            children.start(name, config=config(folder, DELAYQ_LEASE=LEASE), run=True)
        work, hold = delayq.tasks.get("work"), delayq.tasks.get("hold")
        held = [hold.enqueue(str(open_gates)).id for _ in range(HELD)]
        wait_until(lambda: len(Account(folder).runs) == HELD, 20, "they run")
        for _ in range(60):  # one by one, so that the log grows
            work.enqueue(0.001)
        if seconds > 2 * LEASE:
            old = time.monotonic() + SETTLED
            wait_until(lambda: time.monotonic() > old, SETTLED + 5, "they may judge")
        # Also the short ones that are under way in that moment.
        work.enqueue_many([(0.01,)] * 200)
        with trouble(children):  # type: ignore[attr-defined]
            time.sleep(seconds)  # that is how long it lasts
        settled = time.monotonic() + LEASE
        wait_until(lambda: time.monotonic() > settled, LEASE + 5, "all have been judged")
        for name in PROCESSES:
            (open_gates / name).touch()
        wait_until_all_final(folder, 60)
        assert all(backend.get(job).rescues == 0 for job in held)
    children.stop()
    account = Account(folder)
    rows = rows_of(folder / "store.sqlite3")
    assert account.faults(rows) == []
    assert {row.rescues for row in rows.values()} == {0}
    twice = sum(len(runs) > 1 for runs in account.runs.values())
    figure(
        f"{trouble.__name__} for {seconds:g} s, lease {LEASE:g} s: {len(rows)} jobs, ran twice: {twice}"
    )
    assert twice == 0


def test_a_process_killed_in_a_drain_is_rescued_at_once(children: Nursery) -> None:
    folder = children.folder
    open_gates = folder / "gates"
    open_gates.mkdir()
    with producing(folder) as delayq, opened(folder) as backend:
        job = delayq.tasks.get("hold").enqueue(str(open_gates)).id
        children.start("drain", config=config(folder, DELAYQ_LEASE=600.0), drain=True)
        wait_until(lambda: job in Account(folder).runs, 10, "the job runs")
        wait_until(backend.processes, 10, "it shows a sign of life")
        children.kill("drain")
        children.start("other", config=config(folder, DELAYQ_LEASE=600.0), run=True)
        (open_gates / "other").touch()
        wait_until(lambda: unfinished(backend) == 0, 10, "another process has run it")
        record = backend.get(job)
        assert (record.stored, record.rescues) == (StoredState.COMPLETED, 1)
    children.stop()
    account = Account(folder, children.deaths)
    assert [run.process for run in account.runs[job]] == ["drain", "other"]


@pytest.mark.stress
def test_a_drain_keeps_its_job_for_longer_than_the_lease(children: Nursery) -> None:
    folder = children.folder
    open_gates = folder / "gates"
    open_gates.mkdir()
    with producing(folder) as delayq, opened(folder) as backend:
        # It looks after the whole store, and runs nothing of this queue.
        judge = config(folder, DELAYQ_LEASE=LEASE, DELAYQ_QUEUES="other")
        children.start("judge", config=judge, run=True)
        job = delayq.tasks.get("hold").enqueue(str(open_gates)).id
        children.start("drain", config=config(folder, DELAYQ_LEASE=LEASE), drain=True)
        wait_until(lambda: job in Account(folder).runs, 10, "the job runs")
        time.sleep(LEASE * 4)  # that is how long it runs
        record = backend.get(job)
        assert (record.stored, record.rescues) == (StoredState.RUNNING, 0)
        (open_gates / "drain").touch()
        wait_until_all_final(folder, 20)
        assert backend.get(job).rescues == 0
    children.stop()
