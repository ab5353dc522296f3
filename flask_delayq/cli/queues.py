"""``flask delayq pause``, ``resume``, ``prune``, ``schedules``: queues, schedules and old jobs.
Knows the app's client and schedules; runs nothing."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from ..app_state import current_state
from ..console import presenting
from ..console.names import no_such_queue
from ..ids import check_name
from .group import delayq_commands, json_option
from .output import relative, say, say_json, say_table

PRUNE_STEP = 500
"""Jobs deleted in one transaction, so that other writers do not wait long."""


NOT_STORED = "at the next start"
"""When a declared schedule begins that no process has stored yet."""

_force = click.option("--force", is_flag=True, help="Allow a queue that nobody uses yet.")


@delayq_commands.command("pause")
@click.argument("queue")
@_force
@json_option
def pause(queue: str, force: bool, as_json: bool) -> None:
    """Begin no more jobs of a queue, in any process; running jobs go on."""
    _refuse_unknown(queue, force)
    current_state().client.pause(queue)
    _say_queue(queue, "paused", as_json)


@delayq_commands.command("resume")
@click.argument("queue")
@_force
@json_option
def resume(queue: str, force: bool, as_json: bool) -> None:
    """Undo pause."""
    _refuse_unknown(queue, force)
    current_state().client.resume(queue)
    _say_queue(queue, "resumed", as_json)


def _refuse_unknown(queue: str, force: bool) -> None:
    """Refuse the name of a queue that nobody uses: it is probably misspelt."""
    check_name("queue", queue)
    doubt = "" if force else no_such_queue(current_state(), queue)
    if doubt:
        raise click.ClickException(f"{doubt} (--force does it nevertheless)")


def _say_queue(queue: str, done: str, as_json: bool) -> None:
    if as_json:
        found = [one for one in presenting.queues(current_state()) if one["name"] == queue]
        say_json({"queue": found[0] if found else None})
    else:
        say(f"queue {queue} is {done}")


@delayq_commands.command("prune")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Delete jobs that finished longer ago, also failed ones. Default: the retention settings.",
)
@json_option
def prune(older_than: float | None, as_json: bool) -> None:
    """Delete finished jobs."""
    state = current_state()
    settings = state.settings
    now = state.clock.now()
    completed = settings.retention if older_than is None else older_than
    failed = settings.retention_failed if older_than is None else older_than
    total = 0
    while True:
        step = state.backend.prune(
            finished_before=now - completed,
            failed_before=now - failed,
            keep=settings.retention_count,
            limit=PRUNE_STEP,
        )
        total += step
        if step < PRUNE_STEP:
            break
    if as_json:
        say_json({"deleted": total})
    else:
        say(f"{total} {'job' if total == 1 else 'jobs'} deleted")


@delayq_commands.group("schedules", invoke_without_command=True)
@click.option("--wide", is_flag=True, help="Always show task and queue.")
@json_option
@click.pass_context
@with_appcontext
def schedules(ctx: click.Context, wide: bool, as_json: bool) -> None:
    """List the schedules, also declared ones that are not stored yet, or change one."""
    if ctx.invoked_subcommand is not None:
        return
    state = current_state()
    found = presenting.schedules(state, declared=True)
    if as_json:
        say_json({"schedules": found})
        return
    columns = {"SCHEDULE": "name", "TASK": "task", "RULE": "rule", "QUEUE": "queue"}
    if not wide:
        for drop in ("TASK", "QUEUE"):
            usual = (one["name"] if drop == "TASK" else "default" for one in found)
            if all(one[columns[drop]] == expected for one, expected in zip(found, usual, strict=True)):
                del columns[drop]
    say_table(
        (*columns, "LAST", "NEXT"),
        [
            (
                *(one[key] for key in columns.values()),
                relative(one["last_due"], state.clock),
                "paused" if one["paused"] else relative(one["next_due"], state.clock) or NOT_STORED,
            )
            for one in found
        ],
        "no schedule",
    )


@schedules.command("pause")
@click.argument("name")
@json_option
def pause_schedule(name: str, as_json: bool) -> None:
    """Pause a schedule: it enqueues nothing until it is resumed."""
    current_state().schedules.pause(name)
    _say_schedule(name, "paused", as_json)


@schedules.command("resume")
@click.argument("name")
@json_option
def resume_schedule(name: str, as_json: bool) -> None:
    """Resume a paused schedule, with its next occurrence."""
    current_state().schedules.resume(name)
    _say_schedule(name, "resumed", as_json)


@schedules.command("remove")
@click.argument("name")
@json_option
def remove_schedule(name: str, as_json: bool) -> None:
    """Delete a schedule; one declared in code returns at the next start."""
    current_state().schedules.remove(name)
    _say_schedule(name, "removed", as_json)


def _say_schedule(name: str, done: str, as_json: bool) -> None:
    above = click.get_current_context().parent
    if as_json or (above is not None and above.params["as_json"]):  # also `schedules --json pause X`
        found = [one for one in presenting.schedules(current_state()) if one["name"] == name]
        say_json({"schedule": found[0] if found else None})
    else:
        say(f"schedule {name} is {done}")
