"""``flask delayq worker``: runs jobs in this process until a signal or ``--max-jobs`` ends it.
Knows how to start and stop a runtime; does not choose the jobs."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

import click
from flask import current_app
from flask.logging import default_handler
from msgspec import structs

from ..app_state import DRAIN_WORKER, AppState, current_state
from ..clock import Clock
from ..console.names import misspelt_queue
from ..errors import DelayQError
from ..ids import check_name
from ..runtime.identity import WORKER
from ..signals import job_started
from .group import delayq_commands

_log = logging.getLogger(__name__)

PACKAGE = __name__.partition(".")[0]
"""The parent of all loggers of this package."""

HURRIED = 1.0
"""Seconds that running jobs still get after a second signal."""

LOOK_EVERY = 0.05
"""Seconds between two checks whether all jobs have ended."""


@delayq_commands.command("worker")
@click.option("--queues", metavar="A,B", help="Only jobs of these queues.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Threads, instead of DELAYQ_WORKERS.")
@click.option("--max-jobs", type=click.IntRange(1), help="Stop after about so many runs.")
@click.option("--verbose", "level", flag_value="DEBUG", help="Log at DEBUG.")
@click.option("--quiet", "level", flag_value="WARNING", help="Do not log starts and successes.")
@click.pass_context
def worker(
    ctx: click.Context,
    queues: str | None,
    workers: int | None,
    max_jobs: int | None,
    level: str | None,
) -> None:
    """Run jobs in this process until SIGTERM or Ctrl-C.

    Running jobs then get 25 seconds (DELAYQ_DRAIN_TIMEOUT) to end. A second signal shortens that to one
    second; a third ends the process at once. Exit code 0 if all jobs ended.
    """
    state = current_state()
    _log_to_stderr()
    if level is not None:
        logging.getLogger(PACKAGE).setLevel(level)  # also where the app has set logging up
    changes: dict[str, Any] = {}
    if queues is not None:
        changes["queues"] = tuple(check_name("queue", name.strip()) for name in queues.split(","))
    if workers is not None:
        changes["workers"] = workers
    settings = structs.replace(state.settings, **changes)
    for doubt in _misspelt(state, settings.queues or ()):
        _log.warning("%s", doubt)
    with StopRequest.heard() as stop_request, _counted(state, max_jobs, stop_request):
        _log.info(
            "worker %d runs jobs of %s with %d threads, %d tasks (%s)",
            os.getpid(),
            ", ".join(settings.queues) if settings.queues else "all queues",
            settings.workers,
            len(state.registry),
            state.backend.url,
        )
        if not len(state.registry):
            _log.warning("no task is registered here: import the modules that define them with the app")
        state.start(role=WORKER, settings=settings)
        reason = stop_request.await_stop()
        timeout = DRAIN_WORKER if settings.drain_timeout is None else settings.drain_timeout
        _log.info("worker %d stops after %s; jobs get %g s to end", os.getpid(), reason, timeout)
        finished = _drain(state, stop_request, timeout)
    how = "all its jobs had ended" if finished else "unfinished jobs will run again elsewhere"
    _log.info("worker %d has stopped, %s", os.getpid(), how)
    ctx.exit(0 if finished else 1)


def _misspelt(state: AppState, names: Iterable[str]) -> Iterator[str]:
    """A sentence for each unknown queue if a known one has a similar name."""
    with suppress(DelayQError):  # the runtime logs that the store is unavailable
        yield from filter(None, (misspelt_queue(state, name) for name in names))


class StopRequest:
    """The requests to stop this worker, from signals or ``--max-jobs``.

    Only a ``SimpleQueue`` can be used by a signal handler while the same thread waits on it.
    """

    def __init__(self) -> None:
        self.signals = 0
        self._asked: SimpleQueue[str] = SimpleQueue()

    @classmethod
    @contextmanager
    def heard(cls) -> Iterator[StopRequest]:
        """Handle SIGTERM and SIGINT; the old handlers are restored at the end."""
        stop_request = cls()
        before = [(number, signal.signal(number, stop_request._on_signal)) for number in _SIGNALS]
        try:
            yield stop_request
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def stop(self, reason: str) -> None:
        """Ask the worker to stop; from any thread."""
        self._asked.put(reason)

    def await_stop(self) -> str:
        """Wait for a request to stop; returns its reason."""
        while True:
            try:
                return self._asked.get(timeout=1.0)  # on some systems no signal ends an endless wait
            except Empty:
                continue

    def await_end(self, ended: Callable[[], bool], seconds: float, clock: Clock) -> None:
        """Wait until ``ended()``, the timeout or a second signal."""
        deadline = clock.monotonic() + seconds
        while not ended() and self.signals < 2:
            left = deadline - clock.monotonic()
            if left <= 0:
                return
            try:
                self._asked.get(timeout=min(left, LOOK_EVERY))
            except Empty:
                continue

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
        if self.signals >= 3:
            os._exit(128 + number)
        self.stop(signal.Signals(number).name)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _drain(state: AppState, stop_request: StopRequest, timeout: float) -> bool:
    """Let running jobs end; True if all of them did.

    The last second is for the runtime's own stop, which cannot be shortened.
    """
    last = min(timeout, HURRIED)
    _begin_no_more(state)
    stop_request.await_end(lambda: _is_idle(state), timeout - last, state.clock)
    return state.stop(last)


def _is_idle(state: AppState) -> bool:
    supervisor = state.supervisor
    return supervisor is None or supervisor.is_idle


def _begin_no_more(state: AppState) -> None:
    """Claim nothing more, and release claims that have not begun."""
    supervisor = state.supervisor
    if supervisor is not None:
        supervisor.begin_no_more()


@contextmanager
def _counted(state: AppState, most: int | None, stop_request: StopRequest) -> Iterator[None]:
    """Stop the worker after so many runs have begun. With several threads a few more may begin at the
    same time; with one thread the number is exact."""
    if most is None:
        yield
        return
    begun = count(1)

    def on_start(sender: object, **facts: object) -> None:
        if next(begun) == most:
            _begin_no_more(state)
            stop_request.stop(f"{most} jobs")

    with job_started.connected_to(on_start, sender=state.app):
        yield


def _log_to_stderr() -> None:
    """Log at INFO to stderr, unless the app has configured logging."""
    if logging.getLogger().handlers:
        return
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    current_app.logger.removeHandler(default_handler)  # its lines would be duplicates
