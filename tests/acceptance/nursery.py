"""A process that makes processes of `chaos_app` by forking, in milliseconds each, and ends them.

It must not know what they are for. It never opens a store itself, so every child begins anew; being
their parent it knows for certain which child a pid is.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from servers import APPS, ROOT
from waiting import wait_until


class Nursery:
    """The test's side.

    :param folder: where the children note what they do, and the log of all of them is.
    :ivar deaths: by name of a child, the moment (monotonic) at which it was killed.
    """

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self.folder = folder
        self.deaths: dict[str, float] = {}
        self.names: list[str] = []

    def start(self, name: str, **spec: Any) -> str:
        """Start a child, described for `chaos_app.live` and `chaos_app.create_app`; its name."""
        self._ask(do="start", name=name, spec={"name": name, "notes": str(self.folder), **spec})
        self.names.append(name)
        return name

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End it by a signal that it does not handle; returns once it is gone."""
        answer = self._ask(do="kill", name=name, number=int(number))
        if answer["status"] == -number:
            self.deaths.setdefault(name, answer["at"])

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a child that lives."""
        self._ask(do="send", name=name, number=int(number))

    def status(self, name: str) -> int | None:
        """How it ended: its exit status, or minus the signal; ``None`` while it lives."""
        status: int | None = self._ask(do="status", name=name)["status"]
        return status

    def pid(self, name: str) -> int:
        pid: int = self._ask(do="status", name=name)["pid"]
        return pid

    def living(self) -> list[str]:
        return [name for name in self.names if self.status(name) is None]

    def stop(self, *names: str, timeout: float = 20) -> None:
        """SIGTERM to these, or to all that live; they must end well."""
        stopped = names or tuple(self.living())
        for name in stopped:
            self.send(name, signal.SIGTERM)
        for name in stopped:
            wait_until(lambda name=name: self.status(name) is not None, timeout, f"{name} ends")
            assert self.status(name) == 0, f"{name}: {self.status(name)}\n{self.log()}"

    def log(self) -> str:
        """The end of what all of them said."""
        return (self.folder / "nursery.log").read_text("utf-8", "replace")[-6000:]

    def _ask(self, **question: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the nursery has ended:\n{self.log()}"
        return json.loads(answer)


@contextlib.contextmanager
def nursery(folder: Path) -> Iterator[Nursery]:
    """A nursery for the length of a block; afterwards none of its children is left."""
    paths = os.pathsep.join(map(str, [ROOT, ROOT / "tests", APPS]))
    inherited = {
        key: text for key, text in os.environ.items() if not key.startswith(("FLASK_", "DELAYQ_"))
    }
    with (folder / "nursery.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", str(Path(__file__).resolve())],
            cwd=folder,
            env={**inherited, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    made = Nursery(process, folder)
    try:
        yield made
    except BaseException as error:
        if hasattr(error, "add_note"):  # Python 3.11
            error.add_note(f"--- the nursery's log:\n{made.log()}")
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


# --- the nursery's own side --------------------------------------------------------------------------


class Children:
    """Forks and reaps; one question at a time."""

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}
        self._statuses: dict[str, int] = {}

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        name = question["name"]
        at = 0.0
        if question["do"] == "start":
            self._start(name, question["spec"])
        status = self._reap(name, os.WNOHANG)
        if status is None and question["do"] == "send":
            os.kill(self._pids[name], question["number"])
        elif status is None and question["do"] == "kill":
            at = time.monotonic()
            os.kill(self._pids[name], question["number"])
            status = self._reap(name, 0)
        return {"status": status, "at": at, "pid": self._pids[name]}

    def _start(self, name: str, spec: dict[str, Any]) -> None:
        assert name not in self._pids, name
        pid = os.fork()
        if pid:
            self._pids[name] = pid
            return
        status = 1
        try:
            for pipe in (0, 1):  # the pipes to the test are the nursery's
                os.dup2(2, pipe)
            chaos_app.live(spec)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _reap(self, name: str, options: int) -> int | None:
        if name not in self._statuses:
            pid, status = os.waitpid(self._pids[name], options)
            if pid:
                self._statuses[name] = os.waitstatus_to_exitcode(status)
        return self._statuses.get(name)


def main() -> None:
    # A child inherits it, so that no signal is lost before it waits for one.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    children = Children()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        answers.write(json.dumps(children.answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    import chaos_app

    main()
