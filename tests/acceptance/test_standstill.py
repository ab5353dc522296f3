"""Processes or the store stand still under load, for three leases; and storms of orderly stops.

What ran is known from the notes of the processes (`accounting.py`), not from the store. The trials take
minutes, so they run with `make stress` only.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from acceptance.accounting import COMPLETED, Account, Row, rows_of
from acceptance.conftest import Figure
from acceptance.nursery import Nursery
from acceptance.stores import config, producing, wait_until_all_final
from waiting import wait_until

pytestmark = [pytest.mark.stress, pytest.mark.timeout(900)]

LEASE = 3.0
STILL = 3 * LEASE
ROUNDS = 3
WORKERS = 2

Still = Callable[[Nursery, Path], "contextlib.AbstractContextManager[None]"]


def for_a_while(seconds: float) -> None:
    """The load, or the trouble, itself lasts so long."""
    threading.Event().wait(seconds)


def under_load(children: Nursery, folder: Path) -> None:
    """Three processes that run jobs, one of which enqueues as well, and one that enqueues only."""
    settings = config(
        folder, DELAYQ_LEASE=LEASE, DELAYQ_WORKERS=WORKERS, DELAYQ_ENQUEUE_TIMEOUT=4 * STILL
    )
    for number, (run, produce) in enumerate([(True, False), (True, False), (True, True), (False, True)]):
        plan = {"threads": 2, "pause": 0.01, "seed": number} if produce else None
        children.start(f"process-{number}", config=settings, run=run, produce=plan)


def end_of(children: Nursery, folder: Path) -> tuple[Account, dict[str, Row]]:
    """Stop producing, let everything run, stop; what happened."""
    children.stop("process-3", timeout=60)
    children.stop("process-2", timeout=60)
    wait_until_all_final(folder, 60)
    children.stop()
    return Account(children.folder, children.deaths), rows_of(folder / "store.sqlite3")


def told(figure: Figure, what: str, account: Account, rows: dict[str, Row]) -> None:
    rescues = sorted(Counter(row.rescues for row in rows.values()).items())
    figure(
        f"{what}, {ROUNDS} x {STILL:g} s at a lease of {LEASE:g} s: {len(account.acks)} jobs"
        f" acknowledged, {sum(map(len, account.runs.values()))} runs, {account.repeated} repeated,"
        f" rescues {rescues}"
    )


@contextlib.contextmanager
def frozen(children: Nursery, folder: Path) -> Iterator[None]:
    """Every process, as when a host is suspended."""
    for name in children.names:
        children.send(name, signal.SIGSTOP)
    yield
    for name in children.names:
        children.send(name, signal.SIGCONT)


@contextlib.contextmanager
def locked(children: Nursery, folder: Path) -> Iterator[None]:
    """Somebody else holds the write lock, as a backup might."""
    with contextlib.closing(apsw.Connection(str(folder / "store.sqlite3"))) as guest:
        guest.set_busy_timeout(10_000)
        guest.execute("BEGIN IMMEDIATE")
        yield
        guest.execute("ROLLBACK")


@contextlib.contextmanager
def full(children: Nursery, folder: Path) -> Iterator[None]:
    """Nothing more fits on the disk of the store."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    yield
    filler.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 MB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("trouble", [frozen, locked], ids=["all frozen", "locked"])
def test_a_standstill_of_all_costs_no_second_run(
    children: Nursery, figure: Figure, trouble: Still, request: pytest.FixtureRequest
) -> None:
    folder = children.folder
    under_load(children, folder)
    for _ in range(ROUNDS):
        for_a_while(2)
        with trouble(children, folder):
            for_a_while(STILL)
    account, rows = end_of(children, folder)
    told(figure, request.node.callspec.id, account, rows)
    assert account.faults(rows) == []
    assert account.repeated == 0
    assert {row.rescues for row in rows.values()} == {0}


