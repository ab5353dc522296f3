"""The record of a process that runs jobs, for other processes.
Pure; maintenance stores it."""

from __future__ import annotations

import os
import platform

from ..config import Settings
from ..job import ProcessRecord
from ..serializer import encode
from ..task import TaskRegistry
from .peers import fingerprints

WORKER = "worker"
"""The role of a process that only runs jobs; it logs each job at INFO."""


def describe(
    owner: str,
    role: str,
    settings: Settings,
    registry: TaskRegistry,
    *,
    app: str,
    workers: int,
    busy: int,
    started_at: float,
    now: float,
    lateness: tuple[float, float] = (0.0, 0.0),
) -> ProcessRecord:
    """The record of a runtime in this process.

    :param role: what started it.
    :param registry: the tasks that it can run.
    :param app: the name of the app, because several apps may share a store.
    :param busy: the number of running jobs.
    :param started_at: epoch seconds.
    :param lateness: 50th and 99th percentile of recent jobs, in seconds.
    """
    info = {
        "role": role,
        "app": app,
        "tasks": fingerprints(registry),
        "workers": workers,
        "busy": busy,
        "queues": settings.queues,
        "lateness_p50": lateness[0],
        "lateness_p99": lateness[1],
        "python": platform.python_version(),
    }
    return ProcessRecord(
        owner=owner,
        pid=os.getpid(),
        host=platform.node(),
        started_at=started_at,
        seen_at=now,
        info=encode(info),
    )
