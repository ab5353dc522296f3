"""Previews for lists of jobs: arguments and error, each as one short line.
Hides secrets as the page of a job does; knows no request and no terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import JobNotFoundError
from ..job import JobRecord
from ..serializer import decode_failure
from .presenting import View, attempts_allowed, plain
from .redacting import Redaction

if TYPE_CHECKING:
    from ..app_state import AppState

MOST_BYTES = 8192
"""Bytes; of larger arguments, results and progress a list shows only the size."""

VALUE = 60
"""Maximum characters shown of one argument."""

LINE = 180
"""Maximum characters shown of all arguments, and of an error."""


def previews(state: AppState, ids: Iterable[str]) -> dict[str, View]:
    """The previews of the jobs that still exist. Lists omit these data, so it reads each job."""
    found = {}
    for job_id in ids:
        try:
            found[job_id] = preview(state, state.client.get(job_id).record)
        except JobNotFoundError:  # pruned meanwhile
            continue
    return found


def preview(state: AppState, record: JobRecord) -> View:
    """``arguments``, ``error`` (or ``None``) and ``max_attempts`` of a job."""
    redaction = Redaction(state.settings.redact)
    failure = decode_failure(record.error)
    error = failure and failure.type
    parts = [part for part in (record.payload, record.result, record.progress) if part]
    if sum(map(len, parts)) > MOST_BYTES:
        # Their secrets are unknown, so the error's message is omitted, too.
        arguments = f"{len(record.payload):,} bytes"
    else:
        for part in parts:
            redaction.learn(plain(part))
        arguments = _call(redaction.clean(plain(record.payload)))
        if failure is not None and failure.message:
            error = cut(f"{failure.type}: {redaction.text(failure.message)}", LINE)
    return {"arguments": arguments, "error": error, "max_attempts": attempts_allowed(state, record)}


def _call(given: Any) -> str:
    """Arguments as in a call: ``to="ann", times=2``."""
    if not isinstance(given, dict):
        return cut(_short(given), LINE)
    return cut(", ".join(f"{name}={_short(value)}" for name, value in given.items()), LINE)


def _short(value: Any) -> str:
    return cut(json.dumps(value, ensure_ascii=False), VALUE)


def cut(text: str, most: int) -> str:
    """A text on one line, cut to ``most`` characters with dots at its end."""
    line = " ".join(text[: 4 * most].split())
    return line if len(line) <= most and len(text) <= 4 * most else line[: most - 3] + "..."
