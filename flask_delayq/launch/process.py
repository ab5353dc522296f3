"""The decision of this process: whether it serves, and which apps wait for that.
Knows apps only as `Launchable`; `proofs` decides what counts as serving."""

from __future__ import annotations

import logging
import os
import sys
import threading
import weakref
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from flask import has_request_context, request, request_started

from . import proofs, request_origin, uwsgi

if TYPE_CHECKING:
    from flask import Flask

_log = logging.getLogger(__name__)

STEP = 0.1
"""Seconds between two checks while the process is young, or after it forked."""

YOUNG = 50
"""The number of checks at this interval."""

SLOW_STEP = 0.5
"""Seconds between two later checks."""

JOIN_TIMEOUT = 1.0
"""Seconds that a fork waits for the watcher to end; a fork beside it works too, Python only warns."""


COUNTS_LATE = sys.version_info[:2] == (3, 13)
"""Whether Python counts the threads of a forking process only after its hooks, so that it warns of a
thread that was not there at the fork."""


class Launchable(Protocol):
    """One app's runtime, as far as it is launched. Must be weakly referable."""

    name: str
    """The name of the app, for log lines."""

    def wants_to_start(self) -> bool:
        """Whether a serving process shall run its jobs, as the configuration says now.

        Asked when the process is first seen to serve, and again at each request while the answer is no.
        """

    def start_serving(self, proof: str) -> None:
        """Run jobs here. Called at most once, in a plain thread or the one of a request.

        :param proof: what showed that the process serves: ``"werkzeug"``, ``"first request"``.
        """

    def decline(self, reason: str) -> None:
        """Called instead of `start_serving`: this process serves, but must not run jobs, for this
        reason."""


class Armed(NamedTuple):
    """A runtime that waits for the process to serve, and its app; both are weak references."""

    state: weakref.ref[Launchable]
    app: weakref.ref[Flask]


