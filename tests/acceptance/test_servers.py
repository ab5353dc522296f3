"""The whole product under every server and command: who runs jobs, how soon, and every occurrence once.

It must not know how a process decides. The cases run side by side, each on a store of its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from signal import SIGHUP, SIGTERM

import pytest

from acceptance.product import APP, UWSGI, Case, Site, enqueue, health, side_by_side, words
from pace import quiet_seconds
from servers import Program, program, server
from waiting import wait_until

pytestmark = pytest.mark.timeout(900)  # the first test of the module waits for all its cases

AT_ONCE = 4

PROMPT = 2.0
"""Seconds from a server's readiness in which what was left from the last run begins."""

BEATS = 4
"""Occurrences of the 1 s schedule that are watched."""

BEAT = {"PRODUCT_BEAT": "1"}

MAIN = """
if __name__ == "__main__":
    {do}
"""
RUN = APP + "import os\n" + MAIN.format(do="app.run(port=int(os.environ['PORT']), {options})")
FLASK_RUN = "-m flask run --port {port}"
GUNICORN = "-m gunicorn -b 127.0.0.1:{port} app:app"
UWSGI_CALL = (
    f"uwsgi --http-socket 127.0.0.1:{{port}} --virtualenv {sys.prefix} --module app:app --master"
    " --enable-threads"
)

Then = Callable[[Site, Program], None]


def serves(
    command: str,
    role: str,
    *,
    children: int = 0,
    source: str = APP,
    env: Mapping[str, str] | None = None,
    then: Then | None = None,
) -> Case:
    """A case: this server runs jobs in exactly the right processes, soon, all of them, once.

    :param role: what the process is known by in the store.
    :param children: how many children of the first process serve; 0 if that one does.
    """

    def case(folder: Path) -> None:
        site = Site(folder, source)
        left = site.leave("quick", count=3)
        with server(words(command), folder=folder, env={**site.env, **BEAT, **(env or {})}) as running:
            listening = time.monotonic()
            site.ran(left)
            began = max(site.runs()[job][0].began for job in left)
            loaded = [event.at for event in site.notes("loaded")]
            assert quiet_seconds(max(listening, *loaded), began) < PROMPT
            # Only now comes a request.
            stored = from_requests(running, "quick", 24)
            wait_until(lambda: len(site.beats()) >= BEATS, 20, f"{BEATS} occurrences have run")
            if then is not None:
                then(site, running)
            site.check_runs([*left, *stored])
            check_processes(site, running, role, children)
        site.check_beats()

    return case


def from_requests(running: Program, task: str, count: int, *args: object) -> list[str]:
    """Enqueue from some requests at a time; the ids of all."""
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(enqueue, running, task, *args) for _ in range(count)]
        return [job for answer in answers for job in answer.result()]


def check_processes(site: Site, running: Program, role: str, children: int) -> None:
    with site.open() as delayq:
        found = [one for one in delayq.state.backend.processes() if one.alive]
    assert len(found) == (children or 1)
    assert all(f'"{role}"'.encode() in one.info for one in found), found
    ran = site.notes("begin", "beat")
    if children:
        assert running.pid not in {event.pid for event in ran}
        assert {event.parent for event in ran} == {running.pid}
    else:
        assert {event.pid for event in ran} == {one.pid for one in found} == {running.pid}


# --- what happens later ----------------------------------------------------------------------------


def all_workers_run_jobs(site: Site, running: Program) -> None:
    """Jobs that take a while are spread over the workers, though one request enqueued them."""

    def have_run() -> bool:
        jobs = enqueue(running, "slow", 0.2, count=40)
        site.ran(jobs, 30)
        site.check_runs(jobs)
        with site.open() as delayq:  # a worker may still be on its way when the first one serves
            serving = {one.pid for one in delayq.state.backend.processes() if one.alive}
        return {run.pid for ran in site.runs().values() for run in ran} == serving

    wait_until(have_run, 10, "each worker has run jobs")


def hang_up_under_load(site: Site, running: Program) -> None:
    before = {event.pid for event in site.notes("begin")}
    jobs = enqueue(running, "slow", 0.3, count=20)
    running.send(SIGHUP)
    jobs += from_requests(running, "quick", 20)
    site.ran(jobs, 30)
    site.check_runs(jobs)

    def replaced() -> bool:
        with site.open() as delayq:
            alive = {one.pid for one in delayq.state.backend.processes() if one.alive}
        return len(alive) == 2 and not alive & before

    wait_until(replaced, 20, "two new workers, and no old one")


