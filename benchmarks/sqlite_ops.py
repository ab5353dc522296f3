"""What one operation of the sqlite backend costs, next to bare apsw storing the same rows.

It must not use the runtime. `python -m benchmarks.sqlite_ops [folder]`: the folder decides the disk.
All shapes run in turn, several rounds each; the best round counts, since only it was undisturbed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import apsw

from flask_delayq.backends.sqlite import SQLiteBackend
from flask_delayq.backends.sqlite.connection import Sql
from flask_delayq.backends.sqlite.enqueueing import _INSERT_BODY, _INSERT_JOB, _as_waiting
from flask_delayq.clock import SystemClock
from flask_delayq.ids import new_id
from flask_delayq.job import ClaimFor, NewJob, Outcome, Verb

ROUNDS = 4
PAYLOAD = b'{"to":"someone@example.org","subject":"hello","body":"' + b"x" * 60 + b'"}'

Shape = Callable[[], tuple[int, float]]
"""Runs once; returns how many jobs it handled and the seconds that took."""


def jobs(count: int, run_at: float) -> list[NewJob]:
    now = time.time()
    return [NewJob(new_id(), "send", "default", 1, run_at, now, PAYLOAD) for _ in range(count)]


class Bench:
    """The shapes, each on a store of its own that lives through all rounds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backends: dict[str, SQLiteBackend] = {}

    def backend(self, name: str, mode: str = "FULL") -> SQLiteBackend:
        if name not in self.backends:
            path = self.folder / f"{name}.sqlite3"
            self.backends[name] = SQLiteBackend(
                f"sqlite:///{path}", clock=SystemClock(), synchronous=mode
            )
            self.backends[name].health()
        return self.backends[name]

    def close(self) -> None:
        for backend in self.backends.values():
            backend.close()

    def bare(self, mode: str, count: int, batch: int) -> tuple[int, float]:
        """The same two inserts and the same transaction, without anything around them."""
        name = f"bare-{mode}-{batch}"
        self.backend(name).maintain()
        sql = Sql(str(self.folder / f"{name}.sqlite3"), deadline=time.monotonic() + 60)
        sql.rows(f"PRAGMA synchronous = {mode}")
        cursor: apsw.Cursor = sql.connection.cursor()
        new = jobs(count, time.time() + 9999)
        begin = time.perf_counter()
        for start in range(0, count, batch):
            part = new[start : start + batch]
            cursor.execute("BEGIN IMMEDIATE")
            cursor.executemany(_INSERT_JOB, [_as_waiting(job) for job in part])
            cursor.executemany(_INSERT_BODY, [(job.id, job.payload) for job in part])
            cursor.execute("COMMIT")
        seconds = time.perf_counter() - begin
        sql.close()
        return count, seconds

    def enqueue(
        self, mode: str, count: int, batch: int = 1, *, claimed: bool = False
    ) -> tuple[int, float]:
        backend = self.backend(f"ours-{mode}-{batch}-{claimed}", mode)
        backend.maintain()
        wish = ClaimFor("me", 60.0, batch) if claimed else None
        new = jobs(count, 0.0 if claimed else time.time() + 9999)
        begin = time.perf_counter()
        for start in range(0, count, batch):
            now = time.time()
            backend.enqueue(new[start : start + batch], now=now, timeout=5, claim_for=wish)
        return count, time.perf_counter() - begin

    def threads(self, mode: str, count: int, threads: int = 8) -> tuple[int, float]:
        backend = self.backend(f"threads-{mode}", mode)
        backend.maintain()
        parts = [jobs(count // threads, time.time() + 9999) for _ in range(threads)]
        ready = threading.Barrier(threads + 1)

        def produce(part: list[NewJob]) -> None:
            ready.wait()
            for job in part:
                backend.enqueue([job], now=0.0, timeout=5)

        workers = [threading.Thread(target=produce, args=(part,)) for part in parts]
        for worker in workers:
            worker.start()
        ready.wait()
        begin = time.perf_counter()
        for worker in workers:
            worker.join()
        return count, time.perf_counter() - begin

    def claim(self, count: int, *, waiting: int, record: bool) -> tuple[int, float]:
        backend = self.backend(f"claim-{record}")
        backend.maintain()
        backend.enqueue(jobs(waiting, time.time() - 1), now=0.0, timeout=5)
        spent = 0.0
        for _ in range(0, waiting, count):
            begin = time.perf_counter()
            claims = backend.claim(None, now=time.time(), limit=count, owner="me", lease=60)
            claimed = time.perf_counter()
            at = time.time()
            outcomes = [Outcome(claim, Verb.COMPLETE, at, result=b"1") for claim in claims]
            before = time.perf_counter()
            backend.record(outcomes, now=at)
            spent += time.perf_counter() - before if record else claimed - begin
        return waiting, spent


def shapes(bench: Bench) -> dict[str, Shape]:
    table: dict[str, Shape] = {}
    for mode in ("NORMAL", "FULL"):
        table |= {
            f"bare apsw, one a commit, {mode}": lambda m=mode: bench.bare(m, 1000, 1),
            f"enqueue, one, {mode}": lambda m=mode: bench.enqueue(m, 1000),
            f"enqueue and claim, one, {mode}": lambda m=mode: bench.enqueue(m, 1000, claimed=True),
            f"enqueue, 8 threads, {mode}": lambda m=mode: bench.threads(m, 2000),
        }
    return table | {
        "bare apsw, 500 a commit, FULL": lambda: bench.bare("FULL", 5000, 500),
        "enqueue, 500 a call, FULL": lambda: bench.enqueue("FULL", 5000, 500),
        "claim 1": lambda: bench.claim(1, waiting=500, record=False),
        "claim 100 a call": lambda: bench.claim(100, waiting=3000, record=False),
        "record 100 a call, FULL": lambda: bench.claim(100, waiting=3000, record=True),
    }


def main() -> None:
    folder = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=folder) as made:
        bench = Bench(Path(made))
        table = shapes(bench)
        rounds = {name: [shape() for _ in range(1)] for name, shape in table.items()}
        for _ in range(ROUNDS - 1):
            for name, shape in table.items():
                rounds[name].append(shape())
        bench.close()
    print(f"SQLite {apsw.sqlite_lib_version()}, apsw {apsw.apsw_version()}, {os.cpu_count()} cores")
    print(f"{'us a job':>10}  {'jobs/s':>8}   (best of {ROUNDS} rounds in turn; median)")
    for name, runs in rounds.items():
        costs = sorted(seconds / count * 1e6 for count, seconds in runs)
        print(f"{costs[0]:10.1f}  {1e6 / costs[0]:8,.0f}   {name}   ({costs[len(costs) // 2]:.1f})")


if __name__ == "__main__":
    main()
