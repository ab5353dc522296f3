"""Interpreters that end while jobs run and threads enqueue: `python exits.py TIMES`.

It must not end any of them other than by returning. They are forked, which is quick; their end is real.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import traceback

from product_app import create_app, note

from flask_delayq.signals import job_started

AT_ONCE = 3
KINDS = ("thread pool", "threads", "asyncio")


def live(chance: random.Random) -> None:
    """A script that starts jobs and comes to its end while they run."""
    app = create_app()
    delayq = app.extensions["delayq"]
    begun = threading.Event()

    def on_start(sender: object, **facts: object) -> None:
        begun.set()

    job_started.connect(on_start, app)
    delayq.start()
    # What a job uses must keep working in the drain: these begin new threads all the time.
    for kind in KINDS:
        note("ack", delayq.tasks.get("uses").enqueue(kind, 0.3).id)
    for _ in range(2):
        threading.Thread(target=produce, args=(delayq,), daemon=True).start()
    begun.wait(10)
    threading.Event().wait(chance.uniform(0, 0.1))
    note("exits")


def produce(delayq: object) -> None:
    quick = delayq.tasks.get("quick")
    while True:
        note("ack", quick.enqueue().id)
        time.sleep(0.01)


def reap() -> None:
    pid, status = os.wait()
    note("reaped", pid, os.waitstatus_to_exitcode(status))


def main(times: int) -> None:
    running = 0
    for n in range(times):
        if os.fork() == 0:
            try:
                live(random.Random(n))
            except BaseException:
                traceback.print_exc()
                raise
            return  # and so ends an interpreter
        running += 1
        if running == AT_ONCE:
            reap()
            running -= 1
    for _ in range(running):
        reap()


if __name__ == "__main__":
    main(int(sys.argv[1]))
