"""Which processes run jobs, tried on the real servers and commands, without any request at first.

It must not know how the decision is made. The cases run side by side, each in processes of its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from signal import SIGHUP
from typing import NamedTuple

import pytest

from pace import quiet_seconds
from servers import Program, find_uwsgi, program, server
from waiting import wait_until

AT_ONCE = 5
"""Cases that run side by side."""

PROMPT = 2.0
"""Seconds in which a process must run jobs once it is ready."""

WINDOW = 0.8
"""Seconds in which nobody else may start: some eight questions of a watcher."""

PYTHON = sys.executable
UWSGI = find_uwsgi()

APP = """
import os, launch_app
app = launch_app.create_app()
{more}
launch_app.loaded()
"""
MAIN = """
if __name__ == "__main__":
    {do}
"""
POOL = "import multiprocessing; pool = multiprocessing.get_context('fork').Pool(2)"


class Event(NamedTuple):
    """One line of the app: what happened, where, when (``time.time()``)."""

    kind: str
    pid: int
    parent: int
    at: float
    text: str


class Trial:
    """A program that runs the app, and what the app wrote."""

    def __init__(self, running: Program, folder: Path) -> None:
        self.program = running
        self.folder = folder

    def events(self, kind: str) -> list[Event]:
        return [event for event in read_events(self.folder) if event.kind == kind]

    def started(self) -> list[int]:
        return [event.pid for event in self.events("started")]

    def nobody_else_starts(self) -> None:
        """Watch for a while that no process starts beyond those that have."""
        before = self.started()
        until = time.monotonic() + WINDOW
        wait_until(lambda: self.started() != before or time.monotonic() > until, WINDOW + 5)
        assert self.started() == before

    def another_starts(self) -> int:
        """Wait for one more start; its process."""
        before = self.started()
        wait_until(lambda: len(self.started()) > len(before), 10, "one more process starts")
        return self.started()[-1]


def read_events(folder: Path) -> list[Event]:
    path = folder / "events"
    lines = path.read_text().splitlines() if path.exists() else []
    parts = (line.split("\t") for line in lines)
    return [Event(kind, int(pid), int(parent), float(at), text) for kind, pid, parent, at, text in parts]


Then = Callable[[Trial], None]
Case = Callable[[Path], None]


def prepared(folder: Path, source: str) -> dict[str, str]:
    (folder / "app.py").write_text(source)
    return {"LAUNCH_EVENTS": str(folder / "events")}


def serves(
    command: str,
    proof: str,
    *,
    source: str = APP.format(more=""),
    children: int = 0,
    env: Mapping[str, str] | None = None,
    then: Then | None = None,
) -> Case:
    """A case: this server runs jobs in exactly the right processes, and soon.

    :param command: what follows after ``python``, or ``uwsgi`` and what follows there.
    :param proof: what the process is recognized by.
    :param children: how many children of the first process serve; 0 if that one does.
    :param then: what else to try.
    """

    def case(folder: Path) -> None:
        environment = {**prepared(folder, source), **(env or {})}
        with server(words(command), folder=folder, env=environment) as running:
            trial = Trial(running, folder)
            ready = time.time()
            wait_until(
                lambda: len(trial.started()) >= (children or 1), 15, "the serving processes start"
            )
            trial.nobody_else_starts()
            started = trial.events("started")
            apart = time.time() - time.monotonic()
            assert {event.text for event in started} == {proof}
            if children:
                assert len({event.pid for event in started}) == len(started) == children
                assert {event.parent for event in started} == {running.pid}
            else:
                assert [event.pid for event in started] == [running.pid]
            for event in started:
                loaded = max(e.at for e in trial.events("loaded") if e.pid in (event.pid, event.parent))
                assert loaded <= event.at
                assert quiet_seconds(max(ready, loaded) - apart, event.at - apart) < PROMPT
            # Only now comes a request: a serving process answers it, and nothing starts again.
            if "processes=" not in source and "max-requests" not in command:
                assert int(running.get()) in trial.started()
                assert len(trial.started()) == len(started)
            if then is not None:
                then(trial)

    return case


def words(command: str) -> list[str]:
    parts = command.split()
    return [str(UWSGI), *parts[1:]] if parts[0] == "uwsgi" else [PYTHON, *parts]


def starts_nowhere(command: str, *, source: str = APP.format(more="")) -> Case:
    """A case: this program ends well after a while, and no jobs ran in it."""

    def case(folder: Path) -> None:
        with program(words(command), folder=folder, env=prepared(folder, source)) as running:
            assert running.wait(20) == 0, running.output()
        assert {event.kind for event in read_events(folder)} == {"loaded"}

    return case


def starts_never(command: str, *, source: str = APP.format(more=""), declined: str = "") -> Case:
    """A case: this server answers requests, but runs no jobs; it says why if it has `declined`."""

    def case(folder: Path) -> None:
        with server(words(command), folder=folder, env=prepared(folder, source)) as running:
            trial = Trial(running, folder)
            if declined:
                wait_until(lambda: trial.events("declined"), what="a word on why not")
            running.get()
            trial.nobody_else_starts()
            assert trial.started() == []
            assert [declined in event.text for event in trial.events("declined")] == [True] * bool(
                declined
            )

    return case


# --- what happens later ---------------------------------------------------------------------------


def a_view_forks(trial: Trial) -> None:
    started = trial.started()
    child = int(trial.program.get("/fork"))
    wait_until(
        lambda: child in [event.pid for event in trial.events("child ends")], what="the child ends"
    )
    assert trial.started() == started


def requests_fork(trial: Trial) -> None:
    started = trial.started()
    assert int(trial.program.get("/linger")) not in started
    assert trial.started() == started


def the_file_changes(trial: Trial) -> None:
    (trial.folder / "app.py").touch()
    trial.another_starts()
    trial.nobody_else_starts()
    assert {event.parent for event in trial.events("started")} == {trial.program.pid}


def hang_up(trial: Trial) -> None:
    before = set(trial.started())
    trial.program.send(SIGHUP)
    wait_until(lambda: len(set(trial.started()) - before) == len(before), 15, "new workers start")
    trial.nobody_else_starts()
    assert {event.parent for event in trial.events("started")} == {trial.program.pid}


def worker_is_replaced(trial: Trial) -> None:
    trial.program.get()
    trial.another_starts()
    trial.nobody_else_starts()
    assert {event.parent for event in trial.events("started")} == {trial.program.pid}


def no_thread_at_its_fork(trial: Trial) -> None:
    assert [event.text for event in trial.events("loaded")] == ["MainThread"]


# --- single cases ---------------------------------------------------------------------------------


def a_view_forks_at_once(folder: Path) -> None:
    """The first request comes before the watcher's first question."""
    command = words("-m gunicorn -b 127.0.0.1:{port} app:app")
    with server(command, folder=folder, env=prepared(folder, APP.format(more=""))) as running:
        trial = Trial(running, folder)
        child = int(running.get("/fork"))
        wait_until(lambda: child in [event.pid for event in trial.events("child ends")], what="the end")
        assert child not in trial.started()
        assert len(trial.started()) == 1


