"""The test's side of `product_app`: its folder, its notes, its store, and many cases side by side.

It must not know what is tested; programs are started by `servers.py`.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from acceptance.product_app import FOLDER, create_app
from flask_delayq import DelayQ
from flask_delayq.backends import open_backend
from flask_delayq.job import JobQuery, JobRecord, StoredState
from kit import making
from pace import quiet_seconds
from servers import Program, find_uwsgi
from waiting import wait_until

UWSGI = find_uwsgi()

APP = """
import product_app
app = product_app.create_app()
product_app.note("loaded")
"""


def words(command: str) -> list[str]:
    """A command line: what follows after ``python``, or ``uwsgi`` and what follows there."""
    parts = command.split()
    return [str(UWSGI), *parts[1:]] if parts[0] == "uwsgi" else [sys.executable, *parts]


class Event(NamedTuple):
    """One line of the notes; ``at`` is a monotonic moment."""

    kind: str
    pid: int
    parent: int
    at: float
    words: tuple[str, ...]


class Run(NamedTuple):
    """One run of a job."""

    pid: int
    claim_no: int
    attempt: int
    rescues: int
    began: float
    ended: float | None


class Site:
    """A folder with an app in it, where programs run.

    :param settings: of the app, by their names without ``DELAYQ_``.
    """

    def __init__(self, folder: Path, source: str = APP, **settings: Any) -> None:
        self.folder = folder
        self.store = folder / "delayq.sqlite3"
        self.env = {FOLDER: str(folder), "FLASK_DEBUG": "0"}
        self.env |= {f"FLASK_DELAYQ_{key.upper()}": json.dumps(value) for key, value in settings.items()}
        (folder / "app.py").write_text(source)

    # --- what happened -----------------------------------------------------------------------------

    def notes(self, *kinds: str) -> list[Event]:
        path = self.folder / "notes"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        parts = (line.rstrip("\n").split("\t") for line in lines if line.endswith("\n"))
        events = [Event(p[0], int(p[1]), int(p[2]), float(p[3]), tuple(p[4:])) for p in parts]
        return [event for event in events if event.kind in kinds]

    def runs(self) -> dict[str, list[Run]]:
        """All runs by job, in order."""
        found: dict[tuple[str, str], Run] = {}
        for event in self.notes("begin", "end"):
            key = (event.words[0], event.words[1])
            if event.kind == "begin":
                assert key not in found, f"claim {key} ran twice"
                found[key] = Run(event.pid, *map(int, event.words[1:]), event.at, None)
            else:
                found[key] = found[key]._replace(ended=event.at)
        by_job: dict[str, list[Run]] = defaultdict(list)
        for (job_id, _), run in found.items():
            by_job[job_id].append(run)
        return by_job

    def begun(self, job_id: str, times: int = 1, timeout: float = 20) -> Run:
        """Wait for the begin of a job's n-th run."""
        what = f"job {job_id} has begun {times} times"
        wait_until(lambda: len(self.runs().get(job_id, [])) >= times, timeout, what)
        return self.runs()[job_id][times - 1]

    def ran(self, job_ids: Iterator[str] | list[str], timeout: float = 20) -> None:
        """Wait until these jobs have run to their end."""
        wanted = list(job_ids)

        def missing() -> list[str]:
            runs = self.runs()
            return [job for job in wanted if not any(run.ended for run in runs.get(job, []))]

        wait_until(lambda: not missing(), timeout, f"{len(wanted)} jobs have run to their end")

    def beats(self) -> list[float]:
        """The occurrences of the 1 s schedule that ran, in the order of their runs."""
        return [float(event.words[0]) for event in self.notes("beat")]

    def check_beats(self, most_missed: int = 3) -> None:
        """Each occurrence ran once; a few on end may have been passed over, while processes start."""
        beats = sorted(self.beats())
        assert len(beats) == len(set(beats)), f"an occurrence ran twice: {beats}"
        apart = time.time() - time.monotonic()
        gaps = [quiet_seconds(one - apart, other - apart) for one, other in pairwise(beats)]
        assert max(gaps, default=1) < 1.5 + most_missed, f"occurrences are missing: {beats}"

    # --- the store ---------------------------------------------------------------------------------

    @contextmanager
    def open(self, **settings: Any) -> Iterator[DelayQ]:
        """The app in this process, which runs no jobs."""
        config = {"MODE": "external", **{key.upper(): value for key, value in settings.items()}}
        with making:
            app = create_app(self.folder, **{f"DELAYQ_{key}": value for key, value in config.items()})
        delayq: DelayQ = app.extensions["delayq"]
        try:
            yield delayq
        finally:
            delayq.state.close()

    def leave(self, task: str, *args: Any, count: int = 1, **options: Any) -> list[str]:
        """Enqueue jobs from this process."""
        with self.open() as delayq:
            found = delayq.tasks.get(task).options(**options)
            return [found.enqueue(*args).id for _ in range(count)]

    def rows(self) -> dict[str, JobRecord]:
        """All jobs of the store, by id."""
        backend = open_backend(f"sqlite:///{self.store}")
        try:
            listed = backend.list(JobQuery(limit=100_000), now=time.time())  # type: ignore[attr-defined]
            return {record.id: record for record in listed}
        finally:
            backend.close()

    def completed(self, job_ids: list[str], timeout: float = 20) -> dict[str, JobRecord]:
        """Wait until the store says that these jobs are completed; all rows."""

        def rows() -> dict[str, JobRecord]:
            found = self.rows()
            missing = [job for job in job_ids if job not in found]
            assert not missing, f"{len(missing)} acknowledged jobs are lost: {missing[:3]}"
            done = all(found[job].stored is StoredState.COMPLETED for job in job_ids)
            return found if done else {}

        return wait_until(rows, timeout, f"{len(job_ids)} jobs are completed")

    def check_runs(self, job_ids: list[str]) -> None:
        """The jobs are completed; each run began when the one before had ended, or its process had."""
        rows, runs = self.completed(job_ids), self.runs()
        beside = [event.words for event in self.notes("beside") if event.words[0] in job_ids]
        assert beside == [], f"ran in two processes at a time: {beside}"
        for job_id in job_ids:
            ran, row = runs[job_id], rows[job_id]
            assert ran[-1].ended is not None, f"{job_id} is completed, but did not run to its end"
            assert row.attempt == 1, f"{job_id} was charged {row.attempt} attempts"
            for run, following in pairwise(ran):
                assert run.ended is None, f"{job_id} ended well and ran again: {ran}"
                assert run.pid != following.pid, f"{job_id} ran twice in one process: {ran}"


def enqueue(program: Program, task: str, *args: Any, count: int = 1) -> list[str]:
    """Enqueue by a request; the ids."""
    query = urllib.parse.urlencode({"args": json.dumps(args), "count": count})
    return program.get(f"/enqueue/{task}?{query}").split()


def health(program: Program) -> tuple[int, dict[str, Any]]:
    """Status and facts of ``/delayq/health``."""
    asked = urllib.request.Request(
        f"{program.url}/delayq/health", headers={"Accept": "application/json"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


Case = Callable[[Path], None]


def side_by_side(
    request: pytest.FixtureRequest,
    factory: pytest.TempPathFactory,
    cases: Mapping[str, Case],
    at_once: int,
) -> dict[str, Future[None]]:
    """Run the cases that were asked for, some at a time; all are over when this returns."""
    wanted = {
        item.callspec.params.get("name")
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
    }
    with ThreadPoolExecutor(at_once) as pool:
        return {
            name: pool.submit(case, factory.mktemp("site"))
            for name, case in cases.items()
            if name in wanted
        }
