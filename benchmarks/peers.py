"""The same work done by others: thread pools, Dramatiq, Huey, plain queues, and bare apsw as the floor.
Every function returns jobs per second. It imports its peer itself, so a peer may be missing."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from .ours import WORKERS, produce, until, work


def thread_pool(folder: Path, count: int) -> float:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(WORKERS) as pool:
        pool.submit(work, 0, "warm").result()
        began = time.perf_counter()
        futures = [pool.submit(work, number, "text") for number in range(count)]
        for number, future in enumerate(futures):
            assert future.result() == work(number, "text")
        return count / (time.perf_counter() - began)


def flask_executor(folder: Path, count: int) -> float:
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


def dramatiq(folder: Path, count: int) -> float:
    """``StubBroker`` with its default middleware, and results in ``StubBackend``."""
    import dramatiq as library
    from dramatiq.brokers.stub import StubBroker
    from dramatiq.results import Results
    from dramatiq.results.backends import StubBackend

    broker, results = StubBroker(), StubBackend()
    broker.add_middleware(Results(backend=results))
    library.set_broker(broker)
    actor = library.actor(store_results=True)(work)
    worker = library.Worker(broker, worker_threads=WORKERS)
    worker.start()
    actor.send(0, "warm").get_result(backend=results, block=True)
    began = time.perf_counter()
    messages = [actor.send(number, "text") for number in range(count)]
    broker.join(actor.queue_name)
    until(lambda: len(results.results) >= count + 1)
    rate = count / (time.perf_counter() - began)
    for number in range(0, count, max(1, count // 100)):
        assert messages[number].get_result(backend=results) == work(number, "text")
    return rate


# --- Huey ----------------------------------------------------------------------------------------


def start_huey(huey: Any) -> Any:
    """A consumer with four worker threads in this process, otherwise with Huey's defaults."""
    from huey.consumer import Consumer

    consumer = Consumer(huey, workers=WORKERS, worker_type="thread")
    consumer._set_signal_handlers = lambda: None  # they need the main thread
    threading.Thread(target=consumer.run, daemon=True).start()
    return consumer


def _huey(huey: Any, count: int, producers: int = 1) -> float:
    task = huey.task()(work)
    consumer = start_huey(huey)
    task(0, "warm").get(blocking=True, timeout=20)
    results: list[Any] = [None] * count
    began = time.perf_counter()

    def enqueue(number: int) -> None:
        results[number] = task(number, "text")

    produce(count, producers, enqueue)
    _await_results(huey, results)
    rate = count / (time.perf_counter() - began)
    _check(results)
    consumer.stop()
    return rate


def _await_results(huey: Any, results: list[Any]) -> None:
    # As in `ours`: wait for the last job first, then for every result in the store.
    until(lambda: bool(huey.storage.has_data_for_key(results[-1].id)))
    until(lambda: bool(huey.result_count() >= len(results)))


def _check(results: list[Any]) -> None:
    for number in range(0, len(results), max(1, len(results) // 100)):
        assert results[number].get() == work(number, "text")


def memory_huey(folder: Path, count: int) -> float:
    from huey import MemoryHuey

    return _huey(MemoryHuey("bench", immediate=False), count)


def sqlite_huey(folder: Path, count: int, fsync: bool | None = None, producers: int = 1) -> float:
    """:param fsync: ``None`` is Huey's default, which is SQLite's: a flush at every commit."""
    return _huey(make_sqlite_huey(folder, fsync), count, producers)


def make_sqlite_huey(folder: Path, fsync: bool | None = None) -> Any:
    from huey import SqliteHuey

    return SqliteHuey("bench", filename=str(folder / "huey.db"), fsync=fsync)


def huey_enqueue(folder: Path, count: int) -> float:
    """Only enqueue, one by one: Huey has no bulk call."""
    task = make_sqlite_huey(folder).task()(work)
    task(0, "warm")
    began = time.perf_counter()
    for number in range(count):
        task(number, "text")
    return count / (time.perf_counter() - began)


def huey_drain(folder: Path, count: int) -> float:
    huey = make_sqlite_huey(folder)
    task = huey.task()(work)
    results = [task(number, "text") for number in range(count)]
    began = time.perf_counter()
    consumer = start_huey(huey)
    _await_results(huey, results)
    rate = count / (time.perf_counter() - began)
    _check(results)
    consumer.stop()
    return rate


# --- plain queues --------------------------------------------------------------------------------


def persist_queue(folder: Path, count: int) -> float:
    """``SQLiteAckQueue.put``, one by one; ``synchronous`` is SQLite's default, ``FULL``."""
    from persistqueue import SQLiteAckQueue

    queue = SQLiteAckQueue(str(folder), multithreading=True)
    queue.put((0, "warm"))
    began = time.perf_counter()
    for number in range(count):
        queue.put((number, "text"))
    rate = count / (time.perf_counter() - began)
    assert queue.size == count + 1
    return rate


def litequeue(folder: Path, count: int) -> float:
    """``LiteQueue.put``, one by one; ``synchronous`` is ``FULL`` instead of its ``NORMAL``."""
    from litequeue import LiteQueue

    queue = LiteQueue(str(folder / "lite.db"))
    queue.conn.execute("PRAGMA synchronous = FULL")
    queue.put('[0, "warm"]')
    began = time.perf_counter()
    for number in range(count):
        queue.put(f'[{number}, "text"]')
    rate = count / (time.perf_counter() - began)
    assert queue.qsize() == count + 1
    return rate


# --- the floor -----------------------------------------------------------------------------------


def bare_commits(folder: Path, count: int) -> float:
    """apsw commits one job's row per transaction (WAL, ``FULL``), and does nothing else."""
    connection = _bare(folder)
    began = time.perf_counter()
    for number in range(count):
        _commit(connection, number)
    return count / (time.perf_counter() - began)


def commit_time(folder: Path, seconds: float = 0.4) -> float:
    """The mean seconds of one such commit at this moment."""
    connection = _bare(folder)
    for number in range(20):
        _commit(connection, number)
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        number += 1
        _commit(connection, number)
    return (time.perf_counter() - began) / (number - 19)


def _bare(folder: Path) -> Any:
    import apsw

    connection = apsw.Connection(str(folder / "floor.db"))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "CREATE TABLE job (id TEXT PRIMARY KEY, task TEXT, queue TEXT, priority INT, run_at REAL,"
        " body BLOB) WITHOUT ROWID"
    )
    return connection


def _commit(connection: Any, number: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    row = (f"{number:028x}", "work", "default", 1, time.time(), b'{"number":1,"text":"text"}')
    connection.execute("INSERT INTO job VALUES (?, ?, ?, ?, ?, ?)", row)
    connection.execute("COMMIT")
