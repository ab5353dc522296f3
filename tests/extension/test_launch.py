"""The decision whether a process runs jobs, question by question: proofs, settling, forks, uWSGI.

It must not start servers; `acceptance/test_launch_matrix.py` does that.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType, ModuleType, SimpleNamespace
from typing import Any, TypeVar

import pytest
from flask import Flask, request_started
from werkzeug.test import EnvironBuilder

from flask_delayq import launch
from flask_delayq.launch import proofs, uwsgi
from flask_delayq.launch.process import Process
from servers import ROOT
from waiting import wait_until

T = TypeVar("T")


def inside(module: str, function: str, then: Callable[[], T]) -> T:
    """Call `then` from a function of this name that was written in this module."""
    return stacked([(module, function)], then)


def stacked(functions: list[tuple[str, str]], then: Callable[[], T]) -> T:
    """Call `then` from the last of these functions, and each of them from the one before."""
    for module, function in reversed(functions):
        namespace: dict[str, Any] = {"__name__": module}
        exec(f"def {function}(then): return then()", namespace)
        then = partial(namespace[function], then)  # adds no frame of its own
    return then()


@contextmanager
def thread_inside(module: str, function: str) -> Iterator[threading.Thread]:
    """A thread that stands in such a function for the length of a block."""
    entered, leave = threading.Event(), threading.Event()

    def stand() -> None:
        entered.set()
        leave.wait(10)

    thread = threading.Thread(target=inside, args=(module, function, stand))
    thread.start()
    try:
        assert entered.wait(5)
        yield thread
    finally:
        leave.set()
        thread.join()


class Recorder:
    """A runtime that only remembers what it was told, and by which thread."""

    name = "recorder"

    def __init__(self) -> None:
        self.wants = True
        self.error: Exception | None = None
        self.told: list[str] = []
        self.thread = ""

    def wants_to_start(self) -> bool:
        return self.wants

    def start_serving(self, proof: str) -> None:
        self.thread = threading.current_thread().name
        if self.error is not None:
            raise self.error
        self.told.append(proof)

    def decline(self, reason: str) -> None:
        self.told.append(f"declined: {reason}")


def make_app() -> Flask:
    app = Flask("launched")
    app.add_url_rule("/", "index", lambda: "answer")
    return app


def request(app: Flask) -> str:
    """A request as a server makes it, with no test client on the stack."""
    return b"".join(app(EnvironBuilder().get_environ(), lambda *_: lambda chunk: None)).decode()


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def app() -> Flask:
    return make_app()


@pytest.fixture
def state(process: Process, app: Flask) -> Recorder:
    """Armed in `process` with `app`."""
    recorder = Recorder()
    process.arm(recorder, app)
    return recorder


# --- a thread in a server's loop ------------------------------------------------------------------


@pytest.mark.parametrize(
    "server, module, function",
    [
        ("werkzeug", "werkzeug.serving", "serve_forever"),
        ("waitress", "waitress.server", "run"),
        ("cheroot", "cheroot.server", "serve"),
        ("gevent", "gevent.baseserver", "serve_forever"),
        ("eventlet", "eventlet.wsgi", "server"),
    ],
)
def test_a_servers_loop_is_recognized_by_function_and_module(
    server: str, module: str, function: str
) -> None:
    assert inside(module, function, lambda: proofs.loop_in(sys._getframe())) == server
    assert inside("my.server", function, lambda: proofs.loop_in(sys._getframe())) is None
    assert inside(module, "load_the_app", lambda: proofs.loop_in(sys._getframe())) is None


def test_a_gunicorn_worker_serves_when_it_runs_and_not_while_it_loads() -> None:
    def stack(*functions: tuple[str, str]) -> str | None:
        return stacked(list(functions), lambda: proofs.loop_in(sys._getframe()))

    init_process = ("gunicorn.workers.base", "init_process")
    assert stack(init_process, ("my.worker", "run")) == "gunicorn worker"
    assert stack(init_process, ("gunicorn.workers.sync", "run"), ("app", "view")) == "gunicorn worker"
    assert stack(init_process) is None
    assert stack(init_process, ("gunicorn.workers.base", "load_wsgi"), ("app", "run")) is None
    assert stack(("my.worker", "run")) is None


def test_every_thread_is_looked_at() -> None:
    assert proofs.seen_to_serve(None) is None
    with thread_inside("waitress.server", "run"):
        assert proofs.seen_to_serve(None) == "waitress"
    assert proofs.seen_to_serve(None) is None


def test_a_loop_behind_a_greenlet_is_seen() -> None:
    frames: list[FrameType] = []
    inside("gevent.baseserver", "serve_forever", lambda: frames.append(sys._getframe()))
    here = threading.get_ident()
    assert proofs.seen_to_serve(proofs.Loader(here, SimpleNamespace(gr_frame=frames[0]))) == "gevent"
    assert proofs.seen_to_serve(proofs.Loader(here, SimpleNamespace(gr_frame=None))) is None


def test_frames_are_left_alone_where_reading_them_is_unsafe(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.frames_are_safe()
    with thread_inside("waitress.server", "run"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "_interpreters", ModuleType("_interpreters"))
            assert not launch.frames_are_safe()
            assert proofs.seen_to_serve(None) is None
        with monkeypatch.context() as patch:
            patch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
            assert not launch.frames_are_safe()
        assert proofs.seen_to_serve(None) == "waitress"


# --- servers around Python ------------------------------------------------------------------------


def fake_module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def ended_thread() -> proofs.Loader:
    loaders: list[proofs.Loader] = []
    thread = threading.Thread(target=lambda: loaders.append(proofs.Loader.here()))
    thread.start()
    thread.join()
    # The next thread may get the same identifier, and there is one if a watcher of another test ends.
    return loaders[0]._replace(ident=-1)


def test_an_embedding_server_serves_once_the_app_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loading, loaded = proofs.Loader.here(), ended_thread()
    assert proofs.seen_to_serve(loaded) is None
    module = fake_module(monkeypatch, "uwsgi", worker_id=lambda: 1)
    assert proofs.seen_to_serve(loaded) == "uWSGI worker"
    assert proofs.seen_to_serve(loading) is None
    assert proofs.seen_to_serve(None) is None
    module.worker_id = lambda: 0  # type: ignore[attr-defined]
    assert proofs.seen_to_serve(loaded) is None


def test_mod_wsgi_is_told_from_the_package_that_configures_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake_module(monkeypatch, "mod_wsgi")
    assert proofs.seen_to_serve(ended_thread()) is None
    module.process_group = "site"  # type: ignore[attr-defined]
    assert proofs.seen_to_serve(ended_thread()) == "mod_wsgi"


# --- settling -------------------------------------------------------------------------------------


def test_a_process_that_does_not_serve_starts_nothing(process: Process, state: Recorder) -> None:
    assert process.look() is None
    assert state.told == []


def test_a_test_client_does_not_count_and_a_servers_request_does(
    process: Process, state: Recorder, app: Flask
) -> None:
    for _ in range(2):
        assert app.test_client().get("/").text == "answer"
        assert (state.told, process.look()) == ([], None)
    assert list(request_started.receivers_for(app))
    for _ in range(2):
        assert request(app) == "answer"
        assert (state.told, process.look()) == (["first request"], "first request")
        assert not list(request_started.receivers_for(app))  # later requests cost nothing


def test_a_server_is_noticed_without_any_request(state: Recorder) -> None:
    with thread_inside("werkzeug.serving", "serve_forever"):
        wait_until(lambda: state.told, what="the start")
    assert state.told == ["werkzeug"]
    assert state.thread == "delayq-launch"


def test_an_app_made_in_a_serving_process_starts_soon(
    process: Process, state: Recorder, app: Flask
) -> None:
    request(app)
    second, its_app = Recorder(), make_app()
    process.arm(second, its_app)
    wait_until(lambda: second.told, what="the start")
    assert second.told == state.told == ["first request"]


def test_what_the_configuration_says_counts_when_the_process_serves(state: Recorder, app: Flask) -> None:
    state.wants = False
    request(app)
    assert state.told == []
    state.wants = True
    request(app)
    request(app)
    assert state.told == ["first request"]


def test_one_request_starts_all_apps_and_one_that_fails_harms_none(
    process: Process, state: Recorder, app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    state.error = OSError("disk full")
    second, its_app = Recorder(), make_app()
    process.arm(second, its_app)
    assert request(app) == "answer"
    assert second.told == ["first request"]
    assert [(r.name, r.levelname) for r in caplog.records] == [("flask_delayq.launch.process", "ERROR")]
    assert "disk full" in caplog.text
    state.error = None
    request(app)
    assert state.told == []


def test_two_requests_that_ask_at_the_same_moment_start_it_once(
    state: Recorder, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(2)
    monkeypatch.setattr(state, "wants_to_start", lambda: together.wait(5) >= 0)
    threads = [threading.Thread(target=request, args=(app,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state.told == ["first request"]


def test_a_configuration_that_cannot_be_read_is_logged_once(
    state: Recorder, app: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(state, "wants")
    assert request(app) == request(app) == "answer"
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_an_app_that_is_gone_is_watched_no_longer(process: Process) -> None:
    process.arm(Recorder(), make_app())
    watcher = process._watcher
    assert watcher is not None
    watcher.join(5)
    assert not watcher.is_alive()
    process.arm(recorder := Recorder(), app := make_app())
    request(app)
    assert recorder.told == ["first request"]


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_green_threads_are_declined_with_a_way_out(
    library: str, state: Recorder, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_module(monkeypatch, "gevent.monkey", is_module_patched=lambda name: library == "gevent")
    fake_module(monkeypatch, "eventlet.patcher", is_monkey_patched=lambda name: library == "eventlet")
    request(app)
    request(app)
    assert len(state.told) == 1
    assert state.told[0].startswith(f"declined: {library} has replaced the threads")
    assert "flask delayq worker" in state.told[0]


# --- uWSGI ----------------------------------------------------------------------------------------


class FakeUwsgi:
    """The module that uWSGI shows to Python, in a master that has yet to fork."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, master: int = 1) -> None:
        self.worker = 0
        self.module = fake_module(
            monkeypatch,
            "uwsgi",
            worker_id=lambda: self.worker,
            masterpid=lambda: master,
            has_threads=1,
        )


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "delayq-launch"]


