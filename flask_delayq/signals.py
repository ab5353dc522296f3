"""Blinker signals for what happens to jobs: their keywords, and how they are sent safely.
The sender is the Flask application; ``job`` has at least ``id``, ``task`` and ``queue``. docs/jobs.md
says in which threads and contexts receivers run."""

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
"""A job completed. Keywords ``result``, ``seconds`` (duration of the run)."""
job_retried = _signals.signal("job-retried")
"""A job will run again (also after ``Snooze``). Keywords ``error`` (exception, ``None`` after
``Snooze``), ``run_at`` (epoch seconds)."""
job_failed = _signals.signal("job-failed")
"""A job failed for good. Keyword ``error``: the exception; if the task raised none (a crash, a task
that no process knows), a :class:`~flask_delayq.errors.JobFailedError` with the stored error."""
job_cancelled = _signals.signal("job-cancelled")
"""A job was cancelled, by ``cancel()`` or by its task. Keyword ``reason``."""
job_rescued = _signals.signal("job-rescued")
"""A job of a dead owner was taken back, also if it had not begun (then ``job.charged`` is False).
``job`` is a :class:`~flask_delayq.job.Rescue`."""


def emit(signal: NamedSignal, sender: object, **facts: object) -> None:
    """Send a signal from a caller's thread, if it has receivers. A receiver's exception is logged, not
    raised: a receiver must not change a job's outcome. KeyboardInterrupt and SystemExit are raised.
    """
    if not signal.receivers:
        return
    for receiver in list(signal.receivers_for(sender)):
        try:
            receiver(sender, **facts)
        except Exception as error:  # foreign code: a receiver must not stop the job
            _log_failure(signal, error)


def emit_contained(
    signal: NamedSignal,
    sender: object,
    *,
    interruptible: bool,
    facts: dict[str, object],
    calling: Callable[[object], None] = lambda receiver: None,
) -> None:
    """Send a signal from a thread of the runtime. Any exception of a receiver is logged, also
    SystemExit, and the other receivers are still called.

    :param interruptible: raise a KeyboardInterrupt, because it is a person's Ctrl-C there.
    :param calling: called with each receiver before the receiver is called.
    """
    for receiver in list(signal.receivers_for(sender)):
        calling(receiver)
        try:
            receiver(sender, **facts)
        except BaseException as error:  # foreign code in a thread of the runtime
            if interruptible and isinstance(error, KeyboardInterrupt):
                raise
            _log_failure(signal, error)


def _log_failure(signal: NamedSignal, error: BaseException) -> None:
    # Not log.exception: the logging module would not escape the foreign text.
    _log.error("a receiver of %s failed\n%s", signal.name, indented(traceback_of(error)))
