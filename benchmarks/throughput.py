"""Rows of jobs per second: in memory, on sqlite, many at once, and draining a backlog.
Knows which runs are compared; ``ours`` and ``peers`` know how each is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from . import ours, peers
from .alone import NotMeasured, Runs, alone, in_turn
from .report import Row, compare, micros, millis, per_second
from .scale import Scale

COMMITS: list[float] = []
"""The results of :func:`commit_now` so far."""


def _run(function: Callable[..., Any], count: int, **more: Any) -> Callable[[], Any]:
    return lambda: alone(function, count=count, **more)


def commit_now() -> float:
    """Seconds that one commit takes in this minute."""
    COMMITS.append(alone(peers.commit_time))
    return COMMITS[-1]


def affordable(number: int, commit: float) -> int:
    """Fewer jobs on a slow disk, so that a run takes seconds there too; only the rate matters."""
    return max(300, int(number * min(1.0, 0.3e-3 / commit)))


def memory(scale: Scale) -> Iterator[Row]:
    count, quick, slow = (scale.count(number) for number in (30_000, 20_000, 6_000))
    runs = in_turn(
        scale.rounds(5),
        {
            "ours": _run(ours.memory, count),
            "pool": _run(peers.thread_pool, count),
            "executor": _run(peers.flask_executor, slow),
            "huey": _run(peers.memory_huey, quick),
            "dramatiq": _run(peers.dramatiq, slow),
        },
    )
    how = (
        f"memory://, 1 producer, 4 workers: {count:,} x `work.enqueue(n, 'text')`, whole life "
        f"cycle and an app context for each job, until `counts()` shows every one completed. "
        f"ThreadPoolExecutor(4) {count:,} x `submit`, no app context; MemoryHuey {quick:,} (consumer "
        f"of 4 threads); Flask-Executor (4 workers) and Dramatiq (StubBroker, Results in StubBackend, 4 "
        f"threads) {slow:,} each; until every result is there."
    )
    for name, beside, target in (
        ("pool", "ThreadPoolExecutor.submit", 1.3),
        ("executor", "Flask-Executor", 8),
        ("huey", "Huey MemoryHuey", 4),
        ("dramatiq", "Dramatiq StubBroker", 4),
    ):
        yield compare(
            "memory, end to end, 1 producer",
            beside,
            runs["ours"],
            runs[name],
            at_least=target,
            run=how,
            show=per_second,
        )


def sqlite_full(scale: Scale) -> Iterator[Row]:
    commit = commit_now()
    count = affordable(scale.count(8_000), commit)
    few = affordable(scale.count(2_000), commit)
    runs = in_turn(
        scale.rounds(5),
        {
            "ours": _run(ours.sqlite, count),
            "floor": _run(peers.bare_commits, count),
            "huey": _run(peers.sqlite_huey, few),
        },
    )
    how = (
        f"sqlite FULL, 1 producer, 4 workers: {count:,} jobs end to end; bare apsw inserting and "
        f"committing {count:,} rows one by one (WAL, FULL) and running nothing; SqliteHuey with its "
        f"defaults, {few:,} jobs. One bare commit took {millis(commit)} in that minute."
    )
    work = f"sqlite FULL, end to end, 1 producer (commit {millis(commit)})"
    for name, beside, target in (("floor", "bare apsw, commits only", 0.6), ("huey", "SqliteHuey", 3)):
        yield compare(work, beside, runs["ours"], runs[name], at_least=target, run=how, show=per_second)


def sqlite_normal(scale: Scale) -> Iterator[Row]:
    count, few = scale.count(10_000), scale.count(6_000)
    runs = in_turn(
        scale.rounds(5),
        {
            "ours": _run(ours.sqlite, count, synchronous="NORMAL"),
            "huey": _run(peers.sqlite_huey, few, fsync=False),
        },
    )
    yield compare(
        "sqlite NORMAL, end to end, 1 producer",
        "SqliteHuey(fsync=False)",
        runs["ours"],
        runs["huey"],
        at_least=4,
        run=f"sqlite NORMAL, 1 producer, 4 workers: {count:,} jobs end to end; SqliteHuey(fsync=False) "
        f"{few:,} jobs.",
        show=per_second,
    )


def sqlite_producers(scale: Scale) -> Iterator[Row]:
    commit = commit_now()
    count, few = affordable(scale.count(8_000), commit), affordable(scale.count(2_000), commit)
    runs = in_turn(
        scale.rounds(5),
        {
            "ours": _run(ours.sqlite, count, producers=8),
            "huey": _run(peers.sqlite_huey, few, producers=8),
        },
    )
    yield compare(
        f"sqlite FULL, end to end, 8 producers (commit {millis(commit)})",
        "SqliteHuey, 8 producers",
        runs["ours"],
        runs["huey"],
        at_least=5,
        run=f"sqlite FULL, 8 producing threads, 4 workers: {count:,} jobs end to end; SqliteHuey with "
        f"its defaults, 8 producing threads, {few:,} jobs.",
        show=per_second,
    )


def many(scale: Scale) -> Iterator[Row]:
    commit = commit_now()
    count, few = scale.count(10_000), affordable(scale.count(3_000), commit)
    runs = in_turn(
        scale.rounds(5),
        {
            "ours": _run(ours.enqueue_many, count),
            "huey": _run(peers.huey_enqueue, few),
            "persist": _run(peers.persist_queue, few),
            "lite": _run(peers.litequeue, few),
        },
    )
    for name, beside in (
        ("huey", "SqliteHuey, one by one"),
        ("persist", "persist-queue SQLiteAckQueue"),
        ("lite", "litequeue"),
    ):
        yield compare(
            f"sqlite FULL, enqueue_many of 10,000, a job (commit {millis(commit)})",
            beside,
            _seconds_each(runs["ours"]),
            _seconds_each(runs[name]),
            at_least=20,
            run=f"sqlite FULL, enqueue alone, nobody runs the jobs: one `work.enqueue_many` of "
            f"{count:,}; SqliteHuey `work(n, 'text')`, `SQLiteAckQueue.put((n, 'text'))` and "
            f"`LiteQueue.put` (its synchronous set to FULL) {few:,} times, one by one, since they "
            f"have no other way.",
            show=micros,
            lower_is_better=True,
        )


def _seconds_each(runs: Runs) -> Runs:
    return runs if isinstance(runs, NotMeasured) else [1 / rate for rate in runs]


def drain(scale: Scale) -> Iterator[Row]:
    commit = commit_now()
    count, few = scale.count(100_000), affordable(scale.count(3_000), commit)
    runs = in_turn(
        scale.rounds(3),
        {"ours": _run(ours.drain, count), "huey": _run(peers.huey_drain, few)},
    )
    yield compare(
        f"sqlite FULL, draining a backlog of 100,000 (commit {millis(commit)})",
        "SqliteHuey",
        runs["ours"],
        runs["huey"],
        at_least=8,
        run=f"sqlite FULL, 4 workers, 3 rounds: {count:,} jobs stored before `delayq.start()`, from "
        f"there until all are completed; SqliteHuey with its defaults, {few:,} jobs stored before its "
        f"consumer starts.",
        show=per_second,
    )
