"""``flask delayq jobs``, ``show``, ``enqueue``, ``cancel``, ``retry``, ``tasks``: single jobs.
Knows the verbs of the client; runs nothing."""

from __future__ import annotations

import json
from typing import Any

import click

from ..app_state import current_state
from ..console import presenting
from ..console.json_calls import JsonCall, parameters, produce, read_json, read_moment
from ..job import JobQuery, JobState, Priority
from ..task import Task
from .group import delayq_commands
from .output import relative, safe, say, say_json, say_table

_as_json = click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")


@delayq_commands.command("tasks")
@_as_json
def tasks(as_json: bool) -> None:
    """The registered tasks."""
    state = current_state()
    found = [_describe(task, state.settings.redact) for task in state.registry]
    if as_json:
        say_json({"tasks": found})
        return
    say_table(
        ("TASK", "QUEUE", "PRIORITY", "SCHEDULE", "PARAMETERS"),
        [tuple(one[key] for key in ("name", "queue", "priority", "rule", "signature")) for one in found],
        "no task is registered",
    )


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
@click.option("--queue", help="Only of this queue.")
@click.option("--task", help="Only of this task.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@_as_json
def jobs(
    states: tuple[str, ...], queue: str | None, task: str | None, limit: int, as_json: bool
) -> None:
    """Jobs, newest first."""
    client = current_state().client
    now = client.now()
    query = JobQuery(tuple(map(JobState, states)), queue, task, None, limit)
    rows = [presenting.job_row(record, now) for record in client.inspect.list(query, now=now)]
    if as_json:
        say_json({"jobs": rows})
        return
    say_table(
        ("JOB", "TASK", "STATE", "QUEUE", "ATTEMPT", "DUE"),
        [
            (
                *(row[key] for key in ("id", "task")),
                "retrying" if row["retrying"] else row["state"],
                *(row[key] for key in ("queue", "attempt")),
                relative(row["run_at"], client.clock),
            )
            for row in rows
        ],
        "no job matches",
    )


@delayq_commands.command("show")
@click.argument("job_id")
@_as_json
def show(job_id: str, as_json: bool) -> None:
    """Everything about one job; secrets in its arguments are hidden."""
    state = current_state()
    found = presenting.job_page(state, current_state().client.get(job_id).record)
    if as_json:
        say_json({"job": found})
        return
    error = found.pop("error")
    for name, value in found.items():
        if value not in (None, False, {}, 0):
            say(f"{name + ':':<14}{value if isinstance(value, str) else json.dumps(value)}")
    if error is not None:
        say(f"{'error:':<14}{error['type']}: {error['message']}")
        if error["traceback"]:
            click.echo(safe(error["traceback"], lines=True))


@delayq_commands.command("enqueue")
@click.argument("task")
@click.option("--args", "args", default="[]", metavar="JSON", help="By position: a JSON array.")
@click.option("--kwargs", "kwargs", default="{}", metavar="JSON", help="By name: a JSON object.")
@click.option("--delay", type=float, metavar="SECONDS", help="Due so many seconds from now.")
@click.option("--at", "at", metavar="ISO", help="Due at this moment, with its time zone.")
@click.option("--queue", help="Instead of the task's own.")
@click.option("--priority", type=click.Choice([level.name.lower() for level in Priority]))
@click.option("--id", "job_id", metavar="ID", help="The job's id; the same one is stored once.")
@_as_json
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

    A job of that id which exists already is left as it is, and said on stderr.
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
    job = produce(state.client, state.registry.get(task), call)
    if as_json:
        row = presenting.job_row(job.record, state.clock.now())
        say_json({"job": row, "created": job.created})
        return
    say(job.id)
    if not job.created:
        click.echo(f"this job existed already ({job.state}); nothing was stored", err=True)


@delayq_commands.command("cancel")
@click.argument("job_id")
def cancel(job_id: str) -> None:
    """Cancel a waiting job, or ask a running one to stop."""
    job = current_state().client.get(job_id)
    if job.cancel("by hand, from the command line"):
        say(f"{job.id} is cancelled")
    elif job.is_final:
        raise click.ClickException(safe(f"job {job.id} is {job.state} already"))
    else:
        say(f"{job.id} runs; it was asked to stop")


@delayq_commands.command("retry")
@click.argument("job_id")
def retry(job_id: str) -> None:
    """Let a failed or cancelled job run again, now."""
    job = current_state().client.get(job_id).retry()
    say(f"{job.id} is {job.state}")
