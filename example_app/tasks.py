"""The background work: the extension object and the app's four tasks.
Knows no request; what a task needs comes as an argument or from the current app."""

from __future__ import annotations

import logging
import time
from http.client import HTTPException
from typing import Any

from flask import current_app

from flask_delayq import Cancel, DelayQ, RetryPolicy, current_job

from . import webhook
from .store import current_store

_log = logging.getLogger(__name__)

delayq = DelayQ()

PATIENT = RetryPolicy(
    max_attempts=8,
    backoff=1.0,  # then 2, 4, 8, ... seconds
    cap=60.0,
    retry_on=(OSError, HTTPException, webhook.WebhookDown),
)


@delayq.task(queue="reminders", retry=PATIENT, produce=True)
def send_reminder(message: str, url: str) -> int:
    """Deliver a reminder; returns the HTTP status."""
    try:
        # Checked again right before the call: a host may have been removed from the list.
        parts = webhook.check(url, allowed_hosts())
        status = webhook.post(parts, {"id": current_job.id, "message": message}, key=current_job.id)
    except (ValueError, webhook.WebhookRefused) as error:
        raise Cancel(str(error)) from error
    # A crash between the two lines repeats the delivery. The idempotency key lets the receiver notice.
    current_store().add_delivery(current_job.id, message)
    return status


@delayq.task(every=60, produce=True)
def write_digest() -> int:
    """Sum up what was sent since the last digest; returns how many deliveries that were."""
    sent = current_store().add_digest()
    _log.info("digest: %d reminders sent", sent)
    return sent


@delayq.task(queue="reports", produce=True)
def build_report(rows: int) -> dict[str, Any]:
    """A long piece of work that tells how far it is and stops when asked to."""
    for row in range(rows):
        if current_job.cancel_requested:
            raise Cancel(f"stopped after {row} of {rows} rows")
        time.sleep(current_app.config["REMIND_ROW_SECONDS"])  # stands for the work
        current_job.progress(row + 1, rows, "rows")
    return {"rows": rows, "orders": current_store().order_counts()}


@delayq.task(queue="orders")
def expire_order(order: int) -> bool:
    """Give up an order that nobody paid; whether it was still unpaid."""
    return current_store().move_order(order, ("new", "unpaid"), "expired")


def expiry_id(order: int) -> str:
    """The id of the job that expires an order: known without being stored anywhere."""
    return f"order-{order}-expire"


def allowed_hosts() -> list[str]:
    """The hosts that may get webhooks (``REMIND_ALLOWED_HOSTS``: a list, or ``"a, b"``)."""
    hosts = current_app.config["REMIND_ALLOWED_HOSTS"]
    names = hosts.split(",") if isinstance(hosts, str) else hosts
    return [name.strip().lower() for name in names]