class Process:
    """The decision of one process.

    :ivar proof: what showed that it serves, or ``None``. Once set it stays.
    :ivar is_child_of_server: whether it was forked from a process that served. Such a child never
        serves: it runs one view's errand, whatever its copied stack looks like.
    """

    def __init__(self) -> None:
        self.proof: str | None = None
        self.is_child_of_server = False
        self._pid = os.getpid()
        self._loader: int | None = None  # the thread that made the last app
        # Replaced, never changed, so that a fork at any moment copies a whole one.
        self._armed: tuple[Armed, ...] = ()
        self._begin_unwatched()

    def _begin_unwatched(self) -> None:
        # Reentrant, since a signal handler may fork while its thread is in here.
        self._lock = threading.RLock()
        self._watcher: threading.Thread | None = None
        self._stop = threading.Event()
        self._interrupted = False

    def arm(self, state: Launchable, app: Flask) -> None:
        """Have `state` started when this process is seen to serve; holds neither of the two."""
        if self.is_child_of_server:
            return
        self._loader = threading.get_ident()
        with self._lock:
            self._armed = (*self._living(), Armed(weakref.ref(state), weakref.ref(app)))
        request_started.connect(self._on_request, app)
        self.watch()

    def disarm(self, state: Launchable) -> None:
        """Do not start `state` any more: it was started elsewhere. The watcher ends if no other
        waits."""
        with self._lock:
            self._armed = tuple(armed for armed in self._living() if armed.state() is not state)

    def look(self) -> str | None:
        """The proof that this process serves, found before or now; records nothing."""
        if self.proof is None and not self.is_child_of_server:
            return proofs.seen_to_serve(self._loader)
        return self.proof

    def _record(self, proof: str | None) -> None:
        with self._lock:
            if self.proof is None:  # the first yes is final
                self.proof = proof

    # --- the three that ask: a watching thread, each request, each fork ---------------------------

    def watch(self, first_wait: float = STEP) -> None:
        """Keep one daemon thread that asks until the answer is yes or no app is left.

        :param first_wait: seconds before its first question.
        """
        if uwsgi.is_no_worker() or uwsgi.runs_no_jobs():
            return
        with self._lock:
            if self._watcher is not None or not self._armed:
                return
            stop = threading.Event()
            watcher = threading.Thread(
                target=self._ask_until_yes, args=(stop, first_wait), name="delayq-launch", daemon=True
            )
            try:
                watcher.start()
            except RuntimeError:  # no thread may begin any more, or in this interpreter
                return  # each request still asks
            self._watcher, self._stop = watcher, stop

    def _ask_until_yes(self, stop: threading.Event, first_wait: float) -> None:
        # No logging and no import in the loop: a fork waits for its end, perhaps with their locks held.
        for wait in chain((first_wait,), repeat(STEP, YOUNG), repeat(SLOW_STEP)):
            if stop.wait(wait):
                return
            proof = self.look()
            with self._lock:
                if stop.is_set():
                    return
                self._record(proof)
                self._armed = self._living()
                if self.proof is not None or not self._armed:
                    self._watcher = None
                    break
        self._launch()

    def _on_request(self, app: Flask, **_: Any) -> None:
        if not self._armed:
            return
        self._record(self.look())
        environ = request.environ if has_request_context() else {}
        if self.proof is None and request_origin.came_through_server(environ):
            self._record("first request")
        self._launch()

    def before_fork(self) -> None:
        """Decide before the child is made, and have no thread of ours alive at the fork."""
        with self._lock:
            self._armed = self._living()
            if not self._armed:
                return
            # The answer is used in another thread afterwards: starting takes locks that the hooks
            # of the stores may hold by now.
            self._record(self.look())
            watcher, self._watcher = self._watcher, None
            self._stop.set()
        if watcher is not None:
            self._interrupted = True
            # Under gevent it is a greenlet: it ends by itself, and the hub must not wait for it.
            if proofs.reason_against_threads() is None:
                watcher.join(JOIN_TIMEOUT)

    def after_fork_in_parent(self) -> None:
        """Go on watching, or start what the fork has settled."""
        if self._interrupted:
            self._interrupted = False
            if COUNTS_LATE and self.proof is None and threading.active_count() == 1:
                return  # the next request, app or fork asks
            self.watch(STEP if self.proof is None else 0.0)

    def after_fork_in_child(self) -> None:
        """Become a process of its own: never a server if the parent was one, else undecided."""
        if self._pid == os.getpid():
            return  # uWSGI's hook and Python's may both run
        self._pid = os.getpid()
        self._begin_unwatched()
        if self.proof is not None:
            self.is_child_of_server = True
            self.proof = None
            self._armed = ()
        self.watch()

    def after_fork_of_uwsgi(self) -> None:
        """The same in a uWSGI worker or mule; a lone worker was not forked, but begins here too."""
        self.after_fork_in_child()
        if uwsgi.worker_id() and uwsgi.runs_no_jobs():
            self._record("uWSGI worker")
            self._launch()
        self.watch()

    # --- what follows from a yes ------------------------------------------------------------------

    def _launch(self) -> None:
        """Start every armed state that wants to; those that do not stay armed."""
        proof = self.proof
        if proof is None:
            return
        for armed in self._armed:
            state = armed.state()
            if state is None:
                continue
            try:
                if not state.wants_to_start() or not self._take(armed):
                    continue
                reason = proofs.reason_against_threads()
                if reason is None:
                    state.start_serving(proof)
                else:
                    state.decline(reason)
            except Exception:
                # The edge: it must fail neither the request that asked nor the apps that come next.
                self._take(armed)
                _log.exception("the jobs of %s cannot be run in this process", state.name)

    def _take(self, armed: Armed) -> bool:
        """Disarm; False if another thread was first."""
        with self._lock:
            if armed not in self._armed:
                return False
            self._armed = tuple(other for other in self._armed if other is not armed)
        app = armed.app()
        if app is not None:
            request_started.disconnect(self._on_request, app)
        return True

    def _living(self) -> tuple[Armed, ...]:
        return tuple(armed for armed in self._armed if armed.state() is not None)
