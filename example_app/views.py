"""The pages and the JSON routes. Forms are answered with a redirect, JSON with JSON.
Knows the tasks and the store; runs nothing long itself."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from operator import itemgetter
from typing import Any

from flask import Blueprint, abort, current_app, jsonify, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, ServiceUnavailable

from flask_delayq import Job, JobState, Task
from flask_delayq.errors import BackendError, JobConflictError, JobNotFoundError

from . import webhook
from .fields import fields, number, text
from .store import current_store
from .tasks import allowed_hosts, build_report, delayq, expire_order, expiry_id, send_reminder

pages = Blueprint("remind", __name__)

LONGEST_DELAY = 366 * 86400.0
LONGEST_TEXT = 1000
MOST_ROWS = 10_000
ORDER = "<int(max=999_999_999):order>"


# --- reminders -------------------------------------------------------------------------------------


@pages.get("/")
def reminders() -> ResponseReturnValue:
    # A reminder is its job: nothing else needs to be stored to list, show and cancel it.
    reminders = [describe_reminder(job) for job in latest(send_reminder)]
    return render_template(
        "reminders.html",
        reminders=sorted(reminders, key=itemgetter("due"), reverse=True),
        inbox=current_store().inbox(),
        webhook=url_for(".receive", _external=True),
        key=f"{time.time_ns():x}-{secrets.token_hex(4)}",
    )


@pages.post("/reminders")
def add_reminder() -> ResponseReturnValue:
    """``{"message", "seconds", "webhook"}`` and an ``Idempotency-Key``, as a header or ``"key"``."""
    return remind(fields())


@pages.post("/publish")
def publish() -> ResponseReturnValue:
    """``{"msg", "seconds"}``: a shorter form of the same; it goes to the app's own inbox."""
    given = fields()
    own_inbox = url_for(".receive", _external=True)
    return remind({"webhook": own_inbox, **given, "message": given.get("msg")})


def remind(given: Mapping[str, Any]) -> ResponseReturnValue:
    message = text(given, "message")
    seconds = number(given, "seconds", 0, LONGEST_DELAY)
    url = text(given, "webhook")
    key = request.headers.get("Idempotency-Key") or given.get("key")
    try:
        webhook.check(url, allowed_hosts())
        # The prefix prevents a collision of a client's key with the id of another task's job.
        call = send_reminder.options(id=f"remind-{key}") if key else send_reminder
        job = call.enqueue_in(seconds, message, url)
    except JobConflictError:
        abort(409, "this idempotency key was used for another reminder")
    except ValueError as error:
        abort(400, str(error))
    return answer(describe_reminder(job), url_for(".reminders"), 202 if job.created else 200)


@pages.get("/reminders/<job_id>")
def show_reminder(job_id: str) -> ResponseReturnValue:
    return jsonify(describe_reminder(find(job_id, send_reminder)))


@pages.post("/reminders/<job_id>/cancel")
def cancel_reminder(job_id: str) -> ResponseReturnValue:
    job = find(job_id, send_reminder)
    job.cancel("by its owner")
    return answer(describe_reminder(job), url_for(".reminders"))


@pages.post("/inbox")
def receive() -> ResponseReturnValue:
    """A webhook of the app itself, so that the demo needs no other service."""
    given = fields()
    current_store().receive(text(given, "id"), text(given, "message"))
    return "", 204


@pages.get("/digests")
def digests() -> ResponseReturnValue:
    return render_template("digests.html", digests=current_store().digests())


# --- orders ----------------------------------------------------------------------------------------


@pages.get("/orders")
def orders() -> ResponseReturnValue:
    return render_template("orders.html", orders=current_store().orders())


@pages.post("/orders")
def add_order() -> ResponseReturnValue:
    """``{"item"}`` and, if not the default, ``"seconds"`` to pay in."""
    given = fields()
    usual = {"seconds": current_app.config["REMIND_ORDER_SECONDS"]}
    seconds = number(usual | dict(given), "seconds", 0, LONGEST_DELAY)
    store = current_store()
    order = store.add_order(text(given, "item"))
    # The order matters: a crash between the steps leaves an order that nobody can pay, never an unpaid
    # order that does not expire.
    expire_order.options(id=expiry_id(order)).enqueue_in(seconds, order)
    store.move_order(order, ("new",), "unpaid")
    return answer(describe_order(order), url_for(".orders"), 201)


@pages.get(f"/orders/{ORDER}")
def show_order(order: int) -> ResponseReturnValue:
    return jsonify(describe_order(order))


