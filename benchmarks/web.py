"""Rows that need a web server: the cost of a view that enqueues, and of running jobs for other views.
gunicorn serves with one worker of four threads; the client is another process."""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Thread

from . import ours
from .alone import NotMeasured, Runs, alone, in_turn
from .report import Row, compare, millis, not_measured, per_second
from .scale import Scale
from .servers import ask, gunicorn, redis, running, wrk
from .store_file import multiply

# --- a view that enqueues ------------------------------------------------------------------------


def posts(folder: Path, kind: str, seconds: float, worker: bool = False) -> float:
    """Requests per second of a view that enqueues one job; every request must have stored its job.

    :param worker: for RQ: whether an ``rq worker`` runs the jobs meanwhile.
    """
    with ExitStack() as stack:
        environment = {"DELAYQ_BENCH_URL": ours.url_of(folder / "jobs.sqlite3")}
        if kind == "rq":
            port = stack.enter_context(redis(folder))
            environment["DELAYQ_BENCH_REDIS"] = str(port)
            command = [sys.executable, "-m", "rq.cli", "worker", "--url", f"redis://127.0.0.1:{port}"]
            if worker:
                stack.enter_context(running([*command, "--quiet"], folder))
        at = stack.enter_context(gunicorn(folder, kind, **environment))
        wrk(folder, at, 1)  # warm-up
        before = int(ask(at, "/stored"))
        rate = wrk(folder, at, seconds)
        if kind != "nothing":
            ours.until(lambda: int(ask(at, "/stored")) - before >= rate * seconds * 0.95, pause=0.1)
        return rate


def enqueueing(scale: Scale) -> Iterator[Row]:
    seconds = scale.seconds(3)
    subjects = {
        "ours": {"kind": "delayq"},
        "rq": {"kind": "rq", "worker": True},
        "rq alone": {"kind": "rq"},
        "executor": {"kind": "flask_executor"},
        "nothing": {"kind": "nothing"},
    }
    runs = in_turn(
        scale.rounds(3),
        {
            name: lambda more=more: alone(posts, seconds=seconds, **more)
            for name, more in subjects.items()
        },
    )
    how = (
        f"gunicorn -w 1 --threads 4, `POST /` enqueues `work(1, 'text')` and answers; wrk -t1 -c8 for "
        f"{seconds:g} s after one to warm up, 3 rounds. Ours: sqlite FULL, the same process runs the "
        f"jobs with 4 workers. RQ: redis-server at its defaults (in memory, nothing is flushed at a "
        f"commit), with one `rq worker` that runs the jobs, and once more with nobody to run them. "
        f"Flask-Executor: 4 workers, in memory."
    )
    for name, beside, target in (
        ("rq", "RQ, redis-server, rq worker", 2),
        ("rq alone", "RQ, nobody runs the jobs", None),
        ("executor", "Flask-Executor", None),
        ("nothing", "the view doing nothing", None),
    ):
        yield compare(
            "a POST view that enqueues one job, requests",
            beside,
            runs["ours"],
            runs[name],
            at_least=target,
            run=how,
            show=per_second,
        )


# --- requests while jobs run ---------------------------------------------------------------------

ASKERS = 4
RATE = 200.0
"""Requests per second, of all clients together."""
IDLE_WINDOW = 2.0


