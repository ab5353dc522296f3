"""The decision whether a process runs jobs, question by question: proofs, settling, forks, uWSGI.

It must not start servers; `acceptance/test_launch_matrix.py` does that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType, ModuleType, SimpleNamespace
from typing import Any

import pytest
from flask import Flask, request_started
from werkzeug.test import EnvironBuilder

from extension.standing import Recorder, inside, make_app, stacked, thread_inside
from flask_delayq.launch import proofs, uwsgi
from flask_delayq.launch.process import Process
from servers import ROOT
from waiting import wait_until


def request(app: Flask) -> str:
    """A request as a server makes it: it names itself, and no test client is on the stack."""
    environ = EnvironBuilder(environ_base={"SERVER_SOFTWARE": "unknown/1.0"}).get_environ()
    return b"".join(app(environ, lambda *_: lambda chunk: None)).decode()


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


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_a_loop_behind_a_hub_is_seen(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    current = SimpleNamespace(gr_frame=None, parent=None)
    fake_module(monkeypatch, "greenlet", getcurrent=lambda: current)
    module, loop, hub = {
        "gevent": ("gevent.baseserver", "serve_forever", "gevent.hub"),
        "eventlet": ("eventlet.wsgi", "server", "eventlet.hubs.hub"),
    }[library]
    frames: list[FrameType] = []
    inside(module, loop, lambda: frames.append(sys._getframe()))
    main = SimpleNamespace(gr_frame=frames[0], parent=None)
    running = SimpleNamespace(gr_frame=None, parent=main)
    namespace: dict[str, Any] = {"__name__": hub}
    exec("def run(self): return self.look()", namespace)
    running.look = lambda: proofs.seen_to_serve(None)
    assert namespace["run"](running) == library
    of_eventlet = SimpleNamespace(greenlet=running, look=running.look)
    assert namespace["run"](of_eventlet) == library
    assert proofs.seen_to_serve(None) is None
    current.parent = running  # as in a greenlet that asks, beside the one that serves
    assert proofs.seen_to_serve(None) == library
    main.gr_frame = None
    assert namespace["run"](running) is None


def test_a_library_that_is_being_imported_does_not_disturb(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_module(monkeypatch, "greenlet")  # the module is there before its functions are
    assert proofs.seen_to_serve(None) is None


# --- servers around Python ------------------------------------------------------------------------


def fake_module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)
    return module


ENDED = -1
"""A thread that there is no more. (The identifier of one that has really ended may come back.)"""


def test_an_embedding_server_serves_once_the_app_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loading, loaded = threading.get_ident(), ENDED
    assert proofs.seen_to_serve(loaded) is None
    module = fake_module(monkeypatch, "uwsgi", worker_id=lambda: 1)
    assert proofs.seen_to_serve(loaded) == "uWSGI worker"
    assert proofs.seen_to_serve(loading) is None
    assert proofs.seen_to_serve(None) is None
    module.worker_id = lambda: 0  # type: ignore[attr-defined]
    assert proofs.seen_to_serve(loaded) is None


def test_mod_wsgi_is_told_from_the_package_that_configures_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake_module(monkeypatch, "mod_wsgi")
    assert proofs.seen_to_serve(ENDED) is None
    module.process_group = "site"  # type: ignore[attr-defined]
    assert proofs.seen_to_serve(ENDED) == "mod_wsgi"


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
        process._loader = serving_thread.ident
        process.after_fork_of_uwsgi()
        watcher = process._watcher
        assert watcher is not None
        process.after_fork_in_child()  # Python's hook after uWSGI's
        assert process._watcher is watcher
        assert state.told == []
        process._loader = ENDED
        wait_until(lambda: state.told, what="the start")
    assert state.told == ["uWSGI worker"]


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("has_threads", [0, None], ids=["says no", "says nothing"])
def test_uwsgi_without_threads_is_declined(
    has_threads: int | None, lazy: bool, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeUwsgi(monkeypatch)
    if has_threads is None:
        del fake.module.has_threads
    else:
        fake.module.has_threads = has_threads  # type: ignore[attr-defined]
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


def test_uwsgi_that_is_about_to_be_patched_by_gevent_is_declined_at_its_fork(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeUwsgi(monkeypatch)
    fake.module.opt = {"gevent-monkey-patch": True}  # type: ignore[attr-defined]
    process.arm(state := Recorder(), make_app())
    fake.worker = 1
    process.after_fork_of_uwsgi()
    assert process._watcher is None  # it would be a thread whose locks gevent replaces
    assert len(state.told) == 1
    assert state.told[0].startswith("declined: gevent has replaced the threads of this process")


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
from extension.standing import Recorder, inside, make_app, stacked, thread_inside
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
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests' / 'extension'}"},
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
assert launch.describe() == launch.NO_SERVER
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
if sys.version_info[:2] == (3, 13):  # there a request asks next: see the following test
    assert alive_at_forks == [0] and not watchers()
    in_loop(lambda: request(app))
else:
    assert alive_at_forks == [0] and len(watchers()) == 1
    in_loop(lambda: soon(lambda: state.told))
assert state.told == ["werkzeug"]
soon(lambda: not watchers())
assert fork(lambda: None) == 0
assert alive_at_forks == [0, 0] and not watchers()
""")


def test_a_fork_is_warned_of_for_no_thread_of_ours() -> None:
    # Python 3.13 counts the threads after the hooks have run, so it saw the watcher that came back.
    run("""
import warnings
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    for _ in range(3):
        assert fork(lambda: None) == 0
    assert found == [], found[0].message
request(app)
assert state.told == ["first request"]
""")


def test_the_watcher_comes_back_at_once_where_python_would_warn_anyway() -> None:
    run("""
import warnings
leave = threading.Event()
threading.Thread(target=leave.wait).start()
assert fork(lambda: None) == 0
assert len(watchers()) == 1
leave.set()
""")


@pytest.mark.parametrize("module", ["gevent.monkey", "eventlet.patcher"])
def test_a_library_that_another_thread_is_importing_has_patched_nothing_yet(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    fake_module(monkeypatch, module)
    assert proofs.reason_against_threads() is None
