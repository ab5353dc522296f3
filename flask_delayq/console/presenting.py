"""Jobs, queues, processes and schedules as plain data, the same for pages, JSON and the terminal.
Reads the store and changes nothing; knows no request and no terminal."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import msgspec

from ..backends.base import Schedulable
from ..clock import to_datetime
from ..errors import BackendError, RuleError
from ..job import (
    JobRecord,
    JobState,
    Priority,
    ProcessRecord,
    QueueInfo,
    ScheduleRecord,
    StoredState,
)
from ..serializer import decode, decode_failure, decode_object, decode_rule
from ..task import Task
from ..texts import without_password
from . import attendance
from .redacting import Redaction
from .remedies import remedy
from .waiting import how_to_run, why_it_waits

if TYPE_CHECKING:
    from ..app_state import AppState

View = dict[str, Any]


def moment(timestamp: float | None) -> str | None:
    """Epoch seconds as ISO 8601 text in UTC with milliseconds; ``None`` stays ``None``."""
    try:
        when = to_datetime(timestamp)
    except (ValueError, OverflowError, OSError):  # a forged row: outside the calendar
        return None
    return None if when is None else when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_of(text: str) -> float:
    """The epoch seconds of what :func:`moment` wrote."""
    return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=timezone.utc).timestamp()


def duration(seconds: float) -> str:
    """Seconds for people: ``"40 ms"``, ``"3.2 s"``, ``"5 min"``, ``"2 h"``, ``"4 d"``."""
    size = abs(seconds)
    if size < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if size < 9.95:
        return f"{seconds:.1f} s"
    for below, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if size < below:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} d"


def size(number: float) -> str:
    """Bytes for people: ``"512 bytes"``, ``"4.2 MB"``, ``"80 GB"``."""
    if number < 1000:
        return f"{number:.0f} bytes"
    power = 1
    while number >= 999.5 * 1000**power and power < 4:
        power += 1
    part = number / 1000**power
    unit = ("kB", "MB", "GB", "TB")[power - 1]
    return f"{part:.1f} {unit}" if part < 9.95 else f"{part:,.0f} {unit}"


# --- single things -------------------------------------------------------------------------------


def job_row(record: JobRecord, now: float) -> View:
    """A job as a line of a list: without arguments, result and traceback."""
    state = record.state_at(now)
    return {
        "id": record.id,
        "task": record.task,
        "state": state.value,
        "retrying": state is JobState.SCHEDULED and record.attempt > 0,
        "queue": record.queue,
        "priority": _priority(record.priority),
        "attempt": record.attempt + (record.stored is StoredState.RUNNING),
        "run_at": moment(record.run_at),
        "enqueued_at": moment(record.enqueued_at),
        "started_at": moment(record.started_at),
        "finished_at": moment(record.finished_at),
    }


def job_page(state: AppState, record: JobRecord) -> View:
    """Everything about a job, without its secrets (``DELAYQ_REDACT``)."""
    redaction = Redaction(state.settings.redact)
    arguments = plain(record.payload)
    redaction.learn(arguments)
    result = plain(record.result)
    redaction.learn(result)
    progress = _object(record.progress)
    redaction.learn(progress)
    failure = decode_failure(record.error)
    error = None
    if failure is not None:
        error = {
            "type": failure.type,
            "message": redaction.text(failure.message),
            "traceback": redaction.text(failure.traceback),
            "remedy": remedy(failure.message),
        }
    return {
        **job_row(record, state.clock.now()),
        "waits_because": why_it_waits(state, record),
        "max_attempts": attempts_allowed(state, record),
        "on_crash": "fail" if record.fail_on_crash else "retry",
        "rescues": record.rescues,
        "claim_no": record.claim_no,
        "owner": record.owner,
        "interrupted": record.interrupted,
        "cancel_requested": record.cancel_requested,
        "schedule": record.schedule,
        "arguments": redaction.clean(arguments),
        "progress": redaction.clean(progress),
        "result": redaction.clean(result),
        "error": error,
    }


def attempts_allowed(state: AppState, record: JobRecord) -> int | None:
    """The maximum number of runs of a job; ``None`` if its task is not registered here, or if there is
    one run unless the task asks for another."""
    if record.max_attempts is not None:
        return record.max_attempts
    task = state.registry.find(record.task)
    if task is None:
        return None
    policy = task.declared.retry
    most = state.settings.max_attempts if policy is None else policy.max_attempts
    return most if most > 1 else None


def queue_row(queue: QueueInfo, now: float) -> View:
    """A queue; ``lateness`` is how long its oldest ready job has been due, in seconds."""
    oldest = queue.oldest_due
    return {
        "name": queue.name,
        "paused": queue.paused,
        "scheduled": queue.scheduled,
        "ready": queue.ready,
        "running": queue.running,
        "oldest_due": moment(oldest),
        "lateness": None if oldest is None else max(0.0, now - oldest),
    }


def process_row(process: ProcessRecord, own: str | None) -> View:
    """A process record. ``seen_at`` and all changing values are of its last sign of life.

    :param own: the owner of the runtime in this process, to mark it.
    """
    info = _object(process.info)
    return {
        "owner": process.owner,
        "pid": process.pid,
        "host": process.host,
        "alive": process.alive,
        "this": process.owner == own,
        "started_at": moment(process.started_at),
        "seen_at": moment(process.seen_at),
        **{key: _if_a(kind, info.get(key)) for key, kind in _OF_A_PROCESS.items()},
        "tasks": _names(info.get("tasks")),
    }


def _names(tasks: Any) -> list[str] | None:
    return sorted(tasks) if _if_a(dict[str, str], tasks) else None


_OF_A_PROCESS: dict[str, Any] = {
    "app": str,
    "role": str,
    "workers": int,
    "busy": int,
    "queues": list[str],
    "lateness_p50": float,
    "lateness_p99": float,
    "python": str,
}


def schedule_row(schedule: ScheduleRecord) -> View:
    """A schedule; its rule in words."""
    try:
        rule = str(decode_rule(schedule.rule))
    except (RuleError, OverflowError):
        rule = "(unreadable)"
    return {
        "name": schedule.name,
        "task": schedule.task,
        "rule": rule,
        "queue": schedule.queue,
        "priority": _priority(schedule.priority),
        "paused": schedule.paused,
        "from_code": schedule.from_code,
        "next_due": moment(schedule.next_due),
        "last_due": moment(schedule.last_due),
    }


# --- the whole -----------------------------------------------------------------------------------


def processes(state: AppState) -> list[View]:
    """All process records, oldest first; that of this process is current. The number of busy workers
    of the others comes from the store, because their records may be old."""
    supervisor = state.supervisor
    records = state.backend.processes()
    own = None if supervisor is None else supervisor.owner
    if supervisor is not None and supervisor.is_running:
        records = [supervisor.describe() if record.owner == own else record for record in records]
    rows = [process_row(record, own) for record in records]
    running = attendance.running_by_owner(state) if any(not row["this"] for row in rows) else None
    for row in rows:
        if running is not None and not row["this"] and row["workers"] is not None:
            row["busy"] = min(row["workers"], running[row["owner"]])  # those claimed ahead wait for one
    return rows


def queues(state: AppState) -> list[View]:
    """All queues, by name."""
    now = state.clock.now()
    return [queue_row(queue, now) for queue in state.client.inspect.queues(now=now)]


def schedules(state: AppState, *, declared: bool = False) -> list[View]:
    """All schedules, by name; empty if the backend has no schedules.

    :param declared: also those in the code that no process has stored yet, with ``next_due`` ``None``.
    """
    backend = state.backend
    if not isinstance(backend, Schedulable):
        return []
    found = [schedule_row(schedule) for schedule in backend.schedules()]
    if declared:
        stored = {one["name"] for one in found}
        for task in state.registry:
            if task.declared.rule is not None and task.name not in stored:
                found.append(_of_the_code(task))
    return sorted(found, key=lambda one: str(one["name"]))


def _of_the_code(task: Task[..., Any]) -> View:
    return {
        "name": task.name,
        "task": task.name,
        "rule": str(task.declared.rule),
        "queue": task.declared.queue,
        "priority": _priority(int(task.declared.priority)),
        "paused": False,
        "from_code": True,
        "next_due": None,
        "last_due": None,
    }


def health(state: AppState, *, probe: bool = True) -> View:
    """Whether jobs are stored and run: ``status`` is ``"ok"`` or ``"failing"``, ``reason`` says why.

    :param probe: try whether the store can be written, as in ``Backend.health``.
    """
    found = state.health(probe=probe)
    supervisor = state.supervisor
    return {
        "status": "ok" if found.ok else "failing",
        "reason": found.reason,
        "notes": list(found.notes),
        "troubles": supervisor.troubles() if supervisor is not None and supervisor.is_running else [],
        "runs_jobs": supervisor is not None and supervisor.is_running,
        "declined": state.declined,
        "mode": state.mode,
        "store": {"url": without_password(state.backend.url), **found.facts},
    }


def status(state: AppState) -> View:
    """The overview; it also works while the store is unavailable."""
    found: View = {
        "healthy": False,
        "now": moment(state.clock.now()),
        **health(state),
        "counts": {},
        "queues": [],
        "processes": [],
        "schedules": [],
    }
    try:
        found["counts"] = state.client.inspect.counts(now=state.clock.now())
        found["queues"] = queues(state)
        found["processes"] = processes(state)
        attendance.note_servers(found["queues"], found["processes"])
        found["schedules"] = schedules(state)
    except BackendError as error:
        found["reason"] = found["reason"] or str(error)
        found["status"] = "failing"
    if found["status"] == "ok":
        found["reason"] = attendance.name_unserved(found["queues"], found["processes"], duration)
        found["status"] = "failing" if found["reason"] else "ok"
    found["healthy"] = found["status"] == "ok"
    return found


def known_queues(state: AppState) -> set[str]:
    """Every queue that has jobs, that a living process names or that a task or a schedule uses."""
    declared = {task.declared.queue for task in state.registry}
    scheduled = {one["queue"] for one in schedules(state)}
    return attendance.known_queues(queues(state), processes(state), declared | scheduled)


def unserved(state: AppState) -> str:
    """A sentence about queues with due jobs that no living process serves; empty if there are none."""
    waiting, serving = queues(state), processes(state)
    attendance.note_servers(waiting, serving)
    sentence = attendance.name_unserved(waiting, serving, duration)
    if not sentence or any(one["alive"] for one in serving):
        return sentence
    return f"{sentence}: {how_to_run(state)}"


def _priority(level: int) -> str:
    try:
        return Priority(level).name.lower()
    except ValueError:
        return str(level)


def plain(data: bytes | None) -> Any:
    """Stored JSON as plain values; arguments are by parameter name."""
    if not data:
        return None
    try:
        return decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "[unreadable]"


def _object(data: bytes | None) -> View:
    """A stored JSON object; empty if the row is damaged or forged."""
    try:
        return decode_object(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _if_a(kind: Any, value: Any) -> Any:
    """The value if it has this type, else ``None``: another program may have written it."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.MsgspecError, OverflowError):
        return None
