"""Jobs that end their process: the job is charged for it, its neighbours are not.

What ran is known from the notes of the processes (`accounting.py`).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from acceptance.accounting import COMPLETED, FAILED, Account, Row, Run, rows_of
from acceptance.conftest import Figure
from acceptance.nursery import Nursery
from acceptance.stores import config, opened, producing, unfinished, wait_until_all_final
from flask_delayq import DelayQ
from pace import quiet_seconds
from waiting import wait_until

MAX_RESCUES = 3


def error_of(delayq: DelayQ, job_id: str) -> str:
    return str(delayq.get(job_id).error)


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    return config(folder, DELAYQ_MAX_RESCUES=MAX_RESCUES, **more)


def lateness(run: Run, due: float) -> float:
    """The seconds of a quiet machine from the moment at which a job was due to its run."""
    return quiet_seconds(run.began - (run.wall - due), run.began)


def keep_running(children: Nursery, processes: int) -> None:
    """Run everything in so many processes, each replaced when it ends, until all jobs are final."""

    def turn(backend: Any) -> bool:
        for _ in range(processes - len(children.living())):
            children.start(f"worker-{len(children.names)}", config=settings(children.folder), run=True)
        return unfinished(backend) == 0

    with opened(children.folder) as backend:
        wait_until(lambda: turn(backend), 30, "every job is final")
    children.stop()


@pytest.mark.parametrize("how", ["exit", "abort", "segfault"])
def test_a_job_that_ends_its_process_fails_and_its_neighbours_do_not(
    children: Nursery, how: str
) -> None:
    with producing(children.folder) as delayq:
        work, crash = delayq.tasks.get("work"), delayq.tasks.get("crash")
        good = [job.id for job in work.enqueue_many([(0.01,)] * 15)]
        pill = crash.enqueue(how).id
        good += [job.id for job in work.enqueue_many([(0.01,)] * 15)]
        keep_running(children, processes=2)
        assert f"crashed the worker {MAX_RESCUES + 1} times" in error_of(delayq, pill)
        later = work.enqueue().id
        keep_running(children, processes=1)
    account = Account(children.folder)
    rows = rows_of(children.folder / "store.sqlite3")
    assert account.faults(rows) == []
    assert (rows[pill].state, rows[pill].rescues) == (FAILED, MAX_RESCUES + 1)
    assert len(account.runs[pill]) == len(account.deaths) == MAX_RESCUES + 1
    assert {rows[job].state for job in [*good, later]} == {COMPLETED}
    # Those that ran beside it are charged until it is suspected, and never so often that they fail.
    assert max(rows[job].rescues for job in good) <= 2


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_no_neighbour_of_many_poison_jobs_fails(children: Nursery, figure: Figure) -> None:
    """One after the other, each among jobs of its own."""
    pills, good = [], []
    with producing(children.folder) as delayq:
        work, crash = delayq.tasks.get("work"), delayq.tasks.get("crash")
        for how in ["exit", "abort", "segfault", "kill"] * 10:
            good += [job.id for job in work.enqueue_many([(0.01,)] * 15)]
            pills.append(crash.enqueue(how).id)
            good += [job.id for job in work.enqueue_many([(0.01,)] * 15)]
            keep_running(children, processes=2)
    account = Account(children.folder)
    rows = rows_of(children.folder / "store.sqlite3")
    assert account.faults(rows) == []
    assert {(rows[pill].state, rows[pill].rescues) for pill in pills} == {(FAILED, MAX_RESCUES + 1)}
    assert {rows[job].state for job in good} == {COMPLETED}
    charged = Counter(rows[job].rescues for job in good)
    figure(f"{len(good)} jobs beside {len(pills)} that crash: charges {sorted(charged.items())}")
    assert max(charged) <= 2


def test_a_job_that_must_not_be_repeated_fails_with_its_process(children: Nursery) -> None:
    with producing(children.folder) as delayq:
        crash = delayq.tasks.get("crash_once").enqueue("kill").id
        good = [job.id for job in delayq.tasks.get("work").enqueue_many([()] * 10)]
        keep_running(children, processes=1)
        assert "has on_crash='fail'" in error_of(delayq, crash)
    account = Account(children.folder)
    rows = rows_of(children.folder / "store.sqlite3")
    assert account.faults(rows) == []
    assert len(account.runs[crash]) == 1
    assert rows[crash].state == FAILED
    assert {rows[job].state for job in good} == {COMPLETED}


@pytest.mark.parametrize("waits", [True, False], ids=["seen by another", "seen by nobody"])
def test_delayed_jobs_of_a_killed_process_run_elsewhere_in_time(
    children: Nursery, figure: Figure, waits: bool
) -> None:
    """The process that holds them in its wheel is killed; another one waits, or begins only then."""
    folder = children.folder
    if waits:
        children.start("waits", config=config(folder), run=True)
    # So far ahead that the other process is not told of them.
    plan = {"threads": 2, "each": 50, "seed": 1, "least": 1.6, "most": 2.6}
    children.start("dies", config=config(folder), run=True, produce=plan)
    wait_until(lambda: len(Account(folder).noted("produced")) == 2, 15, "both have produced")
    children.kill("dies")
    assert not Account(folder).runs
    if not waits:
        children.start("waits", config=config(folder), run=True)
    wait_until_all_final(folder, 15)
    children.stop()
    account = Account(folder, children.deaths)
    rows = rows_of(folder / "store.sqlite3")
    assert account.faults(rows) == []
    assert len(account.acks) == len(rows) >= 100
    late = sorted(lateness(account.runs[job][0], ack.run_at) for job, ack in account.acks.items())
    figure(f"late: median {late[len(late) // 2] * 1e3:.1f} ms, worst {late[-1] * 1e3:.1f} ms")
    assert late[len(late) // 2] < 0.25
    assert late[-1] < 1.5


def test_states_are_told_apart(tmp_path: Path) -> None:
    """The account finds each kind of fault, so that its silence means something."""
    notes = tmp_path / "a.notes"
    rows = {"j": Row(COMPLETED, 1, 0, 10.0, "work")}

    def faults(*lines: str, deaths: dict[str, float] | None = None, **row: Any) -> list[str]:
        notes.write_text("".join(line.replace(" ", "\t") + "\n" for line in lines))
        return Account(tmp_path, deaths).faults({"j": rows["j"]._replace(**row)} if row else rows)

    ack, begin, end = "ack 5 5 j 10.0 0", "begin 6 10.5 j 1 1", "end 7 11.5 j 1 1"
    assert faults(ack, begin, end) == []
    assert faults("ack 5 5 other 1 0", ack, begin, end) == ["other: acknowledged and lost"]
    assert "stuck as running" in faults(ack, begin, state=1)[0]
    assert "ended as failed" in faults(ack, begin, end, state=FAILED)[0]
    assert "not run to its end" in faults(ack)[0]
    assert "not run to its end" in faults(ack, begin)[0]
    assert "before it was due" in faults(ack, "begin 6 9.9 j 1 1", end)[0]
    again = ("begin 8 12 j 1 2", "end 9 13 j 1 2")
    assert any("was not killed" in one for one in faults(ack, begin, end, *again, rescues=1))
    assert faults(ack, begin, end, *again, deaths={"a": 7.5}, rescues=1) == []
    assert any("rescues" in one for one in faults(ack, begin, end, *again, deaths={"a": 7.5}))
    assert any(
        "after its end" in one for one in faults(ack, begin, end, *again, deaths={"a": 9.5}, rescues=1)
    )
    overlapping = ("begin 6.5 11 j 1 2", "end 9 13 j 1 2")
    assert any(
        "same time" in one for one in faults(ack, begin, end, *overlapping, deaths={"a": 7.5}, rescues=1)
    )
    assert any("never ended" in one for one in faults(ack, begin, *again, rescues=1))
    assert any("error reached" in one for one in faults(ack, begin, end, "trouble 1 1 locked"))