def first_request(folder: Path) -> None:
    """A server that nobody has heard of is recognized by its first request."""
    serve = "from wsgiref.simple_server import make_server; server = make_server"
    source = APP.format(more="") + MAIN.format(
        do=f"{serve}('127.0.0.1', int(os.environ['PORT']), app); server.serve_forever()"
    )
    with server(words("app.py"), folder=folder, env=prepared(folder, source)) as running:
        trial = Trial(running, folder)
        trial.nobody_else_starts()
        assert trial.started() == []
        assert running.get() == str(running.pid)
        assert [(e.pid, e.text) for e in trial.events("started")] == [(running.pid, "first request")]


def open_shell(folder: Path) -> None:
    environment = prepared(folder, APP.format(more=""))
    command = words("-m flask shell")
    with program(command, folder=folder, env=environment, stdin=subprocess.PIPE) as running:
        trial = Trial(running, folder)
        wait_until(lambda: trial.events("loaded"), 20, "the shell has the app")
        trial.nobody_else_starts()
        assert trial.started() == []
        assert not running.has_ended()


RUN = APP.format(more="") + MAIN.format(do="app.run(port=int(os.environ['PORT']), {options})")
SLOW = APP.format(more="import time; time.sleep(2)")
FORKED = MAIN.format(
    do="""import multiprocessing
    context = multiprocessing.get_context("fork")
    process = context.Process(target=app.run, kwargs={"port": int(os.environ["PORT"])})
    process.start()
    process.join()"""
)
CLIENT = MAIN.format(do="app.test_client().get('/linger'); app.test_client().get('/')")
CALLS = MAIN.format(
    do="""from werkzeug.test import EnvironBuilder
    list(app(EnvironBuilder(path="/linger").get_environ(), lambda *_: None))
    with app.test_request_context("/"):
        app.full_dispatch_request()"""
)
FLASK_RUN = "-m flask run --port {port}"
DEBUG = "-m flask run --debug --port {port}"
GUNICORN = "-m gunicorn -b 127.0.0.1:{port} app:app"
WAITRESS = "-m waitress --listen=127.0.0.1:{port} app:app"
UWSGI_CALL = f"uwsgi --http-socket 127.0.0.1:{{port}} --virtualenv {sys.prefix} --module app:app"
WORKER = "gunicorn worker"

