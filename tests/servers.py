"""Starts real programs as subprocesses of tests on free ports, reads their output, and ends them.

It must not know which programs; `waiting.py` has the bounded waiting.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent
APPS = ROOT / "tests" / "acceptance"
"""The folder of the apps that programs import."""
HOST = "127.0.0.1"

START_TIMEOUT = 20.0
"""Seconds until a server must listen; an import on a busy machine takes some of them."""

STOP_TIMEOUT = 10.0
"""Seconds in which a program may end when it is asked to, before it is killed."""

ANSWER_TIMEOUT = 60.0
"""The timeout of a request, in seconds: a test reaches it only if there is no answer."""

PORTS = (10_000, 32_000)
"""Below the ports that Linux gives to outgoing connections."""


@functools.cache
def find_uwsgi() -> str | None:
    """A uWSGI built with this Python; Debian's has none, or with a plugin its own."""
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    found = shutil.which("uwsgi", path=places)
    if found is None:
        return None
    asked = subprocess.run([found, "--python-version"], capture_output=True, text=True)
    ours = ".".join(map(str, sys.version_info[:3]))
    return found if asked.returncode == 0 and asked.stdout.strip().startswith(ours) else None


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A free port that no other test run on this machine gets meanwhile.

    It is not an ephemeral port: any outgoing connection could get such a port between the check and the
    start of the server.
    """
    with socket.socket(socket.AF_UNIX) as sign:
        while True:
            port = random.randrange(*PORTS)
            with contextlib.suppress(OSError), socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((HOST, port))
                if sys.platform == "linux":  # an abstract socket name; only one socket can have it
                    sign.bind(f"\0port {port} of the tests of flask_delayq")
                break
        yield port


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((HOST, port)) == 0


def fetch(
    url: str, *, method: str = "GET", body: bytes | None = None, timeout: float = ANSWER_TIMEOUT
) -> str:
    """The text of a successful answer; otherwise urllib's errors."""
    request = urllib.request.Request(url, data=body, method=method)
    with urllib.request.urlopen(request, timeout=timeout) as response:
        return str(response.read().decode())


class Program:
    """A running program in its own process group, with all processes that it starts.

    :ivar pid: the first process.
    :ivar log: the file with the output of all of them.
    :ivar port: where it serves, if it is a server.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int = 0) -> None:
        self._process = process
        self.pid = process.pid
        self.log = log
        self.port = port

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def output(self) -> str:
        """Its output so far."""
        return self.log.read_text("utf-8", "replace")

    def get(self, path: str = "/") -> str:
        """The text that the server answers; repeats while a restarting server refuses connections."""

        def answer() -> list[str]:
            try:
                return [fetch(self.url + path)]
            except (ConnectionError, urllib.error.URLError) as error:
                if isinstance(error, urllib.error.HTTPError):
                    raise
                return []

        return wait_until(answer, START_TIMEOUT, f"{self.url}{path} answers")[0]

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait_until_listening(self, timeout: float = START_TIMEOUT) -> float:
        """Return the moment (``time.time()``) at which the port was first seen open.

        :raises AssertionError: with the log, if the program ended instead.
        """

        def listens() -> bool:
            assert not self.has_ended(), f"ended before it listened:\n{self.output()}"
            return is_listening(self.port)

        wait_until(listens, timeout, f"port {self.port} is open")
        return time.time()

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Wait for the first process to end by itself; returns its exit status.

        :raises AssertionError: it did not, in `timeout` seconds.
        """
        wait_until(self.has_ended, timeout, f"process {self.pid} has ended")
        return self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the first process only."""
        self._process.send_signal(number)

    def terminate(self, number: signal.Signals = signal.SIGTERM, timeout: float = STOP_TIMEOUT) -> int:
        """Ask the first process to end; returns its exit status.

        :raises AssertionError: it did not, in `timeout` seconds.
        """
        if not self.has_ended():
            self._process.send_signal(number)
        return self.wait(timeout)

    def kill(self) -> None:
        """Kill the whole group at once, as a crash of the machine would."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(STOP_TIMEOUT)


@contextlib.contextmanager
def program(
    command: Sequence[str | os.PathLike[str]],
    *,
    folder: Path,
    env: Mapping[str, str] | None = None,
    port: int = 0,
    stdin: int = subprocess.DEVNULL,
) -> Iterator[Program]:
    """Run a command during a block; after the block none of its processes is left.

    :param folder: where it runs; its home and log are there as well, and modules in it can be imported.
    :param env: added to this process's environment without Flask's own variables.
    :param port: where it will serve, for :attr:`Program.url`.
    :param stdin: ``subprocess.PIPE`` keeps its input open and empty.
    """
    inherited = {key: text for key, text in os.environ.items() if not _steers(key)}
    paths = os.pathsep.join(map(str, [folder, ROOT, APPS]))
    ours = {"HOME": str(folder), "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    log = folder / "output.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**inherited, **ours, **(env or {})},
            stdin=stdin,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Program(process, log, port)
    try:
        yield running
    except BaseException as error:
        _add_note(error, f"--- {' '.join(map(str, command))} said:\n{running.output()[-6000:]}")
        raise
    finally:
        running.kill()
        if process.stdin is not None:
            process.stdin.close()


@contextlib.contextmanager
def server(
    command: Sequence[str | os.PathLike[str]],
    *,
    folder: Path,
    env: Mapping[str, str] | None = None,
) -> Iterator[Program]:
    """The same for a server; it listens when the block begins.

    It gets its port as ``"{port}"`` in the command and as the variable ``PORT``.
    """
    with reserved_port() as port:
        filled = [str(part).replace("{port}", str(port)) for part in command]
        environment = {"PORT": str(port), **(env or {})}
        with program(filled, folder=folder, env=environment, port=port) as running:
            running.wait_until_listening()
            yield running


def _steers(key: str) -> bool:
    """Whether a variable of the test run would change the behaviour of a program."""
    return key.startswith(("FLASK_", "WERKZEUG_", "DELAYQ_", "PYTEST_", "GUNICORN_"))


def _add_note(error: BaseException, note: str) -> None:
    if hasattr(error, "add_note"):  # Python 3.11
        error.add_note(note)
