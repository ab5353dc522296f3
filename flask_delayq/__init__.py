"""Flask-DelayQ: background and delayed jobs inside a Flask app, durable without any server.
The public door: what is named here is the interface, all else may change."""

from __future__ import annotations

from .errors import (
    ArgumentError,
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    DelayError,
    DelayQError,
    EnqueueUncertainError,
    InvalidNameError,
    InvalidTransitionError,
    JobConflictError,
    JobError,
    JobFailedError,
    JobNotFinishedError,
    JobNotFoundError,
    PayloadTooLargeError,
    QueueFullError,
    ScheduleNotFoundError,
    SetupError,
    StoreCorruptError,
    StoreMismatchError,
    TaskAlreadyRegisteredError,
    TaskNotFoundError,
    UnsupportedOperationError,
    WaitInsideTaskError,
    WaitTimeoutError,
)
from .extension import DelayQ, current_job
from .handle import Job
from .job import JobState
from .retry import Cancel, Fail, Retry, RetryPolicy, Snooze
from .task import Task

__all__ = [
    "ArgumentError",
    "BackendError",
    "BackendUnavailableError",
    "Cancel",
    "ConfigurationError",
    "DelayError",
    "DelayQ",
    "DelayQError",
    "EnqueueUncertainError",
    "Fail",
    "InvalidNameError",
    "InvalidTransitionError",
    "Job",
    "JobConflictError",
    "JobError",
    "JobFailedError",
    "JobNotFinishedError",
    "JobNotFoundError",
    "JobState",
    "PayloadTooLargeError",
    "QueueFullError",
    "Retry",
    "RetryPolicy",
    "ScheduleNotFoundError",
    "SetupError",
    "Snooze",
    "StoreCorruptError",
    "StoreMismatchError",
    "Task",
    "TaskAlreadyRegisteredError",
    "TaskNotFoundError",
    "UnsupportedOperationError",
    "WaitInsideTaskError",
    "WaitTimeoutError",
    "current_job",
]
