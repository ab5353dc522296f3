"""For code that interrupts other code of its own thread: signal handlers and finalizers.
Must not know what the locks guard.

Such code must not wait for a lock that the interrupted code holds: that would be a deadlock.
So locks here are reentrant, and if the thread already holds one, the use of the store is refused.
"""

from __future__ import annotations

from typing import Any, Protocol

from ..errors import BackendUnavailableError


class Lock(Protocol):
    """What ``threading.RLock()`` returns."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it."""

    def release(self) -> None:
        """Release it."""


def is_held_here(lock: Any) -> bool:
    """Whether the calling thread holds a reentrant lock; atomic."""
    return bool(lock._is_owned())  # `threading.Condition` relies on it as well


def nested() -> BackendUnavailableError:
    """The error for a use of the store inside another use."""
    return BackendUnavailableError(
        "the store was used inside one of its own operations, perhaps by a signal handler or a "
        "finalizer; nothing was done",
        reason="locked",
    )


def refuse_inside(lock: Any) -> None:
    """Refuse to go on if the calling thread holds this lock.

    :raises BackendUnavailableError: it does.
    """
    if lock._is_owned():
        raise nested()
