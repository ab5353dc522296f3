"""The pool for closures: an app context and empty variables for each call, and nothing kept.

Must not know jobs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from contextvars import ContextVar

import pytest
from flask import Flask, current_app, g, has_app_context

from flask_delayq.context_executor import ContextExecutor
from waiting import wait_until

flavour: ContextVar[str] = ContextVar("flavour")


@pytest.fixture
def app() -> Flask:
    return Flask("background")


@pytest.fixture
def executor(app: Flask) -> Iterator[ContextExecutor]:
    with ContextExecutor(app.app_context, 2) as executor:
        yield executor


def test_a_call_runs_in_a_context_of_its_own(app: Flask, executor: ContextExecutor) -> None:
    def call(x: int, *, y: int) -> tuple[str, int, int, bool]:
        first = not hasattr(g, "seen")
        g.seen = True
        return current_app.name, x, y, first

    with app.app_context():
        futures = [executor.submit(call, number, y=2) for number in range(8)]
        assert [future.result(5) for future in futures] == [("background", n, 2, True) for n in range(8)]
        assert not hasattr(g, "seen")
    assert not has_app_context()


def test_context_variables_are_empty_and_stay_in_the_call(executor: ContextExecutor) -> None:
    def call() -> str:
        found = flavour.get("none")
        flavour.set("bitter")
        return found

    token = flavour.set("outside")
    assert [executor.submit(call).result(5) for _ in range(4)] == ["none"] * 4
    assert flavour.get() == "outside"
    flavour.reset(token)


def test_arguments_may_have_any_name(executor: ContextExecutor) -> None:
    def call(self: int, fn: int) -> int:
        return self + fn

    assert executor.submit(call, self=1, fn=2).result(5) == 3


def test_what_a_call_raises_is_in_its_future_and_teardown_runs(
    app: Flask, executor: ContextExecutor
) -> None:
    torn_down: list[str] = []

    @app.teardown_appcontext
    def note(error: BaseException | None) -> None:
        torn_down.append(type(error).__name__)

    def call() -> None:
        raise LookupError("no")

    with pytest.raises(LookupError):
        executor.submit(call).result(5)
    assert torn_down == ["LookupError"]


def test_map_keeps_the_order(executor: ContextExecutor) -> None:
    assert list(executor.map(lambda a, b: a * b, [1, 2, 3], [4, 5, 6])) == [4, 10, 18]


def test_pending_counts_what_has_not_ended(executor: ContextExecutor) -> None:
    go_on = threading.Event()
    futures = [executor.submit(go_on.wait, 5) for _ in range(3)]
    assert executor.pending == 3
    go_on.set()
    wait(futures, 5)
    wait_until(lambda: executor.pending == 0, what="nothing is pending")


def test_what_is_cancelled_at_the_end_is_not_pending(app: Flask) -> None:
    executor = ContextExecutor(app.app_context, 1)
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        go_on.wait(5)

    held = executor.submit(hold)
    assert inside.wait(5)
    never = executor.submit(hold)
    executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        never.result(5)
    assert executor.pending == 1
    go_on.set()
    held.result(5)
    executor.shutdown(wait=True)
    assert executor.pending == 0
    with pytest.raises(RuntimeError):
        executor.submit(hold)
    assert executor.pending == 0
