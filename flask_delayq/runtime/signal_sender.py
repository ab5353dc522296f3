"""Sends the signals of a runtime, after the store has the change, in their own thread.
Knows receivers as foreign code that may raise anything and take any time; changes no outcome."""

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
"""Maximum number of signals that wait for slow receivers; further ones are dropped."""

NEWS_BYTES = 64 * 2**20
"""Maximum bytes of results and errors that wait, not counting small ones."""

REMIND_EVERY = 60.0
"""Seconds between two log lines about signals that are dropped."""

_AGAIN = frozenset({Verb.RETRY, Verb.SNOOZE, Verb.RELEASE})
"""Verbs that end as cancelled if a cancel was requested meanwhile."""


class _News(Struct, eq=False, gc=False):
    signal: Signal
    facts: dict[str, object]
    ended: Ended | None = None


class SignalSender:
    """Sends signals to receivers, in the order of the events.

    Each signal is sent inside a new app context and with empty context variables. Jobs never
    wait for receivers: if receivers are too slow, signals are dropped, and the log says so.

    :param sender: the sender of the signals.
    :param scope: makes that app context.
    :param wake: called when there is a signal to send.
    :param on_quiet: called when all signals are sent.
    :param interruptible: raise a KeyboardInterrupt: in the main thread it is a person's Ctrl-C.
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
        # One is counted by the thread that records, the other by the thread that sends: no lock.
        self._bytes_in = self._bytes_out = 0
        self._dropped = 0
        self._warned_at = float("-inf")
        self._at_work: tuple[str, float] | None = None
        """Which receiver is running, and since when (monotonic)."""

    def tell(self, signal: Signal, **facts: object) -> None:
        """Send a signal soon, if it has receivers."""
        if signal.receivers:
            self._add(_News(signal, facts))

    def tell_end(self, ended: Ended) -> bool:
        """Send the signal of a recorded outcome soon; False if there is none, or if too many signals
        wait."""
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
                self.at_work(0.0) or "no receiver is running now",
            )

    def at_work(self, seconds: float) -> str | None:
        """The receiver that has been running for longer than this, in words; ``None``: none."""
        at_work = self._at_work
        if at_work is None:
            return None
        who, since = at_work
        elapsed = self._clock.monotonic() - since
        return f"{who} has not returned for {elapsed:.0f} s" if elapsed > seconds else None

    @property
    def backlog(self) -> int:
        """The number of signals to send, including the current one."""
        return len(self._news)

    def turn(self, now: float) -> None:
        """Send all waiting signals."""
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
        """Wait until all signals are sent, at most ``timeout`` seconds; True if they are."""
        with self._sent:
            return self._sent.wait_for(lambda: not self._news, timeout)

    def _send(self, news: _News) -> None:
        try:
            Context().run(self._send_in_scope, news)
        except BaseException as error:  # foreign code: teardown functions, a garbage-collected app
            if self._interruptible and isinstance(error, KeyboardInterrupt):
                raise
            # Not log.exception: the logging module would not escape the foreign text.
            _log.error("%s could not be sent\n%s", news.signal.name, indented(traceback_of(error)))

    def _send_in_scope(self, news: _News) -> None:
        with self._scope():
            ended = news.ended
            if ended is not None and ended.outcome.verb in _AGAIN:
                cancelled = self._cancelled(ended.outcome.claim)
                if cancelled is None and ended.signal is None:
                    return
                if cancelled is not None and not cancelled.cancel_requested:
                    return  # it was waiting again, and the cancel has sent the signal
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
