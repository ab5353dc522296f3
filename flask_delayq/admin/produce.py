"""``/delayq/produce``: enqueues a registered task, from a form or from JSON.
Knows the tasks that allow it; imports nothing by name and runs nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from flask import Response, abort, redirect, request, url_for
from msgspec import structs

from ..app_state import current_state
from ..console import presenting
from ..console.json_calls import (
    JsonCall,
    call_from_fields,
    from_outside,
    parameters,
    priorities_of,
    produce,
    queues_of,
    read_json,
    read_moment,
)
from ..console.names import like_task, misspelt_queue
from ..errors import DelayQError, EnqueueUncertainError, InvalidNameError, shown
from ..handle import Job
from ..ids import check_name
from ..job import Priority
from ..task import Task
from .failures import message_of, status_of
from .params import BODY_EXTRA, form_body, json_body
from .replies import json_reply, page, reply, wants_json
from .request_access import access_for, may
from .token_throttle import peer_of

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as BaseResponse

_log = logging.getLogger(__name__)

_LEVELS = tuple(level.name.lower() for level in Priority)

ARGUMENT = "argument."
"""The prefix of form fields that are arguments."""


def offer() -> Response:
    """The tasks that may be produced, or the form for one of them (``?task=``)."""
    name = request.args.get("task")
    if name is not None and not wants_json():
        return _form(_allowed_task(name), {})
    return reply("produce", {"tasks": [_describe(task) for task in _allowed_tasks()]}, stored=_stored())


def _stored() -> str | None:
    """The id of the stored job, shown to people who may not see the job's page."""
    try:
        return check_name("stored", request.args.get("stored"))
    except InvalidNameError:
        return None


def take() -> BaseResponse:
    """Enqueue what was sent: 202 with the job, or an error that says why not."""
    limit = current_state().settings.max_payload + BODY_EXTRA
    if request.mimetype == "application/json":
        return _take_json(json_body(limit))
    if request.mimetype == "application/x-www-form-urlencoded":
        return _take_form(form_body(limit))
    abort(415, "the body must be application/json or a form")


def _take_json(body: bytes) -> BaseResponse:
    call = JsonCall.read(body)
    task = _allowed_task(call.task)
    # Asked before: the job makes the name a known one.
    doubt = misspelt_queue(current_state(), call.queue) if call.queue and _has_token() else ""
    return _accepted(_produced(task, call), doubt)


def _take_form(fields: dict[str, str]) -> BaseResponse:
    task = _allowed_task(fields.get("task", ""))
    try:
        job = _produced(task, _call_from_form(task, fields))
    except DelayQError as error:
        status = status_of(error)
        if wants_json() or status == 500:
            raise
        return _form(task, fields, message_of(error), status)  # nothing that was typed in is lost
    return _accepted(job)


def _produced(task: Task[..., Any], call: JsonCall) -> Job[Any]:
    try:
        return produce(current_state().client, task, call if _has_token() else from_outside(task, call))
    except EnqueueUncertainError as error:
        _note(task.name, f"{', '.join(error.job_ids)}, perhaps")
        raise


def _note(task: str, job_id: str) -> None:
    via = access_for("produce").via
    _log.info("produce %s as %s, by %s from %s", task, job_id, via, peer_of(request))


def _call_from_form(task: Task[..., Any], fields: dict[str, str]) -> JsonCall:
    given = {
        name.removeprefix(ARGUMENT): text for name, text in fields.items() if name.startswith(ARGUMENT)
    }
    args, kwargs = call_from_fields(task, given, current_state().settings.redact)
    call = JsonCall(
        task.name,
        args,
        kwargs,
        queue=fields.get("queue") or None,
        priority=fields.get("priority") or None,
        id=fields.get("id") or None,
    )
    if delay := fields.get("delay", "").strip():
        call = structs.replace(call, delay=read_json("delay", delay, float))
    if run_at := fields.get("run_at", "").strip():
        call = structs.replace(call, run_at=read_moment(run_at))
    return call


def _accepted(job: Job[Any], doubt: str = "") -> BaseResponse:
    readable = may("read")
    where = url_for("delayq.job", job_id=job.id)
    _note(job.task, job.id)
    if not wants_json():
        return redirect(where if readable else url_for("delayq.offer", stored=job.id), 303)
    row = presenting.job_row(job.record, current_state().clock.now())
    noted = {"note": doubt} if doubt else {}
    response = json_reply({"job": row, "created": job.created, **noted}, 202)
    if readable:
        response.headers["Location"] = where
    return response


def _form(
    task: Task[..., Any], fields: dict[str, str], problem: str = "", status: int = 200
) -> Response:
    context = {
        "task": _describe(task),
        "fields": fields,
        "problem": problem,
        "argument": ARGUMENT,
    }
    return page("produce_task", context, status)


# --- which tasks -----------------------------------------------------------------------------------


def _allowed_tasks() -> list[Task[..., Any]]:
    return [task for task in current_state().registry if _is_allowed(task)]


def _allowed_task(name: str) -> Task[..., Any]:
    task = current_state().registry.find(name)
    if task is None or not _is_allowed(task):
        # The same response for both, so that it does not reveal registered tasks.
        hint = like_task(name, [one.name for one in _allowed_tasks()])
        abort(404, f"no task named {shown(name)} may be produced here{hint}")
    return task


def _is_allowed(task: Task[..., Any]) -> bool:
    return task.declared.produce or _has_token()


def _has_token() -> bool:
    return access_for("produce").via == "token"


def _describe(task: Task[..., Any]) -> dict[str, Any]:
    declared = task.declared
    return {
        "name": task.name,
        "doc": (task.function.__doc__ or "").strip().partition("\n")[0][:200],
        "queue": declared.queue,
        "priority": declared.priority.name.lower(),
        # What may be chosen; None: anything.
        "queues": None if _has_token() else queues_of(task),
        "priorities": _LEVELS if _has_token() else priorities_of(task),
        "parameters": [structs.asdict(one) for one in parameters(task, current_state().settings.redact)],
    }
