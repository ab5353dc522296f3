"""Without faults: several processes that produce and run jobs on one file, and every job runs once.

What happened is known from the notes of the processes (`accounting.py`), not from the store.
"""

from __future__ import annotations

import time

import pytest

from acceptance.accounting import Account, rows_of
from acceptance.conftest import Figure
from acceptance.nursery import Nursery
from acceptance.stores import config, wait_until_all_final
from waiting import wait_until

PROCESSES = 4
PRODUCERS = 4
"""Producing threads of each process, beside 8 that run jobs."""


@pytest.mark.parametrize(
    "jobs",
    [
        pytest.param(20_000, id="20,000"),
        pytest.param(200_000, id="200,000", marks=[pytest.mark.stress, pytest.mark.timeout(900)]),
    ],
)
def test_every_job_runs_exactly_once(children: Nursery, figure: Figure, jobs: int) -> None:
    each = jobs // PROCESSES // PRODUCERS
    began = time.monotonic()
    for number in range(PROCESSES):
        children.start(
            f"process-{number}",
            config=config(children.folder, DELAYQ_WORKERS=8),
            run=True,
            produce={"threads": PRODUCERS, "each": each, "plain": True},
        )
    for number in range(PROCESSES):
        notes = children.folder / f"process-{number}.notes"
        wait_until(
            lambda notes=notes: notes.exists() and notes.read_bytes().count(b"\nproduced") == PRODUCERS,
            jobs / 100,
            f"process {number} has produced",
        )
    produced = time.monotonic()
    wait_until_all_final(children.folder, jobs / 100)
    ended = time.monotonic()
    children.stop()
    account = Account(children.folder)
    rows = rows_of(children.folder / "store.sqlite3")
    figure(f"{jobs} jobs: produced in {produced - began:.1f} s, all final after {ended - began:.1f} s")
    assert account.faults(rows) == []
    assert len(account.acks) == len(rows) == jobs
    assert account.repeated == 0
    assert all(len(account.runs[job]) == 1 for job in rows)
    assert {run.process for runs in account.runs.values() for run in runs} == set(children.names)
