"""What a person can do about a job that ended with an error of Flask, which does not speak of tasks.
Knows errors by their words; knows no job and no store."""

from __future__ import annotations

_KNOWN = (
    (
        "Unable to build URLs outside an active request",
        "a task has no request: set SERVER_NAME and PREFERRED_URL_SCHEME in the app's configuration, or "
        "build the URL in the view and pass it as an argument",
    ),
    (
        "Working outside of request context",
        "a task has an app context and no request: pass what it needs of the request as arguments",
    ),
    (
        "Working outside of application context",
        "a job has an app context, threads that its task starts have none: enter one there with "
        "`with app.app_context():`",
    ),
)
"""How messages begin, and the remedy."""


def remedy(message: str) -> str | None:
    """The remedy for the error with this message, if it is a known one."""
    return next((told for begin, told in _KNOWN if message.startswith(begin)), None)
