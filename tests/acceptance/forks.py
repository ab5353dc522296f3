"""A process that runs jobs and forks again and again while threads enqueue: `python forks.py TIMES`.

It must not be the tests' own process: a fork is for processes that nobody else lives in.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings

from product_app import create_app, note, open_files

# Python 3.12 warns of forks beside threads; that they go well is what is tried here.
warnings.simplefilter("ignore", DeprecationWarning)


def produce(delayq: object, over: threading.Event) -> None:
    quick = delayq.tasks.get("quick")
    while not over.is_set():
        note("ack", quick.enqueue().id)


def child(delayq: object, n: int) -> None:
    """Note what came over open; enqueue in every other child."""
    note("inherited", *open_files("delayq.sqlite3"))
    if n % 2:
        note("ack", delayq.tasks.get("quick").enqueue().id)
        note("opened", len(open_files("delayq.sqlite3")), delayq.client.runner is not None)


def main(times: int) -> None:
    app = create_app()
    delayq = app.extensions["delayq"]
    delayq.start()
    over = threading.Event()
    producers = [threading.Thread(target=produce, args=(delayq, over)) for _ in range(2)]
    for producer in producers:
        producer.start()
    for n in range(times):
        pid = os.fork()
        if pid == 0:
            child(delayq, n)
            if n % 3:
                os._exit(0)
            return  # the way an interpreter ends, with all that is registered for it
        note("child ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    over.set()
    for producer in producers:
        producer.join()
    assert delayq.join(60)
    assert delayq.stop(10)
    note("parent", os.getpid())


if __name__ == "__main__":
    main(int(sys.argv[1]))
