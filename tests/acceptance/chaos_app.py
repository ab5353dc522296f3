"""An app whose jobs and producers note what they do, each process in a file of its own.

It must not ask the store what happened: the store is judged by these notes.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

from flask import Flask

from flask_delayq import DelayQ, current_job
from flask_delayq.testing.faults import Fault, install

FLAKY_PAUSE = 0.05
"""Seconds before a failed job runs again."""


class Notes:
    """One process's file of events: a line is one write, so that a kill leaves whole lines."""

    def __init__(self, folder: str, name: str) -> None:
        self.name = name
        self._file = os.open(
            Path(folder, f"{name}.notes"), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
        )

    def add(self, event: str, *facts: object) -> None:
        words = (event, repr(time.monotonic()), repr(time.time()), *map(str, facts))
        os.write(self._file, ("\t".join(words) + "\n").encode())

    def close(self) -> None:
        os.close(self._file)


def create_app(spec: dict[str, Any] | None = None) -> Flask:
    """The app, as the test describes it (for commands by the variable ``CHAOS``).

    ``name`` and ``notes`` (a folder) say where to note; ``config`` is the app's; ``beat`` adds a
    periodic task of so many seconds; ``fault`` is a fault point where this process kills itself;
    ``takes``: each claim that a worker takes in hand is noted, right before it is marked as begun.
    """
    spec = spec or json.loads(os.environ["CHAOS"])
    app = Flask("chaos", instance_path=spec["notes"])
    app.config.update(spec["config"])
    delayq = DelayQ(app)
    notes = Notes(spec["notes"], spec["name"])
    app.extensions["chaos"] = (delayq, notes)
    register(delayq, notes, spec.get("beat"))
    if spec.get("takes"):
        note_what_is_taken(delayq, notes)
    if spec.get("fault"):
        when, verb, nth = spec["fault"].split(":")
        install(delayq, Fault(verb, int(nth), when=when, action=lambda: die(notes, "kill")))
    return app


def note_what_is_taken(delayq: DelayQ, notes: Notes) -> None:
    backend: Any = delayq.state.backend
    mark_begun = backend.mark_begun

    def noted(claim: Any) -> None:
        notes.add("takes", claim.id, claim.claim_no)
        mark_begun(claim)

    backend.mark_begun = noted


def register(delayq: DelayQ, notes: Notes, beat: float | None) -> None:
    def begin() -> None:
        notes.add("begin", current_job.id, current_job.attempt, current_job.claim.claim_no)

    def end() -> None:
        notes.add("end", current_job.id, current_job.attempt, current_job.claim.claim_no)

    @delayq.task(name="work", max_attempts=9, backoff=[FLAKY_PAUSE])
    def work(seconds: float = 0.0, failures: int = 0) -> int:
        begin()
        if seconds:
            time.sleep(seconds)
        end()
        if current_job.attempt <= failures:
            raise ValueError("as planned")
        return current_job.attempt

    @delayq.task(name="hold")
    def hold(gates: str) -> str:
        """Run until a file named like this process appears in a folder, a minute at most."""
        begin()
        deadline = time.monotonic() + 60
        while not Path(gates, notes.name).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        end()
        return notes.name

    @delayq.task(name="threads")
    def threads() -> dict[str, int]:
        """The threads of this process: name and number."""
        return {thread.name: thread.native_id or 0 for thread in threading.enumerate()}

    def crash(how: str) -> None:
        begin()
        die(notes, how)

    @delayq.task(name="once", on_crash="fail")
    def once(seconds: float = 0.0) -> None:
        begin()
        time.sleep(seconds)
        end()

    delayq.task(name="crash")(crash)
    delayq.task(name="crash_once", on_crash="fail")(crash)

    if beat is not None:

        @delayq.task(name="beat", every=beat)
        def on_beat() -> None:
            begin()
            end()


def die(notes: Notes, how: str) -> None:
    """End this process the hard way; the note is first, so nothing of it runs later than that."""
    notes.add("dies", how)
    if how == "exit":
        os._exit(0)
    elif how == "abort":
        os.abort()
    elif how == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)


# --- a process of the app, as the nursery starts it --------------------------------------------------


def live(spec: dict[str, Any]) -> None:
    """Run jobs (``run``; ``drain``: once what is due, in one thread) and produce some (``produce``:
    threads, each, pause, plain) until SIGTERM, which is blocked already, in this thread and thus in all
    that it starts; ``unguarded``: it is not, and ends the process at once, as it does with
    ``flask run``."""
    if spec.get("unguarded"):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    app = create_app(spec)
    delayq, notes = app.extensions["chaos"]
    try:
        if spec.get("run"):
            delayq.start()
        if spec.get("drain"):
            threading.Thread(target=delayq.drain, daemon=True).start()
        stop = threading.Event()
        producers = Producers(delayq, notes, spec["produce"], stop) if spec.get("produce") else None
        notes.add("lives")
        signal.sigwait({signal.SIGTERM})
        stop.set()
        if producers is not None:
            producers.join()
        delayq.stop(10)
        delayq.state.close()
    except BaseException as error:
        notes.add("trouble", repr(error))
        raise


class Producers:
    """Threads that enqueue and note each id once the call has returned.

    :param plan: ``threads``; ``each``: jobs per thread, else until told to stop; ``pause``: seconds
        between two calls; ``plain``: immediate jobs that do nothing; ``least``, ``most``: bounds
        of each delay, else one in four is delayed by up to 2 s; ``seed``.
    """

    def __init__(
        self, delayq: DelayQ, notes: Notes, plan: dict[str, Any], stop: threading.Event
    ) -> None:
        self._task = delayq.tasks.get("work")
        self._notes = notes
        self._plan = plan
        self._stop = stop
        self._threads = [
            threading.Thread(target=self._produce, args=(index,)) for index in range(plan["threads"])
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _produce(self, index: int) -> None:
        chance = random.Random(f"{self._plan.get('seed')}-{index}")
        for _ in range(self._plan.get("each", 10**9)):
            if self._stop.is_set():
                break
            try:
                self._call(chance)
            except Exception as error:
                self._notes.add("trouble", repr(error))
            if self._plan.get("pause"):
                self._stop.wait(self._plan["pause"])
        self._notes.add("produced", index)

    def _call(self, chance: random.Random) -> None:
        seconds = delay = 0.0
        failures, count = 0, 1
        if not self._plan.get("plain"):
            seconds = chance.choice((0, 0, 0, 0.002, 0.002, 0.05))
            failures = chance.choice((0, 0, 0, 0, 0, 0, 1, 2))
            delay = chance.uniform(0, 2) if chance.random() < 0.25 else 0.0
            if "least" in self._plan:
                delay = chance.uniform(self._plan["least"], self._plan["most"])
            count = 5 if chance.random() < 0.1 else 1
        if count == 1 and delay:
            jobs = [self._task.enqueue_in(delay, seconds, failures)]
        elif count == 1:
            jobs = [self._task.enqueue(seconds, failures)]
        else:
            jobs = self._task.enqueue_many([(seconds, failures)] * count, delay=delay or None)
        for job in jobs:
            self._notes.add("ack", job.id, repr(job.record.run_at), failures)