def recycled_under_load(site: Site, running: Program) -> None:
    """Every worker serves five requests or so; each request enqueues."""
    jobs = from_requests(running, "slow", 30, 0.1)
    site.ran(jobs, 40)
    site.check_runs(jobs)
    assert "WORKER TIMEOUT" not in running.output()
    assert len({run.pid for ran in site.runs().values() for run in ran}) > 3
    settled(site, 2)


def settled(site: Site, count: int) -> None:
    """Wait until so many processes are alive: a worker that was recycled may still be on its way."""

    def alive() -> bool:
        with site.open() as delayq:
            return [one.alive for one in delayq.state.backend.processes()] == [True] * count

    wait_until(alive, 20, f"{count} processes run jobs")


# --- single cases ----------------------------------------------------------------------------------


def reloaded_while_a_job_runs(folder: Path) -> None:
    site = Site(folder)
    command = words("-m flask run --debug --port {port}")
    with server(command, folder=folder, env={**site.env, "FLASK_DEBUG": "1", **BEAT}) as running:
        (job,) = enqueue(running, "hold", "gate")
        first = site.begun(job)
        (folder / "app.py").write_text(APP + "\n# changed\n")
        second = site.begun(job, times=2)
        (folder / "gate").touch()
        stored = from_requests(running, "quick", 4)
        site.ran([job, *stored])
        row = site.completed([job, *stored])[job]
        assert (row.attempt, row.rescues) == (1, 0)  # uncharged: the reload asked it to stop
        assert site.runs()[job][0].ended is None
        assert first.pid != second.pid
        assert running.pid not in (first.pid, second.pid)
        assert wait_until(lambda: health(running)[0] == 200, 5)
        # The development server polls its files once a second; the drain takes another.
        assert quiet_seconds(first.began, second.began) < 8
        wait_until(lambda: len([e for e in site.notes("beat") if e.pid == second.pid]) >= 2, 10)
    site.check_beats(most_missed=6)


def declines(command: str, word: str) -> Case:
    """A case: this server enqueues and says why it runs nothing."""

    def case(folder: Path) -> None:
        site = Site(folder)
        with server(words(command), folder=folder, env={**site.env, **BEAT}) as running:
            stored = from_requests(running, "quick", 4)
            wait_until(lambda: word in running.output(), 10, f"the log says {word}")
            assert running.output().count("no jobs of product run in this process") == 1
            declined = health(running)[1]["health"]
            assert word in declined["declined"]
            assert not declined["runs_jobs"]
        assert site.notes("begin", "beat") == []
        assert set(site.rows()) == set(stored)

    return case


def runs_nothing(command: str, *, source: str = APP, stdin: str = "", jobs: int = 1) -> Case:
    """A case: this program enqueues, stays a while and ends well; nothing ran."""

    def case(folder: Path) -> None:
        site = Site(folder, source)
        left = site.leave("quick", count=2)
        typed = folder / "typed"
        typed.write_text(stdin)
        with (
            typed.open() as keyboard,
            program(
                words(command), folder=folder, env={**site.env, **BEAT}, stdin=keyboard.fileno()
            ) as running,
        ):
            assert running.wait(30) == 0, running.output()
            assert "Traceback" not in running.output()
        assert site.notes("loaded")
        assert site.notes("begin", "beat") == []
        enqueued = [event.words[0] for event in site.notes("enqueued")]
        assert len(enqueued) == jobs
        assert set(site.rows()) == {*left, *enqueued}

    return case


def worker_command(folder: Path) -> None:
    site = Site(folder)
    left = site.leave("quick", count=3)
    with program(words("-m flask delayq worker"), folder=folder, env={**site.env, **BEAT}) as running:
        site.ran(left)
        later = site.leave("quick", count=20)
        site.ran(later)
        wait_until(lambda: len(site.beats()) >= BEATS, 20, "occurrences have run")
        check_processes(site, running, "worker", 0)
        assert running.terminate(SIGTERM) == 0
    site.check_runs([*left, *later])
    site.check_beats()


