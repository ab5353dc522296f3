"""Fault points for tests: make a backend's n-th call fail, or kill the process right before or after it.
Must not be used outside tests; nothing in the package imports it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from ..backends.base import Backend, Inspectable, Schedulable
from ..errors import BackendUnavailableError

SURE = frozenset({"mark_begun", "unmark_begun", "let_go"})
"""Verbs without a transaction."""


class Fault:
    """One fault: its place, the number of the call, and what happens there.

    :param verb: a verb of the backend, or ``"*"`` for any verb that can fail (all but :data:`SURE`).
    :param nth: the number of the call of this verb, from 1; counted over all threads.
    :param when: ``"before"`` the call or ``"after"`` it (then its effect is in the store). ``record``,
        ``"before"`` is between a task's return and the record of its outcome.
    :param action: ``"kill"``: end this process as SIGKILL does; ``"fail"``: raise
        :class:`BackendUnavailableError`; or a callable without arguments.
    """

    def __init__(
        self, verb: str, nth: int = 1, *, when: str = "before", action: str | Callable[[], None] = "fail"
    ) -> None:
        if when not in ("before", "after") or (isinstance(action, str) and action not in _ACTIONS):
            raise ValueError(f"unknown fault: {when} {action}")
        self.verb = verb
        self.nth = nth
        self.when = when
        self.action = _ACTIONS[action] if isinstance(action, str) else action

    @classmethod
    def parse(cls, text: str) -> Fault:
        """A fault from ``"kill:before:record:3"`` (action, when, verb, nth), as tests pass it to
        subprocesses."""
        action, when, verb, nth = text.split(":")
        return cls(verb, int(nth), when=when, action=action)


class FaultyBackend(Backend, Inspectable, Schedulable):
    """Wraps a backend and adds faults.

    :ivar calls: the number of calls of each verb so far.
    """

    def __init__(self, inner: Any, *faults: Fault) -> None:
        self.inner = inner
        self.faults = list(faults)
        self.calls: dict[str, int] = {}
        self.total = 0
        self._lock = threading.Lock()

    def _call(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self.total += verb not in SURE
            nth = self.calls[verb] = self.calls.get(verb, 0) + 1
            total = self.total
        struck = [
            fault
            for fault in self.faults
            if (fault.verb == verb and fault.nth == nth)
            or (fault.verb == "*" and fault.nth == total and verb not in SURE)
        ]
        for fault in struck:
            if fault.when == "before":
                fault.action()
        result = getattr(self.inner, verb)(*args, **kwargs)
        for fault in struck:
            if fault.when == "after":
                if hasattr(result, "close"):
                    result.close()  # a doorbell that the caller does not get
                fault.action()
        return result

    def close(self) -> None:
        """Never has a fault: no caller could handle it."""
        self.inner.close()

    def end_claims(self, owner: str) -> None:
        """Never has a fault: it only changes memory of this process."""
        self.inner.end_claims(owner)

    @property
    def url(self) -> str:
        return str(self.inner.url)


def install(delayq: Any, *faults: Fault) -> FaultyBackend:
    """Add faults to the backend of an app's DelayQ; returns the wrapper.

    :param delayq: the extension; its backend must not have been used yet.
    :param faults: any number of faults.
    :raises RuntimeError: the backend has been used.
    """
    state = delayq.state
    if "client" in state.__dict__:
        raise RuntimeError("install faults before the first use of the backend")
    faulty = FaultyBackend(state.backend, *faults)  # type: ignore[abstract]  # routed below
    state.__dict__["backend"] = faulty
    return faulty


def _kill() -> None:
    if hasattr(signal, "SIGKILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGTERM)  # on Windows this cannot be caught


def _fail() -> None:
    raise BackendUnavailableError("a fault was injected", reason="injected")


_ACTIONS: dict[str, Callable[[], None]] = {"kill": _kill, "fail": _fail}


def _route(verb: str) -> Callable[..., Any]:
    def call(self: FaultyBackend, *args: Any, **kwargs: Any) -> Any:
        return self._call(verb, *args, **kwargs)

    call.__name__ = verb
    return call


for _contract in (Backend, Inspectable, Schedulable):
    for _verb, _member in vars(_contract).items():
        if callable(_member) and not _verb.startswith("_") and _verb not in ("close", "end_claims"):
            setattr(FaultyBackend, _verb, _route(_verb))
FaultyBackend.__abstractmethods__ = frozenset()
