"""``/delayq/metrics``: what the pages show as numbers, in the text format that Prometheus reads.
Knows names and numbers; makes the same queries as the overview."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from flask import Response

from ..app_state import AppState, current_state
from ..console import presenting
from ..errors import BackendError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[dict[str, str], float]
"""Labels and a value."""


class Gauge(NamedTuple):
    """A number that goes up and down, once for each set of labels."""

    name: str
    help: str
    samples: list[Sample]


def metrics() -> Response:
    """All gauges. If the store does not answer, its gauges are missing and ``delayq_healthy`` is 0."""
    text = "".join(map(_written, gauges(current_state())))
    return Response(text.encode("utf-8", "replace"), content_type=CONTENT_TYPE)


def gauges(state: AppState) -> Iterator[Gauge]:
    """The gauges of an app and its store."""
    health = presenting.health(state, probe=False)
    counts: dict[str, int] = {}
    queues: list[presenting.View] = []
    processes: list[presenting.View] = []
    answered = True
    try:
        counts = state.client.inspect.counts(now=state.clock.now())
        queues = presenting.queues(state)
        processes = [one for one in presenting.processes(state) if one["alive"]]
    except BackendError:
        answered = False  # the log and the health page say why
    ok = answered and health["status"] == "ok"
    yield Gauge("healthy", "1 if jobs can be stored and run.", [({}, float(ok))])
    yield Gauge("jobs", "Jobs by state.", [({"state": state}, counts[state]) for state in counts])
    yield from _of_queues(queues)
    yield from _of_processes(processes)
    yield from _of_this_process(state)
    facts = health["store"]
    yield Gauge(
        "store_bytes",
        "Bytes of the store's files.",
        [
            ({"file": file}, facts[fact])
            for file, fact in (("data", "bytes"), ("wal", "wal_bytes"))
            if fact in facts
        ],
    )


def _of_queues(queues: Iterable[presenting.View]) -> Iterator[Gauge]:
    queues = list(queues)
    yield Gauge(
        "queue_jobs",
        "Jobs of a queue that have not ended, by state.",
        [
            ({"queue": queue["name"], "state": state}, queue[state])
            for queue in queues
            for state in ("scheduled", "ready", "running")
        ],
    )
    yield Gauge(
        "queue_oldest_ready_seconds",
        "How long the oldest ready job of a queue has been due; 0 without a ready job.",
        [({"queue": queue["name"]}, queue["lateness"] or 0.0) for queue in queues],
    )
    yield Gauge(
        "queue_paused",
        "1 while a queue is paused.",
        [({"queue": queue["name"]}, float(queue["paused"])) for queue in queues],
    )


def _of_processes(processes: Iterable[presenting.View]) -> Iterator[Gauge]:
    """The gauges of all processes that run jobs, as of their last sign of life."""
    named = [(_label(one["owner"], one["host"], one["pid"]), one) for one in processes]
    for name, key, text in (
        ("workers", "workers", "Worker threads of a process."),
        ("workers_busy", "busy", "Worker threads that run a job."),
    ):
        yield Gauge(name, text, [(label, one[key]) for label, one in named if one[key] is not None])
    yield Gauge(
        "lateness_seconds",
        "How many seconds after their due time the latest jobs of a process began.",
        [
            ({**label, "quantile": quantile}, one[key])
            for label, one in named
            for quantile, key in (("0.5", "lateness_p50"), ("0.99", "lateness_p99"))
            if one[key] is not None
        ],
    )


def _of_this_process(state: AppState) -> Iterator[Gauge]:
    supervisor = state.supervisor
    samples: list[Sample] = []
    if supervisor is not None and supervisor.is_running:
        label = _label(supervisor.owner, platform.node(), os.getpid())
        samples.append((label, supervisor.recorder.backlog))
    yield Gauge(
        "recorder_backlog",
        "Jobs that have ended in the process that answers and are not recorded yet.",
        samples,
    )


def _label(owner: str, host: str, pid: int) -> dict[str, str]:
    # With the owner: a process may run the jobs of two apps, and containers may have the same pids.
    return {"host": host, "pid": str(pid), "owner": owner}


def _written(gauge: Gauge) -> str:
    if not gauge.samples:
        return ""
    name = f"delayq_{gauge.name}"
    lines = [f"# HELP {name} {gauge.help}", f"# TYPE {name} gauge"]
    for labels, value in gauge.samples:
        said = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        lines.append(f"{name}{{{said}}} {_number(value)}" if said else f"{name} {_number(value)}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: Any) -> str:
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
