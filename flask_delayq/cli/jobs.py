"""``flask delayq jobs``, ``show``, ``enqueue``, ``cancel``, ``retry``, ``tasks``: single jobs.
Knows the verbs of the client; runs nothing."""

from __future__ import annotations

import json
from typing import Any

import click

from ..app_state import AppState, current_state
from ..console import presenting
from ..console.json_calls import JsonCall, parameters, produce, read_json, read_moment
from ..console.names import misspelt_queue, no_such_task, nothing_matches
from ..handle import Job
from ..ids import has_moment
from ..job import JobQuery, JobState, Priority
from ..task import Task
from .group import delayq_commands, json_option
from .output import common_prefix, relative, safe, say, say_json, say_table

_wide = click.option("--wide", is_flag=True, help="Show whole ids and names.")

SHORT = 18
"""Digits of an id for its millisecond and its counter: enough to tell jobs apart."""

NEWEST = 10_000
"""Maximum number of jobs that are searched for the beginning of an id."""


@delayq_commands.command("tasks")
@_wide
@json_option
def tasks(wide: bool, as_json: bool) -> None:
    """The registered tasks."""
    state = current_state()
    found = [_describe(task, state.settings.redact) for task in state.registry]
    if as_json:
        say_json({"tasks": found})
        return
    prefix = "" if wide else common_prefix([one["name"] for one in found])
    say_table(
        (_head(prefix), "QUEUE", "PRIORITY", "SCHEDULE", "PARAMETERS"),
        [
            (
                one["name"][len(prefix) :],
                *(one[key] for key in ("queue", "priority", "rule", "signature")),
            )
            for one in found
        ],
        "no task is registered",
        cut=None if wide else -1,
    )


def _head(prefix: str) -> str:
    return f"TASK {prefix}*" if prefix else "TASK"


def _describe(task: Task[..., Any], redact: tuple[str, ...]) -> dict[str, Any]:
    declared = task.declared
    signature = ", ".join(
        f"{one.star}{one.name}" + ("" if one.default is None else f"={one.default}")
        for one in parameters(task, redact)
    )
    return {
        "name": task.name,
        "queue": declared.queue,
        "priority": declared.priority.name.lower(),
        "rule": None if declared.rule is None else str(declared.rule),
        "produce": declared.produce,
        "signature": f"({signature})",
    }