def test_no_thread_lives_in_the_uwsgi_master(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeUwsgi(monkeypatch)
    state, app = Recorder(), make_app()
    process.arm(state, app)
    assert process._watcher is None
    process.after_fork_of_uwsgi()  # in a mule
    assert process._watcher is None
    fake.worker = 1
    with thread_inside("app", "request") as serving_thread:
        process._loader = proofs.Loader(serving_thread.ident or 0, None)
        process.after_fork_of_uwsgi()
        watcher = process._watcher
        assert watcher is not None
        process.after_fork_in_child()  # Python's hook after uWSGI's
        assert process._watcher is watcher
        assert state.told == []
        process._loader = ended_thread()
        wait_until(lambda: state.told, what="the start")
    assert state.told == ["uWSGI worker"]


@pytest.mark.parametrize("lazy", [True, False])
def test_uwsgi_without_threads_is_declined(
    lazy: bool, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeUwsgi(monkeypatch)
    del fake.module.has_threads
    fake.worker = int(lazy)
    state, app = Recorder(), make_app()
    process.arm(state, app)
    assert process._watcher is None
    if not lazy:
        fake.worker = 1
        process.after_fork_of_uwsgi()
        assert len(state.told) == 1
    request(app)
    assert state.told == ["declined: uWSGI runs without threads; start it with --enable-threads"]


@pytest.mark.parametrize("decorators", [True, False], ids=["decorators", "none installed"])
def test_the_hook_goes_through_the_decorators_of_a_master(
    decorators: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = FakeUwsgi(monkeypatch).module
    called: list[str] = []
    hooks: list[Callable[[], None]] = []
    if decorators:
        fake_module(monkeypatch, "uwsgidecorators", postfork=hooks.append)
    else:
        monkeypatch.setitem(sys.modules, "uwsgidecorators", None)
        module.post_fork_hook = lambda: called.append("earlier")  # type: ignore[attr-defined]
    uwsgi.call_after_fork(lambda: called.append("ours"))
    for hook in hooks or [module.post_fork_hook]:
        hook()
    assert called == (["ours"] if decorators else ["earlier", "ours"])


def test_the_hook_is_chained_where_there_is_no_master(monkeypatch: pytest.MonkeyPatch) -> None:
    module = FakeUwsgi(monkeypatch, master=0).module
    called: list[str] = []
    uwsgi.call_after_fork(lambda: called.append("ours"))
    module.post_fork_hook()
    assert called == ["ours"]


# --- forks: each in an interpreter of its own -----------------------------------------------------

SCRIPT = """
import os, sys, threading, time
from test_launch import Recorder, inside, make_app, request, watchers
from flask_delayq import launch

# Hooks before a fork run last one first, so this one comes after ours.
alive_at_forks = []
os.register_at_fork(before=lambda: alive_at_forks.append(len(watchers())))

state, app = Recorder(), make_app()
launch.arm(state, app)

def fork(then):
    child = os.fork()
    if child == 0:
        try:
            then()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def soon(question):
    until = time.monotonic() + 5
    while not question() and time.monotonic() < until:
        time.sleep(0.005)
    assert question()

def in_loop(then):
    return inside("werkzeug.serving", "serve_forever", then)
"""


def run(body: str) -> None:
    process = subprocess.run(
        # Python 3.13.0 counts the threads that come back after a fork, and warns of them.
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", SCRIPT + body],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests' / 'extension'}"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (process.returncode, process.stderr) == (0, "")


def test_a_child_of_a_server_never_starts() -> None:
    run("""
def child():
    second, its_app = Recorder(), make_app()
    launch.arm(second, its_app)
    request(app), request(its_app)
    assert launch.serving() is None and "forked from a process that serves" in launch.describe()
    assert (state.told, second.told, watchers()) == ([], [], [])

def child_and_grandchild():
    child()
    assert fork(child) == 0

# The watcher has had no time to ask: the fork does.
assert launch.describe() == "not seen to serve, so it runs no jobs by itself"
assert in_loop(lambda: fork(child_and_grandchild)) == 0
soon(lambda: state.told)
assert state.told == ["werkzeug"] and state.thread == "delayq-launch"
assert launch.describe() == "serves (werkzeug)"
""")


def test_a_child_of_another_process_decides_for_itself() -> None:
    run("""
def child():
    assert launch.serving() is None and len(watchers()) == 1
    in_loop(lambda: soon(lambda: state.told))
    assert state.told == ["werkzeug"]

assert fork(child) == fork(child) == 0
assert (state.told, launch.serving()) == ([], None)
""")


def test_no_watcher_is_alive_at_a_fork_and_one_is_afterwards() -> None:
    run("""
assert fork(lambda: None) == 0
assert alive_at_forks == [0] and len(watchers()) == 1
in_loop(lambda: soon(lambda: state.told))
soon(lambda: not watchers())
assert fork(lambda: None) == 0
assert alive_at_forks == [0, 0] and not watchers()
""")


def test_asking_for_stacks_survives_a_collection_on_any_python() -> None:
    # Garbage that holds a threading.local froze Python 3.11.0 to 3.11.8 when it was collected there.
    code = (
        "import gc, threading\n"
        "from flask_delayq.launch import stacks\n"
        "class Garbage: pass\n"
        "gc.disable(); g = Garbage(); g.me = g; g.local = threading.local(); g.local.x = 1; del g\n"
        "def deep(n): return deep(n - 1) if n else stacks()\n"
        "gc.set_threshold(1); gc.enable(); assert deep(5); assert gc.isenabled()\n"
    )
    subprocess.run([sys.executable, "-c", code], timeout=20, check=True)
