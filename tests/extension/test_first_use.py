"""What belongs to an app is made once, whoever comes first and however many come at once.

It must not know by which lock; what is made is looked at from outside.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, KeysView
from pathlib import Path

import pytest
from flask import Config

from kit import make_app

PROGRAM = Path(__file__).with_name("first_use.py")


@pytest.mark.parametrize("scheme", ["memory", "sqlite"])
@pytest.mark.parametrize(
    "interpreters", [2, pytest.param(50, marks=[pytest.mark.stress, pytest.mark.timeout(600)])]
)
def test_first_requests_and_the_start_come_at_once(
    tmp_path: Path, scheme: str, interpreters: int
) -> None:
    for n in range(interpreters):
        url = "memory://" if scheme == "memory" else f"sqlite:///{tmp_path}/{n}.sqlite3"
        ran = subprocess.run(
            [sys.executable, str(PROGRAM), url], capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == 0, f"interpreter {n}: {ran.stdout} {ran.stderr}"


class SlowConfig(Config):
    """Holds up whoever reads the settings from it until it is told to go on."""

    def hold(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __iter__(self) -> Iterator[str]:
        self.reached.set()
        assert self.go_on.wait(10)
        return super().__iter__()

    def keys(self) -> KeysView[str]:  # of this a merge of mappings asks
        return dict.fromkeys(self).keys()


def test_an_app_that_is_slow_to_begin_holds_up_no_other_one() -> None:
    slow_app, slow = make_app()
    slow_app.config = SlowConfig(slow_app.root_path, slow_app.config)
    slow_app.config.hold()
    _app, quick = make_app()
    first = threading.Thread(target=lambda: slow.client)
    first.start()
    try:
        assert slow_app.config.reached.wait(5)
        second = threading.Thread(target=lambda: quick.client, daemon=True)
        second.start()
        second.join(5)
        assert not second.is_alive(), "one app waits until the other has read its settings"
    finally:
        slow_app.config.go_on.set()
        first.join(5)


FORK = """
import os, sys, threading, warnings
sys.path[:0] = {path!r}
warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: that is what is tried
from extension.test_first_use import SlowConfig
from kit import make_app

app, delayq = make_app()
app.config = SlowConfig(app.root_path, app.config)
app.config.hold()
first = threading.Thread(target=lambda: delayq.client)
first.start()
assert app.config.reached.wait(5)
pid = os.fork()
app.config.go_on.set()
if pid == 0:
    threading.Timer(10, os._exit, (3,)).start()  # the lock of a thread that is not here
    delayq.task(name="t")(lambda: None).enqueue()
    os._exit(0)
first.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system knows no fork")
def test_a_child_does_not_wait_for_a_thread_of_its_parent() -> None:
    code = FORK.format(path=[str(PROGRAM.parents[1]), str(PROGRAM.parents[2])])
    ran = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert ran.returncode == 0
