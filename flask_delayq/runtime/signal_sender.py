"""Sends the signals of a runtime, once the store has what they tell of, in a thread of their own.
Knows receivers as foreign code that may raise anything and take any time; decides no job's fate."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Context
from typing import Any

from msgspec import Struct

from ..backends.base import Backend, Inspectable
from ..clock import Clock
from ..errors import BackendError
from ..job import Claim, JobRecord, StoredState, Verb
from ..signals import Signal, emit_contained, job_cancelled
from ..texts import indented, traceback_of
from .ended import Ended

_log = logging.getLogger(__name__)

NEWS_LIMIT = 10_000
"""Signals that wait for receivers slower than the jobs; further ones are dropped."""

NEWS_BYTES = 64 * 2**20
"""Bytes of results and errors so kept at most, small ones not counted."""

REMIND_EVERY = 60.0
"""Seconds between two log lines about signals that are dropped."""

_AGAIN = frozenset({Verb.RETRY, Verb.SNOOZE, Verb.RELEASE})
"""What ends as cancelled instead where somebody asked for that meanwhile."""


class _News(Struct, eq=False, gc=False):
    signal: Signal
    facts: dict[str, object]
    ended: Ended | None = None


class SignalSender:
    """Tells receivers what has happened, in the order in which it did.

    Each signal is sent inside an app context of its own and an empty context of variables. Jobs never
    wait for receivers: what these cannot keep up with is dropped, and the log says so.

    :param sender: the sender of the signals.
    :param scope: makes that app context.
    :param wake: called when there is something to tell.
    :param on_quiet: called when everything is told.
    :param interruptible: let a KeyboardInterrupt through: in the main thread it is a person's Ctrl-C.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        sender: object,
        scope: Callable[[], AbstractContextManager[Any]],
        clock: Clock,
        wake: Callable[[], None] = lambda: None,
        on_quiet: Callable[[], None] = lambda: None,
        interruptible: bool = False,
    ) -> None:
        self._backend = backend
        self._sender = sender
        self._scope = scope
        self._wake = wake
        self._clock = clock
        self._on_quiet = on_quiet
        self._interruptible = interruptible
        self._news: deque[_News] = deque()
        self._sent = threading.Condition()
        # One is counted by whoever writes ends, the other by whoever tells: no lock.
        self._bytes_in = self._bytes_out = 0
        self._dropped = 0
        self._warned_at = float("-inf")
        self._at_work: tuple[str, float] | None = None
        """Who is called, and since when (monotonic)."""

    def tell(self, signal: Signal, **facts: object) -> None:
        """Send a signal soon, if anybody listens to it."""
        if signal.receivers:
            self._add(_News(signal, facts))

    def tell_end(self, ended: Ended) -> bool:
        """Send soon what is to be told of an end that is written; False if there is nothing, or if too
        much waits to be told."""
        outcome = ended.outcome
        if ended.signal is not None and ended.facts is not None:
            return self._add(_News(ended.signal, {"job": outcome.claim, **ended.facts}, ended))
        if outcome.verb in _AGAIN and job_cancelled.receivers:
            return self._add(_News(job_cancelled, {"job": outcome.claim}, ended))
        return False

    def _add(self, news: _News) -> bool:
        if len(self._news) >= NEWS_LIMIT or self._bytes_in - self._bytes_out > NEWS_BYTES:
            self._drop(news)
            return False
        if news.ended is not None:
            self._bytes_in += news.ended.weight
        self._news.append(news)
        self._wake()
        return True

    def _drop(self, news: _News) -> None:
        self._dropped += 1
        now = self._clock.monotonic()
        if now - self._warned_at >= REMIND_EVERY:
            self._warned_at = now
            _log.error(
                "%s is not sent (%d dropped by now): receivers are slower than the jobs, %d wait; %s",
                news.signal.name,
                self._dropped,
                len(self._news),
                self.at_work(0.0) or "none is called at the moment",
            )

    def at_work(self, seconds: float) -> str | None:
        """Who has been called for longer than that, in words; ``None``: nobody."""
        at_work = self._at_work
        if at_work is None:
            return None
        who, since = at_work
        elapsed = self._clock.monotonic() - since
        return f"{who} has not returned for {elapsed:.0f} s" if elapsed > seconds else None

    @property
    def backlog(self) -> int:
        """What is still to be told, the one under way included."""
        return len(self._news)

    def turn(self, now: float) -> None:
        """Tell all that there is."""
        while self._news:
            news = self._news[0]
            self._at_work = (f"the app context for {news.signal.name}", self._clock.monotonic())
            try:
                self._send(news)
            finally:
                self._at_work = None
                self._news.popleft()
                if news.ended is not None:
                    self._bytes_out += news.ended.weight
                    news.ended.let_go()
        with self._sent:
            self._sent.notify_all()
        self._on_quiet()

    def await_empty(self, timeout: float) -> bool:
        """Wait until everything is told, at most ``timeout`` seconds; True if it is."""
        with self._sent:
            return self._sent.wait_for(lambda: not self._news, timeout)

    def _send(self, news: _News) -> None:
        try:
            Context().run(self._send_in_scope, news)
        except BaseException as error:  # foreign code: teardown functions, an app that is gone
            if self._interruptible and isinstance(error, KeyboardInterrupt):
                raise
            # Not log.exception: the logging module would write foreign text as it is.
            _log.error("%s could not be sent\n%s", news.signal.name, indented(traceback_of(error)))

    def _send_in_scope(self, news: _News) -> None:
        with self._scope():
            ended = news.ended
            if ended is not None and ended.outcome.verb in _AGAIN:
                cancelled = self._cancelled(ended.outcome.claim)
                if cancelled is None and ended.signal is None:
                    return
                if cancelled is not None and not cancelled.cancel_requested:
                    return  # it waited by then, and whoever cancelled it has told of that
                if cancelled is not None:
                    news = _News(job_cancelled, {"job": ended.outcome.claim, "reason": ""})
            name = news.signal.name

            def calling(receiver: object) -> None:
                self._at_work = (f"{_name_of(receiver)}, a receiver of {name},", self._clock.monotonic())

            emit_contained(
                news.signal,
                self._sender,
                interruptible=self._interruptible,
                facts=news.facts,
                calling=calling,
            )

    def _cancelled(self, claim: Claim) -> JobRecord | None:
        """The record of a job that was to run again, if it is cancelled by now."""
        if not isinstance(self._backend, Inspectable):
            return None
        try:
            record = self._backend.get(claim.id)
        except BackendError:
            return None
        if record is None or record.claim_no != claim.claim_no:
            return None
        return record if record.stored is StoredState.CANCELLED else None


def _name_of(receiver: object) -> str:
    kind = type(receiver)
    module = getattr(receiver, "__module__", kind.__module__)
    return f"{module}.{getattr(receiver, '__qualname__', kind.__qualname__)}"
