"""How late delayed jobs begin: 2,000 delays over 5 s, on an idle process and while all workers are busy.
The function itself notes the moment at which it begins, in the same way for every peer."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

from . import ours
from .alone import NotMeasured, Runs, alone, in_turn
from .peers import make_sqlite_huey, start_huey
from .report import Row, compare, millis, not_measured
from .scale import Scale
from .throughput import commit_now

SPREAD = 5.0
IN_FLIGHT = 2 * ours.WORKERS
"""Jobs of the load that exist at any time: one for each worker and one waiting behind it."""
SLEEP = 0.05
ADDITIONS = 200_000
"""About 10 ms of one core."""

KINDS = {"sleep": "50 ms sleeps", "cpu": "loops of 200,000 additions, about 10 ms each"}


def busy(kind: str) -> None:
    """One job of the load."""
    if kind == "sleep":
        time.sleep(SLEEP)
    else:
        total = 0
        for number in range(ADDITIONS):
            total += number


class Notes:
    """When the delayed jobs of one run are due, and how late each began."""

    def __init__(self, delays: int, lead: float) -> None:
        source = random.Random(4)
        self.begin = time.time() + lead
        offsets = (source.uniform(0.0, SPREAD) for _ in range(delays))
        # Whole microseconds: the resolution of a datetime.
        self.dues = [round(self.begin + offset, 6) for offset in offsets]
        self.late: list[float] = []
        self.over = threading.Event()
        """Set when the load should end."""

    def note(self, due: float) -> None:
        self.late.append(time.time() - due)

    def moments(self) -> Iterator[tuple[float, datetime]]:
        for due in self.dues:
            yield due, datetime.fromtimestamp(due, timezone.utc)

    def collect(self, load: Callable[[], object]) -> dict[str, float]:
        """Start the load half a second before the first job is due, and wait until all have begun."""
        stored_by = time.time()
        if stored_by > self.begin - 0.5:
            raise NotMeasured("storing the delays took longer than the time left for it")
        time.sleep(self.begin - 0.5 - time.time())
        for _ in range(IN_FLIGHT):
            load()
        deadline = self.begin + SPREAD + 20.0
        while len(self.late) < len(self.dues) and time.time() < deadline:
            time.sleep(0.01)
        self.over.set()
        late = sorted(self.late)
        # A job that never began counts as late as it is now.
        late += [time.time() - self.begin] * (len(self.dues) - len(late))
        assert late[0] > -2e-6, f"one began {-late[0]} s before it was due"
        return {"p50": late[len(late) // 2], "p99": late[len(late) * 99 // 100], "max": late[-1]}


def delayq(folder: Path, delays: int, lead: float, kind: str = "") -> dict[str, float]:
    _app, delayq, _ = ours.make(ours.url_of(folder / "jobs.sqlite3"))

    @delayq.task(name="note")
    def note(due: float) -> None:
        notes.note(due)

    @delayq.task(name="load")
    def load(kind: str) -> None:
        if not notes.over.is_set():
            busy(kind)
            load.enqueue(kind)

    delayq.start()
    notes = Notes(0, 0.0)
    note.enqueue(time.time()).wait(20)
    notes = Notes(delays, lead)
    moments = list(notes.moments())
    # From eight threads, which share commits: the time to store the jobs is not measured here.
    ours.produce(delays, 8, lambda n: note.enqueue_at(moments[n][1], moments[n][0]))
    figures = notes.collect(lambda: load.enqueue(kind) if kind else None)
    delayq.stop(2)
    return figures


def apscheduler(folder: Path, delays: int, lead: float, kind: str = "") -> dict[str, float]:
    """APScheduler 3 with its default store (in memory) and a pool of 4."""
    from apscheduler.executors.pool import ThreadPoolExecutor
    from apscheduler.schedulers.background import BackgroundScheduler

    scheduler: Any = BackgroundScheduler(
        timezone="UTC",
        executors={"default": ThreadPoolExecutor(ours.WORKERS)},
        job_defaults={"misfire_grace_time": None},
    )

    def load() -> None:
        if not notes.over.is_set():
            busy(kind)
            scheduler.add_job(load)

    scheduler.start()
    notes = Notes(delays, lead)
    for due, moment in notes.moments():
        scheduler.add_job(notes.note, "date", run_date=moment, args=(due,))
    figures = notes.collect(lambda: scheduler.add_job(load) if kind else None)
    scheduler.shutdown(wait=False)
    return figures


def huey(folder: Path, delays: int, lead: float) -> dict[str, float]:
    library = make_sqlite_huey(folder)

    @library.task()
    def note(due: float) -> None:
        notes.note(due)

    start_huey(library)
    notes = Notes(delays, lead)
    for due, moment in notes.moments():
        note.schedule(args=(due,), eta=moment)
    return notes.collect(lambda: None)


def _sizes(scale: Scale, commit: float = 0.0) -> dict[str, float]:
    """The number of delayed jobs, and the seconds in which to store them before the first is due.

    :param commit: seconds that the disk may need to store one job.
    """
    delays = scale.count(2_000)
    return {"delays": delays, "lead": 2.0 + delays * commit}


def _series(runs: Runs, name: str) -> Runs:
    return runs if isinstance(runs, NotMeasured) else [run[name] for run in runs]


def _in_words(runs: Runs) -> str:
    if isinstance(runs, NotMeasured):
        return ""
    parts = (f"{name} {millis(median(run[name] for run in runs))}" for name in ("p50", "p99", "max"))
    return ", ".join(parts)


def idle(scale: Scale) -> Iterator[Row]:
    commit = commit_now()
    delays = scale.count(2_000)
    disk, memory = _sizes(scale, commit), _sizes(scale)
    runs = in_turn(
        scale.rounds(3),
        {"ours": lambda: alone(delayq, **disk), "apscheduler": lambda: alone(apscheduler, **memory)},
    )
    runs |= in_turn(1, {"huey": lambda: alone(huey, **_sizes(scale, 3 * commit))})
    commit = (commit + commit_now()) / 2
    words = "; ".join(f"{name} {_in_words(figures)}" for name, figures in runs.items())
    how = (
        f"{delays:,} delays over {SPREAD:g} s on sqlite FULL, 4 workers, 3 rounds: "
        f"`note.enqueue_at(moment, due)`, all stored before the first is due; the task notes how late "
        f"it began. APScheduler 3 with its memory store and a pool of 4; SqliteHuey (its scheduler "
        f"looks once a second), one round. {words}. One commit took {millis(commit)}."
    )
    work = f"lateness p99, {delays:,} delays over 5 s"
    yield _beside_apscheduler(work, runs["ours"], runs["apscheduler"], commit, how)
    yield compare(
        work,
        "SqliteHuey",
        _first(_series(runs["ours"], "p99")),
        _series(runs["huey"], "p99"),
        at_least=None,
        run=how,
        show=millis,
        lower_is_better=True,
    )


def _first(runs: Runs) -> Runs:
    return runs if isinstance(runs, NotMeasured) else [median(runs)]


def _beside_apscheduler(work: str, mine: Runs, peer: Runs, commit: float, how: str) -> Row:
    beside, words = "APScheduler, in memory", f"<= 2 x + commit {millis(commit)}"
    for runs in (mine, peer):
        if isinstance(runs, NotMeasured):
            return not_measured(work, beside, words, runs, how)
    late, theirs = (median(run["p99"] for run in runs) for runs in (mine, peer))
    allowed = 2 * theirs + commit
    return Row(
        work,
        beside,
        millis(late),
        millis(theirs),
        f"{late / theirs:.2f} x",
        f"<= {millis(allowed)}",
        late <= allowed,
        f"{how} Allowed: twice APScheduler's p99 and one commit.",
        gain=theirs / late,
        goal=theirs / allowed,
    )


def loaded(scale: Scale) -> Iterator[Row]:
    commit = commit_now()
    disk, memory = _sizes(scale, commit), _sizes(scale)
    for kind, words in (("sleep", "50 ms sleeps"), ("cpu", "CPU jobs")):
        runs = in_turn(
            scale.rounds(3),
            {
                "ours": lambda kind=kind: alone(delayq, kind=kind, **disk),
                "apscheduler": lambda kind=kind: alone(apscheduler, kind=kind, **memory),
            },
        )
        both = "; ".join(f"{name} {_in_words(figures)}" for name, figures in runs.items())
        yield compare(
            f"lateness p99, workers busy with {words}",
            "APScheduler, in memory, pool of 4",
            _series(runs["ours"], "p99"),
            _series(runs["apscheduler"], "p99"),
            at_least=1,
            run=f"The same delays while 4 workers are saturated with {KINDS[kind]}, 3 rounds: "
            f"{IN_FLIGHT} such jobs exist at any time, each puts its successor into the queue when it "
            f"ends (`load.enqueue(...)`, `scheduler.add_job(load)`), so each worker is busy and one "
            f"more job waits behind it. {both}.",
            show=millis,
            lower_is_better=True,
        )
