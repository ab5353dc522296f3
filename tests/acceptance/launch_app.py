"""A Flask app whose runtime is a line in a file: it shows which processes are launched, and when.

It must not use the rest of the extension, so that only `flask_delayq.launch` is on trial.
"""

from __future__ import annotations

import os
import threading
import time

from flask import Flask, request_started

from flask_delayq.launch import arm

LINGER = 0.7
"""Seconds that a forked child or a slow view stays: the watcher's questions come every 0.1 s."""


def note(event: str, text: str = "") -> None:
    """Append to the file of events, in one write, so that lines of several processes never mix."""
    line = f"{event}\t{os.getpid()}\t{os.getppid()}\t{time.time()}\t{text}\n"
    target = os.open(os.environ["LAUNCH_EVENTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(target, line.encode())
    finally:
        os.close(target)


class Recorder:
    """Stands where the extension has an app's runtime."""

    name = "launch_app"

    def __init__(self, app: Flask) -> None:
        self.app = app

    def wants_to_start(self) -> bool:
        return not self.app.testing

    def start_serving(self, proof: str) -> None:
        note("started", proof)

    def decline(self, reason: str) -> None:
        note("declined", reason)


def create_app() -> Flask:
    app = Flask("launched")
    app.extensions["recorder"] = recorder = Recorder(app)
    arm(recorder, app)

    @app.get("/")
    def pid() -> str:
        return str(os.getpid())

    @app.get("/linger")
    def slow_pid() -> str:
        linger()
        return str(os.getpid())

    @app.get("/fork")
    def fork() -> str:
        child = os.fork()
        if child == 0:
            try:
                request_started.send(app)  # not even a request makes a child of a server start
                linger()
                note("child ends")
            finally:
                os._exit(0)
        return str(child)

    app.cli.command("idle")(linger)
    return app


def loaded() -> None:
    """Note that the app is complete, and the threads there are."""
    note("loaded", " ".join(sorted(thread.name for thread in threading.enumerate())))


def linger() -> None:
    """Stay long enough for a launch that should not be."""
    threading.Event().wait(LINGER)
