"""Flask-DelayQ: background and delayed jobs inside a Flask app, durable without any server.
The public door: what is named here is the interface, all else may change."""

from __future__ import annotations

from .errors import DelayQError
from .extension import DelayQ, current_job
from .handle import Job
from .job import JobState
from .retry import Cancel, Retry, RetryPolicy, Snooze
from .task import Task

__all__ = [
    "Cancel",
    "DelayQ",
    "DelayQError",
    "Job",
    "JobState",
    "Retry",
    "RetryPolicy",
    "Snooze",
    "Task",
    "current_job",
]