@delayq_commands.command("jobs")
@click.option("--state", "states", multiple=True, type=click.Choice([s.value for s in JobState]))
@click.option("--queue", help="Only jobs of this queue.")
@click.option("--task", help="Only jobs of this task.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@_wide
@json_option
def jobs(
    states: tuple[str, ...],
    queue: str | None,
    task: str | None,
    limit: int,
    wide: bool,
    as_json: bool,
) -> None:
    """Jobs, newest first. Commands accept the beginning of an id."""
    state = current_state()
    client = state.client
    now = client.now()
    query = JobQuery(tuple(map(JobState, states)), queue, task, None, limit)
    rows = [presenting.job_row(record, now) for record in client.inspect.list(query, now=now)]
    if as_json:
        say_json({"jobs": rows})
        return
    prefix = "" if wide else common_prefix([row["task"] for row in rows])
    say_table(
        ("JOB", _head(prefix), "STATE", "QUEUE", "ATTEMPT", "DUE"),
        [
            (
                row["id"] if wide else _short(row["id"], rows),
                row["task"][len(prefix) :],
                "retrying" if row["retrying"] else row["state"],
                *(row[key] for key in ("queue", "attempt")),
                relative(row["run_at"], client.clock),
            )
            for row in rows
        ],
        "" if rows else nothing_matches(state, query),
        cut=None if wide else 1,
    )


def _short(job_id: str, rows: list[dict[str, Any]]) -> str:
    """The beginning of a generated id, if no other id in the list has the same beginning."""
    begin = job_id[:SHORT]
    if not has_moment(job_id) or sum(row["id"].startswith(begin) for row in rows) > 1:
        return job_id
    return begin


def _job(state: AppState, given: str) -> Job[Any]:
    """The job of this id, or the only one of the newest jobs whose id begins with it.

    :raises JobNotFoundError: there is none.
    """
    job = state.client.find(given)
    if job is not None:
        return job
    found = []
    if len(given) >= 4:
        newest = state.client.inspect.list(JobQuery(limit=NEWEST), now=state.clock.now())
        found = [one.id for one in newest if one.id.startswith(given)]
    if len(found) > 1:
        raise click.ClickException(safe(f"{len(found)} jobs have an id that begins with {given!r}"))
    return state.client.get(found[0] if found else given)


@delayq_commands.command("show")
@click.argument("job_id")
@json_option
def show(job_id: str, as_json: bool) -> None:
    """Everything about one job; secrets in its arguments are hidden."""
    state = current_state()
    found = presenting.job_page(state, _job(state, job_id).record)
    if as_json:
        say_json({"job": found})
        return
    error = found.pop("error")
    for name, value in found.items():
        if value not in (None, False, {}, 0):
            say(f"{name + ':':<14}{value if isinstance(value, str) else json.dumps(value)}")
    if error is not None:
        say(f"{'error:':<14}{error['type']}: {error['message']}")
        if error["remedy"]:
            say(f"{'remedy:':<14}{error['remedy']}")
        if error["traceback"]:
            click.echo(safe(error["traceback"], lines=True))


@delayq_commands.command("enqueue")
@click.argument("task")
@click.option("--args", "args", default="[]", metavar="JSON", help="Positional arguments: a JSON array.")
@click.option(
    "--kwargs", "kwargs", default="{}", metavar="JSON", help="Keyword arguments: a JSON object."
)
@click.option("--delay", type=float, metavar="SECONDS", help="Due after this many seconds.")
@click.option("--at", "at", metavar="ISO", help="Due at this time, with a time zone.")
@click.option("--queue", help="A queue instead of the task's own.")
@click.option("--priority", type=click.Choice([level.name.lower() for level in Priority]))
@click.option("--id", "job_id", metavar="ID", help="The job's id; the same id stores one job.")
@json_option
def enqueue(
    task: str,
    args: str,
    kwargs: str,
    delay: float | None,
    at: str | None,
    queue: str | None,
    priority: str | None,
    job_id: str | None,
    as_json: bool,
) -> None:
    """Enqueue a job of a registered task, and print its id.

    If a job with this id exists already, nothing is stored, and stderr says so.
    """
    state = current_state()
    call = JsonCall(
        task,
        read_json("--args", args, list[Any]),
        read_json("--kwargs", kwargs, dict[str, Any]),
        delay,
        None if at is None else read_moment(at, "--at"),
        queue,
        priority,
        job_id,
    )
    found = state.registry.find(task)
    if found is None:
        raise click.ClickException(safe(no_such_task(state, task)))
    doubt = "" if queue is None else misspelt_queue(state, queue)
    job = produce(state.client, found, call)
    if doubt:
        click.echo(safe(doubt), err=True)
    if as_json:
        row = presenting.job_row(job.record, state.clock.now())
        say_json({"job": row, "created": job.created})
        return
    say(job.id)
    if not job.created:
        click.echo(f"this job existed already ({job.state}); nothing was stored", err=True)


@delayq_commands.command("cancel")
@click.argument("job_id")
@json_option
def cancel(job_id: str, as_json: bool) -> None:
    """Cancel a waiting job, or ask a running one to stop."""
    state = current_state()
    job = _job(state, job_id)
    before = job.state
    cancelled = job.cancel("by hand, from the command line")
    if not cancelled and job.is_final:
        raise click.ClickException(safe(f"job {job.id} is {job.state} already"))
    if as_json:
        say_json({"job": presenting.job_row(job.record, state.clock.now()), "cancelled": cancelled})
    elif before is JobState.CANCELLED:
        say(f"{job.id} ({job.task}) was cancelled already")
    elif cancelled:
        say(f"{job.id} ({job.task}) is cancelled: it was {before} and will not run")
    else:
        say(
            f"{job.id} ({job.task}) is running; it was asked to stop, and ends when its task checks that"
        )


@delayq_commands.command("retry")
@click.argument("job_id")
@json_option
def retry(job_id: str, as_json: bool) -> None:
    """Run a failed or cancelled job again, now."""
    state = current_state()
    job = _job(state, job_id)
    before = job.state
    job.retry()
    if as_json:
        say_json({"job": presenting.job_row(job.record, state.clock.now())})
    else:
        say(f"{job.id} ({job.task}) was {before} and is {job.state} again")
