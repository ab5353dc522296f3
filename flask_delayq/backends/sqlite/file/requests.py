"""One caller's operation in the writer; pure data.
Must not know how it is executed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from .connection import Sql


class State(Enum):
    """Where an operation is; the drawing is in ``writer``."""

    WAITING = auto()  # in line, or in the leader's group
    LEADING = auto()
    DONE = auto()


class Request:
    """One caller's operation and its result."""

    __slots__ = (
        *("operation", "durable", "deadline", "may_be_uncertain", "may_wait"),
        *("thread", "state", "result", "error", "wake"),
    )

    def __init__(
        self,
        operation: Callable[[Sql], Any] | None,
        *,
        durable: bool,
        may_be_uncertain: bool,
        deadline: float,
        may_wait: bool = False,
    ) -> None:
        self.operation = operation
        self.durable = durable
        self.may_be_uncertain = may_be_uncertain
        self.may_wait = may_wait
        self.deadline = deadline
        self.thread = threading.get_ident()
        self.state = State.WAITING
        self.result: Any = None
        self.error: BaseException | None = None
        self.wake = threading.Lock()
        self.wake.acquire()
