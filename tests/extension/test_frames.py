"""Reading where other threads stand: when it is done, when it is left alone, and across a fork.

It must not know what is looked for in the stacks; `test_launch.py` does.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from extension.standing import thread_inside
from flask_delayq import launch
from flask_delayq.launch import frames, proofs

ISOLATED = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="before Python 3.12 all interpreters share one GIL"
)

INTERPRETERS = """
import sys
import flask_delayq
from flask_delayq import launch
try:
    import _interpreters as module
except ImportError:
    import _xxsubinterpreters as module
assert launch.frames_are_safe() and launch.stacks()
"""


def run(code: str) -> None:
    process = subprocess.run([sys.executable, "-c", code], timeout=30, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")


def fake_interpreters(monkeypatch: pytest.MonkeyPatch, *gils: str) -> None:
    """As many interpreters as there are words; each word says which GIL one has."""
    module: Any = ModuleType("_interpreters")
    module.list_all = lambda: [(number, 1) for number in range(len(gils))]
    module.get_config = lambda number: SimpleNamespace(gil=gils[number])
    monkeypatch.setitem(sys.modules, "_interpreters", module)


def test_the_standard_librarys_own_use_of_the_module_hides_no_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_interpreters(monkeypatch, "own")  # since Python 3.14 concurrent.futures has loaded it
    assert launch.frames_are_safe()
    with thread_inside("waitress.server", "run"):
        assert proofs.seen_to_serve(None) == "waitress"


@pytest.mark.parametrize(
    "gils, safe",
    [
        (("own",), True),
        (("own", "shared"), True),
        (("own", "shared", "shared"), True),
        (("own", "own"), False),
        (("own", "shared", "own"), False),
    ],
)
def test_frames_are_read_while_all_interpreters_share_one_gil(
    gils: tuple[str, ...], safe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_interpreters(monkeypatch, *gils)
    with thread_inside("waitress.server", "run"):
        assert launch.frames_are_safe() is safe
        assert bool(launch.stacks()) is safe
        assert proofs.seen_to_serve(None) == ("waitress" if safe else None)


def test_frames_are_left_alone_where_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "_interpreters", ModuleType("_interpreters"))
    assert not launch.frames_are_safe()
    assert launch.stacks() == {}
    assert "runs no jobs before its first request (stacks cannot be read here)" in launch.describe()


def test_frames_are_left_alone_on_a_free_threaded_build(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its GIL is on while an extension module is imported, and off again a moment later.
    monkeypatch.setattr(frames, "FREE_THREADED", True)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True, raising=False)
    assert not launch.frames_are_safe()
    assert launch.stacks() == {}


def test_importing_the_package_keeps_frames_readable() -> None:
    run(
        "import flask_delayq\n"
        "from flask_delayq import launch\n"
        "assert launch.frames_are_safe() and launch.stacks()\n"
        "import asyncio, concurrent.futures\n"
        "assert launch.frames_are_safe() and launch.stacks()\n"
    )


@ISOLATED
def test_frames_are_left_alone_for_as_long_as_an_isolated_interpreter_lives() -> None:
    run(
        INTERPRETERS
        + "isolated = module.create()\n"
        + "assert not launch.frames_are_safe() and launch.stacks() == {}\n"
        + "module.destroy(isolated)\n"
        + "assert launch.frames_are_safe() and launch.stacks()\n"
    )


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="before Python 3.13 nothing tells one kind from the other"
)
def test_an_interpreter_that_shares_the_gil_does_no_harm() -> None:
    run(
        INTERPRETERS
        + "sharing = module.create('legacy')\n"
        + "assert len(module.list_all()) == 2 and launch.frames_are_safe() and launch.stacks()\n"
        + "module.destroy(sharing)\n"
    )


def test_asking_for_stacks_survives_a_collection_on_any_python() -> None:
    # Garbage that holds a threading.local froze Python 3.11.0 to 3.11.8 when it was collected there.
    run(
        "import gc, threading\n"
        "from flask_delayq.launch import stacks\n"
        "class Garbage: pass\n"
        "gc.disable(); g = Garbage(); g.me = g; g.local = threading.local(); g.local.x = 1; del g\n"
        "def deep(n): return deep(n - 1) if n else stacks()\n"
        "gc.set_threshold(1); gc.enable(); assert deep(5); assert gc.isenabled()\n"
    )


def test_a_fork_while_another_thread_asks_leaves_the_child_able_to_ask() -> None:
    run("""
import gc, os, signal, sys, threading, warnings
from flask_delayq import launch

warnings.simplefilter("ignore")  # of a fork beside threads: that is what is tried
real, asking, answered = sys._current_frames, threading.Event(), threading.Event()

def hesitating():
    asking.set()
    answered.wait(20)
    return real()

sys._current_frames = hesitating
other = threading.Thread(target=launch.stacks)
other.start()
assert asking.wait(20) and not gc.isenabled()
child = os.fork()
if child == 0:
    signal.alarm(10)
    sys._current_frames = real
    os._exit(0 if launch.stacks() and gc.isenabled() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
answered.set()
other.join()
assert gc.isenabled()
""")


def test_an_exception_while_somebody_asks_leaves_the_collector_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thrown in from outside, at the end of the call that has switched it off."""

    class Collector(ModuleType):
        isenabled, enable = staticmethod(gc.isenabled), staticmethod(gc.enable)

        @staticmethod
        def disable() -> None:
            gc.disable()
            raise KeyboardInterrupt

    monkeypatch.setattr(frames, "gc", Collector("gc"))
    try:
        with pytest.raises(KeyboardInterrupt):
            launch.stacks()
        assert gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system knows no fork")
def test_a_signal_handler_may_fork_while_its_thread_asks() -> None:
    """The hook before a fork asks as well."""
    run("""
import gc, os, signal
from flask_delayq.launch import frames

forked = []

def fork(number, frame):
    if not forked:
        forked.append(os.getpid())
        pid = os.fork()
        if pid == 0:
            os._exit(0 if gc.isenabled() else 1)
        assert os.waitpid(pid, 0)[1] == 0

def safe():
    signal.raise_signal(signal.SIGUSR1)
    return True

signal.signal(signal.SIGUSR1, fork)
os.register_at_fork(before=lambda: frames.stacks().clear())
frames.frames_are_safe = safe
frames.stacks().clear()
assert forked and gc.isenabled() and not frames._paused
""")
