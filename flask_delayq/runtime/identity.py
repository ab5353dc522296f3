"""The record by which a process that runs jobs is known to the others.
Pure; who announces it, and how often, are other parts."""

from __future__ import annotations

import os
import platform

from ..config import Settings
from ..job import ProcessRecord
from ..serializer import encode
from ..task import TaskRegistry
from .peers import fingerprints

WORKER = "worker"
"""The role of a process that does nothing but run jobs; its log tells of each at INFO."""


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

    :param role: how it came to run jobs.
    :param registry: what it can run.
    :param app: the name of the app, to tell apart those that share a store.
    :param busy: jobs that run.
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
