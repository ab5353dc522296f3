"""``flask delayq status``, ``threads`` and ``check``: the current state, from any terminal.
Knows the store and the process records in it; changes nothing."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import urlsplit

import click
from flask import current_app

from .. import launch
from ..app_state import AppState, current_state
from ..backends.base import Inspectable, Schedulable
from ..console import presenting
from ..console.attendance import served
from ..console.presenting import View, duration
from ..console.waiting import how_to_run
from ..errors import BackendError, ConfigurationError, RuleError
from ..mounts import why_temporary
from ..runtime.peers import living
from ..runtime.unknown import REMEDY
from ..serializer import decode_rule
from .group import delayq_commands, json_option
from .output import painted, relative, say, say_json, say_table
from .unimported import unimported

WATCH_EVERY = 2.0
"""Seconds between two outputs of ``--watch``."""


@delayq_commands.command("status")
@json_option
@click.option("--watch", is_flag=True, help="Repeat every two seconds, until Ctrl-C.")
@click.pass_context
def status(ctx: click.Context, as_json: bool, watch: bool) -> None:
    """Queues, jobs, processes and schedules at a glance.

    Shows the serving processes from any terminal. Exit code 1 if the store is unhealthy, or if jobs have
    been due for a minute in a queue that no process serves; else 0.
    """
    state = current_state()
    found = presenting.status(state)
    try:
        while watch:
            if not as_json:
                click.clear()
            _say(state, found, as_json)
            time.sleep(WATCH_EVERY)
            found = presenting.status(state)
        _say(state, found, as_json)
    except KeyboardInterrupt:
        pass  # this is how --watch ends
    ctx.exit(0 if found["healthy"] else 1)


def _say(state: AppState, found: View, as_json: bool) -> None:
    if as_json:
        say_json(found)
    else:
        _say_status(state, found)


def _say_status(state: AppState, found: View) -> None:
    clock = state.clock
    click.echo(painted(found["status"], found["status"]), nl=False)
    say(f": {found['reason']}" if found["reason"] else "")
    say(f"store {found['store']['url']}, mode {found['mode']}")
    for note in found["notes"]:
        say(f"note: {note}")
    say("  ".join(f"{name} {number}" for name, number in found["counts"].items()))
    say()
    say_table(
        ("QUEUE", "SCHEDULED", "READY", "RUNNING", "LATE BY", ""),
        [
            (
                *(queue[key] for key in ("name", "scheduled", "ready", "running")),
                None if queue["lateness"] is None else duration(queue["lateness"]),
                "paused" if queue["paused"] else "",
            )
            for queue in found["queues"]
        ],
        "no job has been enqueued yet",
    )
    say()
    _say_processes(state, found["processes"])
    if found["schedules"]:
        say()
        say_table(
            ("SCHEDULE", "RULE", "NEXT"),
            [
                (
                    one["name"],
                    one["rule"],
                    "paused" if one["paused"] else relative(one["next_due"], clock),
                )
                for one in found["schedules"]
            ],
            "",
        )


def _say_processes(state: AppState, processes: list[View]) -> None:
    hosts = ["HOST"] if len({one["host"] for one in processes}) > 1 else []  # seldom, and long
    say_table(
        (
            "PROCESS",
            *hosts,
            "ROLE",
            "QUEUES",
            "BUSY",
            "LATE P50",
            "LATE P99",
            "SEEN",
        ),
        [
            (
                f"{one['pid']}{'' if one['alive'] else ' (dead)'}",
                *([one["host"]] if hosts else []),
                one["role"],
                served(one),
                f"{one['busy']} of {one['workers']}",
                *(None if one[key] is None else duration(one[key]) for key in _LATENESS),
                relative(one["seen_at"], state.clock),
            )
            for one in processes
        ],
        f"no process runs jobs: {how_to_run(state)}",
    )


_LATENESS = ("lateness_p50", "lateness_p99")


@delayq_commands.command("threads")
@json_option
def threads(as_json: bool) -> None:
    """The processes that run jobs, and how busy their workers are.

    Live stacks exist only inside a process: it shows its own at /delayq/threads.
    """
    state = current_state()
    found = presenting.processes(state)
    if as_json:
        say_json({"processes": found, "stacks": f"{state.settings.url_prefix}/threads"})
        return
    _say_processes(state, found)
    say(f"live stacks: ask a serving process over HTTP, {state.settings.url_prefix}/threads")


@delayq_commands.command("check")
@json_option
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Check the configuration, the store and every task. Exit code 0 if all are good."""
    state = current_state()
    health = state.backend.health()
    wrong = _wrong_tasks(state)
    forgotten = unimported(state.name)
    unusable = _unusable_schedules(state) if health.ok else []
    books = state.backend.audit() if health.ok and isinstance(state.backend, Inspectable) else []
    unserved = presenting.unserved(state) if health.ok else ""
    sharing, unknown = _sharing(state) if health.ok else ([], [])
    problems = [*wrong, *unusable, *books, *filter(None, [unserved]), *unknown]
    ok = health.ok and not problems
    if as_json:
        store = {"url": state.backend.url, "ok": health.ok, "reason": health.reason, **health.facts}
        say_json(
            {
                "ok": ok,
                "mode": state.mode,
                "workers": state.settings.workers,
                "store": store,
                "notes": [*health.notes, _survival(state)],
                "tasks": len(state.registry),
                "problems": problems,
                "not_imported": dict(forgotten),
                "launch": launch.describe(),
            }
        )
        ctx.exit(0 if ok else 1)
    say(f"configuration: ok (mode {state.mode}, {state.settings.workers} workers)")
    say(f"store: {state.backend.url}: {'ok' if health.ok else health.reason}")
    for note in (*health.notes, _survival(state)):
        say(f"  {note}")
    say(f"tasks: {len(state.registry)}{'' if not wrong else f', {len(wrong)} of them cannot be used'}")
    for problem in wrong:
        say(f"  {problem}")
    for path, tasks in forgotten:
        say(f"  not imported here: {path}, with {tasks} tasks; import it where the app is made")
    for problem in unusable:
        say(problem)
    for line in (*sharing, *unknown):
        say(line)
    if books:
        say(f"jobs: {len(books)} things do not add up in the store")
    for problem in books:
        say(f"  {problem}")
    if unserved:
        say(unserved)
    say(f"launch: {_launch(state)}")
    ctx.exit(0 if ok else 1)


