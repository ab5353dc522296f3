"""What is measured: each subject runs n no-op jobs end to end and returns jobs per second.
Each is run in a process of its own (``python -m benchmarks.subjects NAME N FOLDER``)."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORKERS = 4


def work(number: int, text: str) -> int:
    """The job of every subject: takes ``(int, str)``, returns what is checked afterwards."""
    return number * 2 + len(text)


def _produce(count: int, producers: int, enqueue: Callable[[int], Any]) -> None:
    def run(start: int) -> None:
        for number in range(start, count, producers):
            enqueue(number)

    threads = [threading.Thread(target=run, args=(start,)) for start in range(1, producers)]
    for thread in threads:
        thread.start()
    run(0)
    for thread in threads:
        thread.join()


def _delayq(url: str, count: int, producers: int, **config: Any) -> float:
    from flask import Flask

    from flask_delayq import DelayQ

    app = Flask("bench")
    app.config.update(DELAYQ_URL=url, DELAYQ_WORKERS=WORKERS, DELAYQ_MODE="external", **config)
    delayq = DelayQ(app)
    task = delayq.task(name="work")(work)
    delayq.start()
    task.enqueue(0, "warm").wait(10)
    jobs: list[Any] = [None] * count
    began = time.perf_counter()

    def enqueue(number: int) -> None:
        jobs[number] = task.enqueue(number, "text")

    _produce(count, producers, enqueue)
    while delayq.counts()["completed"] < count + 1:
        time.sleep(0.001)
    rate = count / (time.perf_counter() - began)
    for number in range(0, count, max(1, count // 100)):
        assert jobs[number].refresh().result == work(number, "text")
    delayq.stop()
    return rate


def delayq_memory(count: int, folder: Path) -> float:
    return _delayq("memory://", count, 1, DELAYQ_RETENTION_COUNT=None)


def delayq_sqlite_full(count: int, folder: Path) -> float:
    return _delayq(f"sqlite:///{folder}/jobs.sqlite3", count, 1)


def delayq_sqlite_full_8(count: int, folder: Path) -> float:
    return _delayq(f"sqlite:///{folder}/jobs.sqlite3", count, 8)


def delayq_sqlite_normal(count: int, folder: Path) -> float:
    return _delayq(f"sqlite:///{folder}/jobs.sqlite3", count, 1, DELAYQ_SQLITE_SYNCHRONOUS="NORMAL")


def threadpool(count: int, folder: Path) -> float:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(WORKERS) as pool:
        pool.submit(work, 0, "warm").result()
        began = time.perf_counter()
        futures = [pool.submit(work, number, "text") for number in range(count)]
        for number, future in enumerate(futures):
            assert future.result() == work(number, "text")
        return count / (time.perf_counter() - began)


def flask_executor(count: int, folder: Path) -> float:
    from flask import Flask
    from flask_executor import Executor

    app = Flask("bench")
    app.config["EXECUTOR_MAX_WORKERS"] = WORKERS
    executor = Executor(app)
    with app.test_request_context():
        executor.submit(work, 0, "warm").result()
        began = time.perf_counter()
        futures = [executor.submit(work, number, "text") for number in range(count)]
        for number, future in enumerate(futures):
            assert future.result() == work(number, "text")
        return count / (time.perf_counter() - began)


def _huey(huey: Any, count: int, producers: int = 1) -> float:
    from huey.consumer import Consumer

    task = huey.task()(work)
    consumer = Consumer(huey, workers=WORKERS, periodic=False, worker_type="thread")
    consumer._set_signal_handlers = lambda: None
    thread = threading.Thread(target=consumer.run, daemon=True)
    thread.start()
    task(0, "warm").get(blocking=True, timeout=20)
    results: list[Any] = [None] * count
    began = time.perf_counter()

    def enqueue(number: int) -> None:
        results[number] = task(number, "text")

    _produce(count, producers, enqueue)
    # The reader of the store: done when it holds every result.
    while huey.result_count() < count:
        time.sleep(0.001)
    rate = count / (time.perf_counter() - began)
    for number in range(0, count, max(1, count // 100)):
        assert results[number].get() == work(number, "text")
    consumer.stop(graceful=True)
    return rate


def huey_memory(count: int, folder: Path) -> float:
    from huey import MemoryHuey

    return _huey(MemoryHuey("bench", immediate=False), count)


def huey_sqlite_full(count: int, folder: Path, producers: int = 1) -> float:
    from huey import SqliteHuey

    return _huey(SqliteHuey("bench", filename=str(folder / "huey.db"), fsync=True), count, producers)


def huey_sqlite_full_8(count: int, folder: Path) -> float:
    return huey_sqlite_full(count, folder, 8)


def huey_sqlite_nosync(count: int, folder: Path) -> float:
    from huey import SqliteHuey

    return _huey(SqliteHuey("bench", filename=str(folder / "huey.db"), fsync=False), count)


def apsw_commits(count: int, folder: Path) -> float:
    """The floor: the same row committed singly, and nothing else."""
    import apsw

    connection = apsw.Connection(str(folder / "floor.db"))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "CREATE TABLE job (id TEXT PRIMARY KEY, task TEXT, queue TEXT, priority INT, run_at REAL,"
        " body BLOB) WITHOUT ROWID"
    )
    began = time.perf_counter()
    for number in range(count):
        connection.execute("BEGIN IMMEDIATE")
        row = (f"{number:028x}", "work", "default", 1, time.time(), b'{"number":1,"text":"text"}')
        connection.execute("INSERT INTO job VALUES (?, ?, ?, ?, ?, ?)", row)
        connection.execute("COMMIT")
    return count / (time.perf_counter() - began)


SUBJECTS: dict[str, Callable[[int, Path], float]] = {
    name: value
    for name, value in globals().items()
    if name.startswith(("delayq_", "threadpool", "flask_executor", "huey_", "apsw_"))
}


if __name__ == "__main__":
    name, number, folder = sys.argv[1:]
    sys.stdout.write(json.dumps(SUBJECTS[name](int(number), Path(folder))) + "\n")
