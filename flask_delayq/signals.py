"""What happens to jobs, announced by blinker signals. The sender is the Flask application.
Receivers get ``job`` (a :class:`~flask_delayq.job.Claim` or :class:`~flask_delayq.job.NewJob`, both
with ``id``, ``task`` and ``queue``) and the keywords named below; they run in the thread where it
happens, and what they raise is logged and goes no further."""

from __future__ import annotations

import logging

from blinker import NamedSignal, Namespace

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
"""A job failed for good. Keyword ``error``: the exception, or ``None`` after a crash."""
job_cancelled = _signals.signal("job-cancelled")
"""A job was cancelled, by a person or by itself. Keyword ``reason``."""
job_rescued = _signals.signal("job-rescued")
"""A job of a dead owner was taken back. ``job`` is a :class:`~flask_delayq.job.Rescue`."""


def emit(signal: NamedSignal, sender: object, **facts: object) -> None:
    """Send a signal if anybody listens; a receiver's exception is logged, never raised.

    The job's fate must not hang on an observer.
    """
    if not signal.receivers:
        return
    for receiver in list(signal.receivers_for(sender)):
        try:
            receiver(sender, **facts)
        except Exception:  # foreign code at the edge: an observer cannot stop the job
            _log.exception("a receiver of %s failed", signal.name)