CASES: dict[str, Case] = {
    "flask run": serves(FLASK_RUN, "werkzeug", then=a_view_forks),
    "flask run, debug": serves(DEBUG, "werkzeug", children=1, then=the_file_changes),
    "flask run, debug, slow import": serves(DEBUG, "werkzeug", source=SLOW, children=1),
    "flask run, debug, no reload": serves(DEBUG + " --no-reload", "werkzeug"),
    "flask run, testing": starts_never(FLASK_RUN, source=APP.format(more="app.testing = True")),
    "app.run": serves("app.py", "werkzeug", source=RUN.format(options="")),
    "app.run, debug": serves("app.py", "werkzeug", source=RUN.format(options="debug=True"), children=1),
    "app.run, one thread": serves(
        "app.py", "werkzeug", source=RUN.format(options="threaded=False"), then=a_view_forks
    ),
    "app.run, two processes": serves(
        "app.py",
        "werkzeug",
        source=RUN.format(options="threaded=False, processes=2"),
        then=requests_fork,
    ),
    "app.run in a child": serves(
        "app.py", "werkzeug", source=APP.format(more="") + FORKED, children=1, then=a_view_forks
    ),
    "gunicorn": serves(GUNICORN, WORKER, children=1, then=a_view_forks),
    "gunicorn, three workers": serves(GUNICORN + " -w 3", WORKER, children=3),
    "gunicorn, debug": serves(GUNICORN, WORKER, children=1, env={"FLASK_DEBUG": "1"}),
    "gunicorn, threads": serves(GUNICORN + " --threads 4", WORKER, children=1, then=a_view_forks),
    "gunicorn, hang up": serves(GUNICORN + " -w 2", WORKER, children=2, then=hang_up),
    "gunicorn, max requests": serves(
        GUNICORN + " --max-requests 1", WORKER, children=1, then=worker_is_replaced
    ),
    "gunicorn, a view forks at once": a_view_forks_at_once,
    "gunicorn, pool": serves(GUNICORN, WORKER, source=APP.format(more=POOL), children=1),
    "gunicorn, preload": serves(GUNICORN + " --preload -w 2", WORKER, children=2, then=hang_up),
    "gunicorn, preload, threads, debug": serves(
        GUNICORN + " --preload --threads 2", WORKER, children=1, env={"FLASK_DEBUG": "1"}
    ),
    "gunicorn, preload, pool": serves(
        GUNICORN + " --preload", WORKER, source=APP.format(more=POOL), children=1
    ),
    "gunicorn, preload, max requests": serves(
        GUNICORN + " --preload --max-requests 1", WORKER, children=1, then=worker_is_replaced
    ),
    "gunicorn, gevent": starts_never(GUNICORN + " -k gevent", declined="gevent has replaced"),
    "gunicorn, gevent, preload": starts_never(
        GUNICORN + " -k gevent --preload", declined="gevent has replaced"
    ),
    "gevent, real threads": serves(
        "app.py",
        "gevent",
        source="from gevent.pywsgi import WSGIServer\n"
        + APP.format(more="")
        + MAIN.format(do="WSGIServer(('127.0.0.1', int(os.environ['PORT'])), app).serve_forever()"),
    ),
    "gevent, imported after the app": serves(
        "app.py",
        "gevent",
        source=APP.format(more="")
        + "from gevent.pywsgi import WSGIServer\n"
        + MAIN.format(do="WSGIServer(('127.0.0.1', int(os.environ['PORT'])), app).serve_forever()"),
    ),
    "waitress": serves(WAITRESS, "waitress", then=a_view_forks),
    "waitress, factory": serves(
        "-m waitress --listen=127.0.0.1:{port} --call app:make",
        "waitress",
        source="import launch_app\ndef make():\n    app = launch_app.create_app()\n"
        "    launch_app.loaded()\n    return app",
    ),
    "waitress, pool": serves(WAITRESS, "waitress", source=APP.format(more=POOL)),
    "uwsgi": serves(UWSGI_CALL, "uWSGI worker", then=no_thread_at_its_fork),
    "uwsgi, threads": serves(UWSGI_CALL + " --threads 2", "uWSGI worker", then=a_view_forks),
    "uwsgi, lazy": serves(UWSGI_CALL + " --master --lazy-apps -p 2", "uWSGI worker", children=2),
    "uwsgi, fork hooks": serves(
        UWSGI_CALL + " --master --py-call-uwsgi-fork-hooks", "uWSGI worker", children=1
    ),
    "uwsgi, mule": serves(UWSGI_CALL + " --master --mule", "uWSGI worker", children=1),
    **{
        # Forked at a bad moment a worker hangs for ever, so once is not enough.
        f"uwsgi, two workers, {n}": serves(
            UWSGI_CALL + " --master -p 2", "uWSGI worker", children=2, then=no_thread_at_its_fork
        )
        for n in range(1, 6)
    },
    "wsgiref": first_request,
    "flask shell": open_shell,
    "flask routes": starts_nowhere("-m flask routes"),
    "a command of the app": starts_nowhere("-m flask idle"),
    "a script": starts_nowhere(
        "app.py", source=APP.format(more="") + MAIN.format(do="launch_app.linger()")
    ),
    "a script that calls the app": starts_nowhere("app.py", source=APP.format(more="") + CALLS),
    "a script with a test client": starts_nowhere("app.py", source=APP.format(more="") + CLIENT),
    "pytest with a test client": starts_nowhere(
        "-m pytest -q -p no:cacheprovider app.py",
        source=APP.format(more="") + "\ndef test_it():\n    app.test_client().get('/linger')\n",
    ),
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
    """Every case that was asked for, already over: what they left behind is known when a test begins."""
    wanted = {
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
    }
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {
            name: pool.submit(case, tmp_path_factory.mktemp("trial"))
            for name, case in CASES.items()
            if name in wanted and unable(name) is None
        }
    yield futures


@pytest.mark.parametrize("name", CASES)
def test_jobs_run_where_they_should(name: str, trials: dict[str, Future[None]]) -> None:
    if (reason := unable(name)) is not None:
        pytest.skip(reason)
    trials[name].result()
