"""``delayq.executor``: a thread pool for closures that need not survive the process.
Adds the app context to the standard library's pool; knows no job and no store."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import Context
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class ContextExecutor(ThreadPoolExecutor):
    """A ``ThreadPoolExecutor`` with its own threads; each call runs in a new app context and with
    empty context variables. Calls are lost when the process ends; use jobs if they must survive.

    :param scope: makes the app context of one call.
    :param workers: maximum number of threads.
    """

    def __init__(self, scope: Callable[[], AbstractContextManager[Any]], workers: int) -> None:
        super().__init__(max_workers=workers, thread_name_prefix="delayq-executor")
        self._scope = scope
        self._pending: set[Future[Any]] = set()

    @property
    def pending(self) -> int:
        """The number of submitted calls that have not ended."""
        return len(self._pending)

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run ``fn(*args, **kwargs)`` in the background; returns its future at once.

        :raises RuntimeError: after shutdown.
        """

        def call() -> R:
            with self._scope():
                return fn(*args, **kwargs)

        future = super().submit(Context().run, call)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future
