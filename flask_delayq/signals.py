"""What happens to jobs, announced by blinker signals: what each one tells, and how it is sent safely.
The sender is the Flask application; ``job`` has at least ``id``, ``task`` and ``queue``; the threads and
contexts in which receivers run are in docs/jobs.md."""

from __future__ import annotations

import logging
from collections.abc import Callable

from blinker import NamedSignal, Namespace

from .texts import indented, traceback_of

_log = logging.getLogger(__name__)
_signals = Namespace()

Signal = NamedSignal

job_enqueued = _signals.signal("job-enqueued")
"""A job was stored by this process (not when the id existed already)."""
job_started = _signals.signal("job-started")
"""A worker begins a run. Keyword ``attempt``."""
job_completed = _signals.signal("job-completed")
"""A run ended well. Keywords ``result``, ``seconds``."""
job_retried = _signals.signal("job-retried")
"""A run will be repeated (also when snoozed). Keywords ``error`` (exception), ``run_at``."""
job_failed = _signals.signal("job-failed")
"""A job failed for good. Keyword ``error``: the exception; where the task raised none (a crash, a task
that no process knows), a :class:`~flask_delayq.errors.JobFailedError` with what the store has."""
job_cancelled = _signals.signal("job-cancelled")
"""A job was cancelled, by a person or by itself. Keyword ``reason``."""
job_rescued = _signals.signal("job-rescued")
"""A job of a dead owner was taken back, also one that had not begun (``job.charged`` is False then).
``job`` is a :class:`~flask_delayq.job.Rescue`."""


def emit(signal: NamedSignal, sender: object, **facts: object) -> None:
    """Send a signal from a caller's thread if anybody listens; a receiver's exception is logged, never
    raised. Ctrl-C and SystemExit are the caller's own affair and pass.

    The job's fate must not hang on an observer.
    """
    if not signal.receivers:
        return
    for receiver in list(signal.receivers_for(sender)):
        try:
            receiver(sender, **facts)
        except Exception as error:  # foreign code at the edge: an observer cannot stop the job
            _log_failure(signal, error)


def emit_contained(
    signal: NamedSignal,
    sender: object,
    *,
    interruptible: bool,
    facts: dict[str, object],
    calling: Callable[[object], None] = lambda receiver: None,
) -> None:
    """Send a signal from a thread of the runtime: whatever a receiver raises is logged, SystemExit
    included, and the others hear it all the same.

    :param interruptible: a KeyboardInterrupt passes, since it is a person's Ctrl-C there.
    :param calling: called with each receiver before it is.
    """
    for receiver in list(signal.receivers_for(sender)):
        calling(receiver)
        try:
            receiver(sender, **facts)
        except BaseException as error:  # foreign code at the edge of a thread
            if interruptible and isinstance(error, KeyboardInterrupt):
                raise
            _log_failure(signal, error)


def _log_failure(signal: NamedSignal, error: BaseException) -> None:
    # Not log.exception: the logging module would write foreign text as it is.
    _log.error("a receiver of %s failed\n%s", signal.name, indented(traceback_of(error)))
