"""Forks of a process that runs jobs, by tasks, views, pools and strangers: they harm nobody.

It must not know how the store survives a fork. The cases run side by side, each on a store of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import apsw
import pytest

from acceptance.product import Case, Site, enqueue, side_by_side, words
from servers import APPS, Program, program, server

pytestmark = pytest.mark.timeout(900)  # the first test of the module waits for all its cases

AT_ONCE = 3

WORKER = "-m flask delayq worker"
GUNICORN = "-m gunicorn -b 127.0.0.1:{port} app:app"
FLASK_RUN = "-m flask run --port {port}"

BY_CHILDREN = ("fork", "multiprocessing fork", "multiprocessing spawn")
"""What makes a child that enqueues."""


def forks(times: int) -> Case:
    """A case: a process forks so many times while two of its threads enqueue and its workers run."""

    def case(folder: Path) -> None:
        site = Site(folder, workers=2, retention_count=10**6)
        command = words(f"{APPS / 'forks.py'} {times}")
        with program(command, folder=folder, env=site.env) as running:
            assert running.wait(60 + times / 5) == 0, running.output()
            assert running.output() == ""
        stored = [event.words[0] for event in site.notes("ack")]
        assert len(stored) > times
        site.check_runs(stored)
        assert set(site.rows()) == set(stored)
        (parent,) = {event.pid for event in site.notes("parent")}
        runs = site.runs()
        assert {run.pid for ran in runs.values() for run in ran} == {parent}
        assert [job for job, ran in runs.items() if len(ran) != 1] == []
        assert {event.words for event in site.notes("child ended")} == {("0",)}
        assert len(site.notes("inherited")) == times
        assert {event.words for event in site.notes("inherited")} == {()}  # nothing came over open
        # What a child opens is its own: the file, its WAL and their index; and it runs nothing.
        assert {event.words for event in site.notes("opened")} == {("3", "False")}
        assert_sound(site.store)

    return case


def assert_sound(store: Path) -> None:
    connection = apsw.Connection(str(store))
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


def tasks_fork(command: str) -> Case:
    """A case: tasks make children in all ways; each runs once, and the children's jobs run here."""

    def case(folder: Path) -> None:
        site = Site(folder, workers=3)
        run = server if "{port}" in command else program
        with run(words(command), folder=folder, env=site.env) as running:
            jobs = [job for what in BY_CHILDREN for job in site.leave("uses", what)]
            jobs += [job for what in ("subprocess", "thread pool") for job in site.leave("uses", what)]
            beside = site.leave("quick", count=30)
            site.ran([*jobs, *beside], 40)
            judge(site, running, len(BY_CHILDREN), jobs + beside)

    return case


def views_fork(command: str) -> Case:
    """The same for views."""

    def case(folder: Path) -> None:
        site = Site(folder, workers=3)
        with server(words(command), folder=folder, env=site.env) as running:
            slow = enqueue(running, "slow", 1.0)  # runs while its process forks
            serving = {int(running.get(f"/use/{what.replace(' ', '%20')}")) for what in BY_CHILDREN}
            beside = enqueue(running, "quick", count=10)
            site.ran([*slow, *beside])
            judge(site, running, len(BY_CHILDREN), slow + beside)
            assert {run.pid for ran in site.runs().values() for run in ran} <= serving

    return case


def judge(site: Site, running: Program, children: int, jobs: list[str]) -> None:
    made = site.notes("child")
    assert len(made) == children
    by_children = [event.words[0] for event in made]
    assert {event.words[1] for event in made} == {"False"}  # no child may run what it enqueues
    site.check_runs([*jobs, *by_children])
    runs = site.runs()
    assert set(runs) == {*jobs, *by_children}
    assert all(len(ran) == 1 for ran in runs.values())
    assert not {run.pid for ran in runs.values() for run in ran} & {event.pid for event in made}
    assert {event.words for event in site.notes("inherited")} == {()}
    assert "Traceback" not in running.output()
    assert_sound(site.store)


def children_go_astray(folder: Path) -> None:
    """A task forks and its child returns, or raises, as if it were the parent; many jobs wait."""
    site = Site(folder, workers=2)
    with program(words(WORKER), folder=folder, env=site.env) as running:
        jobs = [
            job
            for what in ("fork and return", "fork and raise") * 3
            for job in site.leave("uses", what) + site.leave("quick", count=20)
        ]
        site.ran(jobs, 40)
        site.completed(jobs)
        assert site.notes("child stays") == []
        parent = running.pid
        strays = [event for event in site.notes("begin") if event.pid != parent]
        assert strays == []
        assert running.terminate() == 0
    site.check_runs(jobs)
    assert all(len(ran) == 1 for ran in site.runs().values())
    assert_sound(site.store)


CASES: dict[str, Case] = {
    "sixty forks": forks(60),
    "tasks of a worker": tasks_fork(WORKER),
    "tasks of gunicorn": tasks_fork(GUNICORN),
    "views of gunicorn": views_fork(GUNICORN),
    "views of flask run": views_fork(FLASK_RUN),
    "children go astray": children_go_astray,
}
STRESS: dict[str, Case] = {"a thousand forks": forks(1000)}


@pytest.fixture(scope="module")
def trials(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    yield side_by_side(request, tmp_path_factory, {**CASES, **STRESS}, AT_ONCE)


@pytest.mark.parametrize("name", CASES)
def test_forks_harm_nobody(name: str, trials: dict[str, Future[None]]) -> None:
    trials[name].result()


@pytest.mark.stress
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", STRESS)
def test_many_forks_harm_nobody(name: str, trials: dict[str, Future[None]]) -> None:
    trials[name].result()
