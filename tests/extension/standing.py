"""Stand-ins for launch tests: calls and threads in functions of given names, a runtime that remembers.

It must not know which names mean anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from flask import Flask

T = TypeVar("T")


def inside(module: str, function: str, then: Callable[[], T]) -> T:
    """Call `then` from a function of this name that was written in this module."""
    return stacked([(module, function)], then)


def stacked(functions: list[tuple[str, str]], then: Callable[[], T]) -> T:
    """Call `then` from the last of these functions, and each of them from the one before."""
    for module, function in reversed(functions):
        namespace: dict[str, Any] = {"__name__": module}
        exec(f"def {function}(then): return then()", namespace)
        then = partial(namespace[function], then)  # adds no frame of its own
    return then()


@contextmanager
def thread_inside(module: str, function: str) -> Iterator[threading.Thread]:
    """A thread that stands in such a function for the length of a block."""
    entered, leave = threading.Event(), threading.Event()

    def stand() -> None:
        entered.set()
        leave.wait(10)

    thread = threading.Thread(target=inside, args=(module, function, stand))
    thread.start()
    try:
        assert entered.wait(5)
        yield thread
    finally:
        leave.set()
        thread.join()


class Recorder:
    """A runtime that only remembers what it was told, and by which thread."""

    name = "recorder"

    def __init__(self) -> None:
        self.wants = True
        self.error: Exception | None = None
        self.told: list[str] = []
        self.thread = ""

    def wants_to_start(self) -> bool:
        return self.wants

    def start_serving(self, proof: str) -> None:
        self.thread = threading.current_thread().name
        if self.error is not None:
            raise self.error
        self.told.append(proof)

    def decline(self, reason: str) -> None:
        self.told.append(f"declined: {reason}")


def make_app() -> Flask:
    app = Flask("launched")
    app.add_url_rule("/", "index", lambda: "answer")
    return app
