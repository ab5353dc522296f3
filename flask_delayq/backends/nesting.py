"""Code that runs in the middle of other code of its own thread: signal handlers and finalizers.
Must not know what the locks guard.

Such code must not wait for a lock that the thread below it holds: that thread goes on only when it ends.
So locks here are reentrant, and where one is held already the use of the store is refused.
"""

from __future__ import annotations

from typing import Any, Protocol

from ..errors import BackendUnavailableError


class Lock(Protocol):
    """What ``threading.RLock()`` returns."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it."""

    def release(self) -> None:
        """Give it back."""


def is_held_here(lock: Any) -> bool:
    """Whether the calling thread holds a reentrant lock; cannot be interrupted half way."""
    return bool(lock._is_owned())  # `threading.Condition` relies on it as well


def nested() -> BackendUnavailableError:
    """The error for a use of the store inside another one."""
    return BackendUnavailableError(
        "the store was used inside one of its own operations, perhaps by a signal handler or a "
        "finalizer; nothing was done",
        reason="locked",
    )


def refuse_inside(lock: Any) -> None:
    """Raise unless the calling thread is free to wait for a lock.

    :raises BackendUnavailableError: it holds it.
    """
    if lock._is_owned():
        raise nested()