def test_a_disk_that_is_full_costs_no_second_run(
    children: Nursery, figure: Figure, small_disk: Path
) -> None:
    under_load(children, small_disk)
    for _ in range(ROUNDS):
        for_a_while(2)
        with full(children, small_disk):
            for_a_while(STILL)
    account, rows = end_of(children, small_disk)
    refused = [words[2] for words in account.noted("trouble")]
    told(figure, f"full ({len(refused)} calls of enqueue refused)", account, rows)
    assert refused, "the disk was never full"
    assert [fault for fault in account.faults(rows) if "an error reached a caller" not in fault] == []
    # On a busy machine a commit may be under way at the end of a caller's time, which is uncertain.
    kinds = {text.partition("(")[0] for text in refused}
    assert "BackendUnavailableError" in kinds
    assert kinds <= {"BackendUnavailableError", "EnqueueUncertainError"}
    assert account.repeated == 0
    assert {row.rescues for row in rows.values()} == {0}


def test_one_that_stands_still_costs_no_more_than_what_it_runs(
    children: Nursery, figure: Figure
) -> None:
    """Nobody can tell it from a dead one: what it had begun, and whose end is not stored, runs again
    elsewhere, and nothing else."""
    folder = children.folder
    under_load(children, folder)
    under_way: set[str] = set()
    for _ in range(ROUNDS):
        for_a_while(2)
        wait_until(lambda: stopped_between_writes(children, folder, "process-0"), 20, "it stands still")
        under_way |= held_by(folder, children.pid("process-0")) & set(
            Account(folder, only="process-0").runs
        )
        for_a_while(STILL)
        children.send("process-0", signal.SIGCONT)
    account, rows = end_of(children, folder)
    told(figure, f"one frozen with {len(under_way)} runs without a stored end", account, rows)
    again = {job for job, runs in account.runs.items() if len({r.attempt for r in runs}) < len(runs)}
    assert again <= under_way
    assert {job for job, row in rows.items() if row.rescues} <= under_way
    assert [fault for fault in account.faults(rows) if fault.partition(":")[0] not in under_way] == []


def held_by(folder: Path, pid: int) -> set[str]:
    """The jobs that the store has as running in a process."""
    query = "SELECT id FROM job WHERE state = 1 AND owner = (SELECT owner FROM process WHERE pid = ?)"
    with contextlib.closing(apsw.Connection(str(folder / "store.sqlite3"))) as guest:
        return {row[0] for row in guest.execute(query, (pid,))}


def stopped_between_writes(children: Nursery, folder: Path, name: str) -> bool:
    """Stop a process; not in the middle of a write, where it would hold up every other one."""
    children.send(name, signal.SIGSTOP)
    with contextlib.closing(apsw.Connection(str(folder / "store.sqlite3"))) as guest:
        guest.set_busy_timeout(1000)
        try:
            guest.execute("BEGIN IMMEDIATE")
            guest.execute("ROLLBACK")
        except apsw.BusyError:
            children.send(name, signal.SIGCONT)
            return False
    return True


STOPS = 60
SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.randrange(1, 10**6)


def test_a_storm_of_orderly_stops_fails_nothing_and_runs_nothing_twice(
    children: Nursery, figure: Figure
) -> None:
    """SIGTERM again and again to processes that run jobs which must not be repeated."""
    folder, chance, made = children.folder, random.Random(SEED), 0

    def another() -> str:
        nonlocal made
        made += 1
        return children.start(f"process-{made}", config=config(folder), run=True)

    longest = 0.0
    with producing(folder) as delayq:
        once = delayq.tasks.get("once")
        alive = [another() for _ in range(3)]
        for _ in range(STOPS):
            once.enqueue_many([(chance.choice((0.0, 0.001, 0.02)),) for _ in range(300)])
            for_a_while(chance.uniform(0.0, 0.4))
            name = alive.pop(chance.randrange(3))
            asked = time.monotonic()
            children.stop(name, timeout=60)
            longest = max(longest, time.monotonic() - asked)
            alive.append(another())
        wait_until_all_final(folder, 120)
    children.stop()
    account, rows = Account(folder), rows_of(folder / "store.sqlite3")
    states = Counter(row.state for row in rows.values())
    figure(
        f"CHAOS_SEED={SEED}: {STOPS} x SIGTERM among {len(rows)} jobs that must not be repeated:"
        f" {states[COMPLETED]} completed, {len(rows) - states[COMPLETED]} not,"
        f" {account.repeated} repeated, longest stop {longest:.2f} s"
    )
    assert account.faults(rows) == []
    assert states == {COMPLETED: STOPS * 300}
    assert account.repeated == 0
    assert {row.rescues for row in rows.values()} == {0}