IN_CONTEXT = "with app.app_context(): product_app.enqueue_and_linger()"
SHELL = "import product_app\nproduct_app.enqueue_and_linger()\nexit()\n"
POOL = MAIN.format(
    do="""import multiprocessing
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(in_the_pool, range(2))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.map(in_the_pool, range(1))"""
)
IN_THE_POOL = "def in_the_pool(n):\n    " + IN_CONTEXT + "\n"
PYTEST = """
def test_it():
    with app.app_context():
        job = product_app.enqueue_quick()
    assert app.test_client().get("/").status_code == 200
    assert app.test_client().get("/delayq/health").status_code == 200
    product_app.note("enqueued", job)
    product_app.threading.Event().wait(product_app.LINGER)
"""

CASES: dict[str, Case] = {
    "flask run": serves(FLASK_RUN, "werkzeug"),
    "flask run, debug": serves(FLASK_RUN + " --debug", "werkzeug", children=1, env={"FLASK_DEBUG": "1"}),
    "flask run, debug, no reload": serves(FLASK_RUN + " --debug --no-reload", "werkzeug"),
    "flask run, a file is saved": reloaded_while_a_job_runs,
    "app.run": serves("app.py", "werkzeug", source=RUN.format(options="")),
    "app.run, debug": serves("app.py", "werkzeug", source=RUN.format(options="debug=True"), children=1),
    "gunicorn": serves(GUNICORN + " -w 1", "gunicorn worker", children=1),
    "gunicorn, four workers": serves(
        GUNICORN + " -w 4", "gunicorn worker", children=4, then=all_workers_run_jobs
    ),
    "gunicorn, threads": serves(GUNICORN + " -w 2 --threads 4", "gunicorn worker", children=2),
    "gunicorn, preload": serves(
        GUNICORN + " -w 2 --preload", "gunicorn worker", children=2, then=all_workers_run_jobs
    ),
    "gunicorn, debug": serves(
        GUNICORN + " -w 2", "gunicorn worker", children=2, env={"FLASK_DEBUG": "1"}
    ),
    "gunicorn, max requests": serves(
        GUNICORN + " -w 2 --max-requests 5 --max-requests-jitter 5",
        "gunicorn worker",
        children=2,
        then=recycled_under_load,
    ),
    "gunicorn, hang up": serves(
        GUNICORN + " -w 2", "gunicorn worker", children=2, then=hang_up_under_load
    ),
    "gunicorn, gevent": declines(GUNICORN + " -k gevent", "gevent has replaced"),
    "waitress": serves("-m waitress --listen=127.0.0.1:{port} app:app", "waitress"),
    "waitress, factory": serves(
        "-m waitress --listen=127.0.0.1:{port} --call app:make",
        "waitress",
        source="import product_app\ndef make():\n    app = product_app.create_app()\n"
        "    product_app.note('loaded')\n    return app\n",
    ),
    "uwsgi": serves(UWSGI_CALL + " -p 2 --threads 2", "uWSGI worker", children=2),
    "worker command": worker_command,
    "flask shell": runs_nothing("-m flask shell", stdin=SHELL),
    "flask routes": runs_nothing("-m flask routes", jobs=0),
    "a command of the app": runs_nothing("-m flask leave-a-job"),
    "flask delayq status": runs_nothing("-m flask delayq status", jobs=0),
    "a script": runs_nothing("app.py", source=APP + MAIN.format(do=IN_CONTEXT)),
    "a pool of processes": runs_nothing("app.py", source=APP + IN_THE_POOL + POOL, jobs=3),
    "pytest": runs_nothing("-m pytest -q -p no:cacheprovider app.py", source=APP + PYTEST),
}


def unable(name: str) -> str | None:
    """Why a case cannot be tried on this machine."""
    if name.startswith("uwsgi") and UWSGI is None:
        return "needs uWSGI, which is compiled from source"
    if "gevent" in name and find_spec("gevent") is None:
        return "needs gevent"
    return None


@pytest.fixture(scope="module")
def trials(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    able = {name: case for name, case in CASES.items() if unable(name) is None}
    yield side_by_side(request, tmp_path_factory, able, AT_ONCE)


@pytest.mark.parametrize("name", CASES)
def test_jobs_run_where_they_should(name: str, trials: dict[str, Future[None]]) -> None:
    if (reason := unable(name)) is not None:
        pytest.skip(reason)
    trials[name].result()
