"""The programs that some rows need, started on a free port of 127.0.0.1 and ended by their pid.
Knows no row."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .alone import ROOT, NotMeasured

START = 15.0
"""Seconds within which a server must answer."""
END = 8.0
"""Seconds in which a server may end by itself, before it is killed."""


def need(program: str) -> str:
    """The path of a program.

    :raises NotMeasured: it is not installed.
    """
    found = shutil.which(program)
    if found is None:
        raise NotMeasured(f"needs {program}")
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def running(command: list[str], folder: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs until the block ends."""
    with open(folder / "server.log", "ab") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def gunicorn(folder: Path, kind: str, **environment: str) -> Iterator[int]:
    """One gunicorn worker of four threads that serves ``web_app``; gives its port."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-w", "1", "--threads", "4", "-b", f"127.0.0.1:{port}"]
    command += ["--log-level", "warning", "--no-control-socket", f"benchmarks.web_app:make('{kind}')"]
    with running(command, folder, **environment) as process:
        await_answer(process, lambda: ask(port, "/") == "ok")
        yield port


@contextmanager
def redis(folder: Path) -> Iterator[int]:
    """A redis-server with its default settings; gives its port."""
    port = free_port()
    command = [need("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with running(command, folder) as process:
        await_answer(process, lambda: _pings(port))
        yield port


def _pings(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), 1) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(16).startswith(b"+PONG")


def await_answer(process: subprocess.Popen[bytes], answers: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if answers():
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.02)
    raise NotMeasured("a server did not start")


def ask(port: int, path: str) -> str:
    """The body of one GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def wrk(folder: Path, port: int, seconds: float, connections: int = 8) -> float:
    """Requests per second of ``POST /``.

    :raises NotMeasured: wrk is missing, or requests failed.
    """
    script = folder / "post.lua"
    script.write_text('wrk.method = "POST"\n')
    command = [need("wrk"), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/"],
        capture_output=True,
        text=True,
        timeout=seconds + 20,
        check=True,
    )
    trouble = re.search(r"Non-2xx.*|Socket errors.*", done.stdout)
    if trouble:
        raise NotMeasured(trouble.group())
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    assert found, done.stdout
    return float(found.group(1))
