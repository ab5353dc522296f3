"""Finds what a test has leaked: threads, file descriptors, Flask contexts.

It must not know pytest; `conftest.py` applies it to every test.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import traceback
from collections import Counter

import flask.globals

from pace import quiet_seconds

GRACE = 2.0
"""Seconds a thread or descriptor may take to go away after its test."""

ONE_PER_PROCESS = frozenset({"delayq-launch"})
"""Threads that are meant to outlive a test."""


class LeakWatch:
    """Remembers what is open when it is created; `findings()` names what was opened since."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._descriptors = open_descriptors()

    def findings(self) -> list[str]:
        contexts = pop_contexts()
        began = time.monotonic()
        while (lines := self._still_open()) and quiet_seconds(began) < GRACE:
            gc.collect()
            time.sleep(0.005)
        return contexts + lines

    def _still_open(self) -> list[str]:
        lines = [describe(t) for t in threading.enumerate() if self._counts(t)]
        new = open_descriptors() - self._descriptors
        return lines + [f"file descriptor ({n} more): {t}" for t, n in sorted(new.items())]

    def _counts(self, thread: threading.Thread) -> bool:
        # A dummy represents a foreign thread that called `current_thread`; nothing ever removes it.
        return (
            thread not in self._threads
            and thread.name not in ONE_PER_PROCESS
            and not isinstance(thread, threading._DummyThread)
        )


def describe(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    where = "it has no frame"
    if frame is not None:
        top = traceback.extract_stack(frame)[-3:]
        where = " > ".join(f"{f.filename}:{f.lineno} {f.name}" for f in top)
    return f"thread {thread.name!r}: {where}"


def open_descriptors() -> Counter[str]:
    """How many descriptors this process has on each target; empty if there is no /proc."""
    targets: Counter[str] = Counter()
    if not os.path.isdir("/proc/self/fd"):
        return targets
    process_wide = shared_tracker_fd()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
        if int(name) != process_wide:
            # Deleting an open file makes no new descriptor.
            targets[target.removesuffix(" (deleted)")] += 1
    return targets


def shared_tracker_fd() -> int | None:
    """The pipe that multiprocessing opens once and keeps until the process ends."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    return getattr(getattr(module, "_resource_tracker", None), "_fd", None)


def pop_contexts() -> list[str]:
    """Pop every active Flask context, so that the next test starts clean; name each of them."""
    names = []
    # Looked up by name: newer Flask has one context variable, older has two.
    for variable in ("_cv_request", "_cv_app"):
        current = vars(flask.globals).get(variable)
        while current is not None and (context := current.get(None)) is not None:
            names.append(f"{type(context).__name__} of {context.app.name!r} is still pushed")
            context.pop()
    return names