class Asking:
    """Requests ``/`` at a constant rate from some threads. Each time counts from the moment when the
    request was planned, so that a server that stands still cannot hide it (coordinated omission)."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.end = float("inf")
        self.taken: list[tuple[float, float]] = []
        """When each request was planned, and the seconds until its answer."""
        self._threads = [Thread(target=self._ask, args=(n,), daemon=True) for n in range(ASKERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self.end = time.time()
        for thread in self._threads:
            thread.join(20)

    def percentiles(self, begin: float, end: float) -> list[float]:
        """The median and the 99th percentile of the requests planned within a window."""
        taken = sorted(seconds for at, seconds in self.taken if begin <= at < end)
        if len(taken) < 20:
            raise NotMeasured("too few requests were answered")
        return [median(taken), taken[len(taken) * 99 // 100]]

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        pause = ASKERS / RATE
        at = time.time() + number * pause / ASKERS
        while at < self.end:
            time.sleep(max(0.0, at - time.time()))
            try:
                connection.request("GET", "/")
                connection.getresponse().read()
            except (http.client.HTTPException, OSError):
                connection.close()  # the server closed it between requests: repeat, it counts as late
                continue
            self.taken.append((at, time.time() - at))
            at += pause
        connection.close()


def while_due(
    folder: Path, path: str, due: float, jobs: int, window: float, environment: dict[str, str]
) -> dict[str, list[float]]:
    """Request pages of an app in whose store many jobs are due at one moment, before and after it."""
    with gunicorn(folder, "delayq", DELAYQ_BENCH_URL=ours.url_of(Path(path)), **environment) as port:
        asking = Asking(port)
        asking.start()
        if time.time() > due - IDLE_WINDOW:
            raise NotMeasured("the jobs were due before the server was ready")
        time.sleep(due - time.time())
        # A separate reader in this process: requests to the server would be a load.
        _app, delayq, _ = ours.make(ours.url_of(Path(path)))
        end = due + window
        left = jobs
        while left and time.time() < end:
            time.sleep(0.25)
            counts = delayq.counts()
            left = counts["ready"] + counts["scheduled"]
        end = time.time()
        asking.stop()
        return {
            "idle": asking.percentiles(due - IDLE_WINDOW, due - 0.05),
            "busy": asking.percentiles(due, end),
            "rate": [(jobs - left) / (end - due)],
        }


def _due_at_once(jobs: int, window: float, environment: dict[str, str]) -> dict[str, list[float]]:
    """Use a new store for each run, filled before the server starts."""
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="delayq-bench-"))
        path = str(Path(folder, "jobs.sqlite3"))
        like = alone(ours.store_one, path=path, delay=3600)
        due = time.time() + 3.0 + IDLE_WINDOW + jobs / 100_000
        alone(multiply, path=path, like=like, count=jobs, due=due)
        more = {"jobs": jobs, "window": window, "environment": environment}
        figures: dict[str, list[float]] = alone(while_due, path=path, due=due, **more)
        return figures


def meanwhile(scale: Scale) -> Iterator[Row]:
    jobs, window = scale.count(100_000), scale.seconds(4)
    settings = {
        "as set up": {},
        "DELAYQ_WORKERS=1": {"DELAYQ_BENCH_WORKERS": "1"},
        "sys.setswitchinterval(0.0005)": {"DELAYQ_BENCH_SWITCH_INTERVAL": "0.0005"},
    }
    runs = in_turn(
        scale.rounds(3),
        {
            name: lambda environment=environment: _due_at_once(jobs, window, environment)
            for name, environment in settings.items()
        },
    )
    how = (
        f"gunicorn -w 1 --threads 4 with 4 workers in the same process (sqlite FULL); another process "
        f"asks for `GET /`, a view that does nothing, {RATE:g} times a second over {ASKERS} "
        f"connections, each answer counted from the moment at which it should have been asked. "
        f"{jobs:,} no-op jobs come due in one moment; p99 of the {IDLE_WINDOW:g} s before (peer) and "
        f"of the {window:g} s after it, or until all are run (ours). 3 rounds. "
    )
    how += "; ".join(_in_words(name, given) for name, given in runs.items()) + "."
    yield _one(f"web request p99, {jobs:,} jobs due in the same second", runs["as set up"], how)
    for name, given in runs.items():
        yield _one(f"web p99 while workers run no-op jobs, {name}", given, how)


def _one(work: str, runs: Runs, how: str) -> Row:
    if isinstance(runs, NotMeasured):
        return not_measured(work, "the same, idle", "stated", runs, how)
    idle, busy = (median(run[name][1] for run in runs) for name in ("idle", "busy"))
    outcome = f"{busy / idle:.1f} x"
    return Row(work, "the same, idle", millis(busy), millis(idle), outcome, "stated", None, how)


def _in_words(name: str, runs: Runs) -> str:
    if isinstance(runs, NotMeasured):
        return f"{name}: not measured"
    p50, p99 = (millis(median(run["busy"][index] for run in runs)) for index in range(2))
    return f"{name}: p50 {p50}, p99 {p99} at {per_second(median(run['rate'][0] for run in runs))} jobs"