def _launch(state: AppState) -> str:
    """Whether this process runs jobs, and which ones do."""
    found = launch.describe()
    if found == launch.NO_SERVER and not state.backend.url.startswith("memory:"):
        found += _WHO_RUNS_JOBS.get(state.mode, "")
    return found


_WHO_RUNS_JOBS = {
    "auto": "; a server does, or `flask delayq worker`",
    "external": "; `flask delayq worker` does (mode external)",
}


def _sharing(state: AppState) -> tuple[list[str], list[str]]:
    """Lines about those who share the store, and about jobs that wait and that nobody can run."""
    lines: list[str] = []
    unknown: list[str] = []
    try:
        records = state.backend.processes()
        known = state.registry.names
        strange = state.client.inspect.waiting_tasks(besides=known)
    except BackendError:
        return lines, unknown  # printed before
    peers = living(records)
    for peer in peers:
        if peer.tasks is not None and set(peer.tasks) != set(known):
            queues = "all queues" if peer.queues is None else f"queues {', '.join(peer.queues)}"
            lines.append(f"shared with: {peer}, {len(peer.tasks)} tasks, {queues}")
            for kind, names in (
                ("only there", set(peer.tasks) - set(known)),
                ("only here", set(known) - set(peer.tasks)),
            ):
                if names:
                    more = ", ..." if len(names) > 10 else ""
                    lines.append(f"  {kind}: {', '.join(sorted(names)[:10])}{more}")
    for task in strange:
        knowing = [peer for peer in peers if peer.may_know(task.name)]
        begin = f"unknown here: task {task.name}, {task.waiting} jobs wait; "
        if knowing:
            lines.append(f"{begin}left to {knowing[0]}")
        else:
            unknown.append(f"{begin}no process knows this task: {REMEDY}")
    return lines, unknown


def _survival(state: AppState) -> str:
    """Whether the jobs survive the next deploy."""
    url = state.settings.url
    scheme, _, rest = url.partition(":///")
    if urlsplit(url).scheme == "memory":
        return "jobs live in this process only and end with it"
    if scheme != "sqlite":
        return "jobs live on a server of their own"
    inside = Path(rest).is_relative_to(current_app.instance_path)
    where = "in the app's instance folder" if inside else "outside the app"
    if why := why_temporary(state.backend.url.partition(":///")[2]):
        return f"the file is {where} and {why}; mount a volume there, or change DELAYQ_URL"
    hint = " (in a container, mount a volume there)" if inside else ""
    return f"the file is {where}: it survives a deploy if that folder does{hint}"


def _unusable_schedules(state: AppState) -> list[str]:
    """The schedules that enqueue nothing here, because their rule cannot be used."""
    found = []
    for schedule in state.backend.schedules() if isinstance(state.backend, Schedulable) else ():
        try:
            decode_rule(schedule.rule).next_after(state.clock.now())
        except RuleError as error:
            found.append(f"schedule {schedule.name}: {error}")
    return found


def _wrong_tasks(state: AppState) -> list[str]:
    wrong = []
    for task in state.registry:
        try:
            _ = task.arguments
        except ConfigurationError as error:
            wrong.append(str(error))
    return wrong