@pages.post(f"/orders/{ORDER}/pay")
def pay_order(order: int) -> ResponseReturnValue:
    # The row decides whether the payment came in time; cancelling the job only saves its run.
    if not current_store().move_order(order, ("unpaid",), "paid"):
        abort(409, f"order {order} cannot be paid: it is {describe_order(order)['state']}")
    try:
        delayq.get(expiry_id(order)).cancel("paid")
    except JobNotFoundError:
        pass  # it ended long ago, and the retention is over
    return answer(describe_order(order), url_for(".orders"))


# --- reports ---------------------------------------------------------------------------------------


@pages.get("/reports")
def reports() -> ResponseReturnValue:
    reports = [describe_report(job) for job in latest(build_report)]
    return render_template("reports.html", reports=reports)


@pages.post("/reports")
def add_report() -> ResponseReturnValue:
    """``{"rows"}``: the number of rows in the report."""
    job = build_report.enqueue(int(number(fields(), "rows", 1, MOST_ROWS)))
    return answer(describe_report(job), url_for(".show_report", job_id=job.id), 202)


@pages.get("/reports/<job_id>")
def show_report(job_id: str) -> ResponseReturnValue:
    return render_template("report.html", report=describe_report(find(job_id, build_report)))


@pages.get("/reports/<job_id>/progress")
def report_progress(job_id: str) -> ResponseReturnValue:
    return jsonify(describe_report(find(job_id, build_report)))


@pages.post("/reports/<job_id>/cancel")
def cancel_report(job_id: str) -> ResponseReturnValue:
    job = find(job_id, build_report)
    job.cancel("by its owner")
    return answer(describe_report(job), url_for(".show_report", job_id=job_id))


# --- what a stranger sees --------------------------------------------------------------------------


def describe_job(job: Job[Any]) -> dict[str, Any]:
    state = job.state
    return {
        "id": job.id,
        "state": "retrying" if state is JobState.SCHEDULED and job.attempt else state.value,
        "attempt": job.attempt,
        "error": str(job.error) if job.error else None,
        "final": job.is_final,
    }


def describe_reminder(job: Job[int]) -> dict[str, Any]:
    (message, url), _ = job.arguments
    late = (job.started_at - job.run_at).total_seconds() if job.started_at and job.is_final else None
    due = job.run_at.timestamp()
    return {**describe_job(job), "message": message, "webhook": url, "due": due, "late": late}


def describe_report(job: Job[dict[str, Any]]) -> dict[str, Any]:
    (rows,), _ = job.arguments
    result = job.result if job.state is JobState.COMPLETED else None
    done = rows if result else job.progress.get("done", 0)
    stopping = job.cancel_requested and not job.is_final
    return {**describe_job(job), "done": done, "total": rows, "stopping": stopping, "result": result}


def describe_order(order: int) -> dict[str, Any]:
    row = current_store().order(order)
    if row is None:
        abort(404, f"there is no order {order}")
    return {**dict(row), "expiry_job": expiry_id(order)}


@pages.app_template_filter()
def moment(seconds: float) -> str:
    """Epoch seconds, for people (UTC)."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%d %b %H:%M:%S")


@pages.app_template_filter()
def duration(seconds: float) -> str:
    """Seconds, for people."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:,.0f} s"


# --- requests --------------------------------------------------------------------------------------


@pages.before_request
def refuse_other_sites() -> None:
    """CSRF protection: another web site must not submit forms here with a visitor's browser."""
    if request.method == "POST" and request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        abort(403, "only the pages of this site may do that")


@pages.errorhandler(HTTPException)
def explain(error: HTTPException) -> ResponseReturnValue:
    code = error.code or 500
    if wants_json():
        return jsonify(error=error.description), code
    return render_template("error.html", code=code, text=error.description), code


@pages.errorhandler(BackendError)
def ask_to_come_again(error: BackendError) -> ResponseReturnValue:
    current_app.logger.warning("the job store did not answer: %s", error)
    return explain(ServiceUnavailable("nothing can be stored right now, please try again"))


def wants_json() -> bool:
    """Whether the client is a program: only browsers prefer HTML."""
    return request.accept_mimetypes.best_match(["application/json", "text/html"]) != "text/html"


def answer(what: Mapping[str, Any], page: str, status: int = 200) -> ResponseReturnValue:
    return (jsonify(what), status) if wants_json() else redirect(page, 303)


def latest(task: Task[..., Any], limit: int = 50) -> list[Job[Any]]:
    """The latest jobs of a task."""
    # The list omits arguments, results and errors, so each job is read again.
    return [job.refresh() for job in delayq.jobs(task=task.name, limit=limit)]


def find(job_id: str, task: Task[..., Any]) -> Job[Any]:
    """The job of this id, if it is a job of this task: other jobs are not public."""
    try:
        job = delayq.get(job_id)
    except JobNotFoundError:
        job = None
    if job is None or job.task != task.name:
        abort(404, "there is nothing of this name (any more)")
    return job
