"""Sends JSON to a URL that a stranger named, and decides which URLs are allowed.
Knows no job and no app; how often to try is the caller's business."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import SplitResult, urlsplit

TIMEOUT = 5.0
"""Seconds for each step: to connect, to send, to get the answer."""


class WebhookDown(Exception):  # noqa: N818 (it says what happened)
    """The other side answered with a server error (5xx): worth another try."""


class WebhookRefused(Exception):  # noqa: N818
    """The other side does not want this message (any other answer but 2xx)."""


def check(url: str, allowed_hosts: Collection[str]) -> SplitResult:
    """The parts of a URL that may be called.

    A server that calls any URL it is given is a door into its own network (server-side request
    forgery). So only named hosts are called, and redirects are not followed.

    :raises ValueError: it may not; the message is fit for a stranger.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("the webhook may have only plain ASCII characters and no spaces")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("the webhook must begin with http:// or https://")
    if (parts.hostname or "") not in allowed_hosts:
        raise ValueError(f"webhooks to {parts.hostname or 'nowhere'} are not allowed here")
    parts.port  # noqa: B018 (raises ValueError unless it is a port)
    return parts


def post(parts: SplitResult, body: Mapping[str, object], key: str) -> int:
    """POST a JSON object; returns the status.

    :param key: goes along as ``Idempotency-Key``, so that the receiver can tell a repetition.
    :raises WebhookDown: for a 5xx.
    :raises WebhookRefused: for anything else that is not a 2xx.
    :raises OSError: no connection, or none in time.
    :raises http.client.HTTPException: the answer is no HTTP.
    """
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(
            "POST",
            target,
            json.dumps(body),
            {"Content-Type": "application/json", "Idempotency-Key": key},
        )
        status = connection.getresponse().status
    finally:
        connection.close()
    if status >= 500:
        raise WebhookDown(f"the webhook answered {status}")
    if not 200 <= status < 300:
        raise WebhookRefused(f"the webhook answered {status}")
    return status
