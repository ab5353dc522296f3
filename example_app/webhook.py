"""Sends JSON to a URL from an untrusted client, and decides which URLs are allowed.
Knows no job and no app; the caller decides how often to try."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import SplitResult, urlsplit

TIMEOUT = 5.0
"""Seconds for each step: to connect, to send, to get the answer."""


class WebhookDown(Exception):  # noqa: N818 (it says what happened)
    """The receiver answered with a server error (5xx): a retry may succeed."""


class WebhookRefused(Exception):  # noqa: N818
    """The receiver rejects this message (any other status than 2xx)."""


def check(url: str, allowed_hosts: Collection[str]) -> SplitResult:
    """The parts of a URL that may be called.

    A server that calls any URL gives strangers access to its own network (server-side request forgery).
    So only listed hosts are called, and redirects are not followed.

    :raises ValueError: the URL is not allowed; the message may be shown to the client.
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

    :param key: sent as ``Idempotency-Key``, so that the receiver can recognise a repetition.
    :raises WebhookDown: for a 5xx.
    :raises WebhookRefused: for anything else that is not a 2xx.
    :raises OSError: no connection, or a timeout.
    :raises http.client.HTTPException: the answer is not valid HTTP.
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
