"""Raises an async exception in a thread, at each instant at which CPython can: after a call, at the
start of a function, at the end of a loop. Libraries with time limits do it by PyThreadState_SetAsyncExc.

It must not know what is run with it.
"""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable, Collection
from types import CodeType, FrameType
from typing import Any


class Late(BaseException):
    """The exception of a time limit."""


class Thrower:
    """Raises once, at the n-th such instant in the code of some files.

    :param files: the names of these files, as ``__file__`` of a module.
    """

    def __init__(self, nth: int, files: Collection[str | None]) -> None:
        self.left = nth
        self._files = files
        self._calls: dict[CodeType, dict[int, bool]] = {}

    @property
    def has_thrown(self) -> bool:
        return self.left < 0

    def run(self, call: Callable[[], object]) -> None:
        """Call it in a new thread, and wait until that has ended."""

        def run() -> None:
            sys._getframe().f_trace_opcodes = True  # 3.12 needs this before the tracing begins
            sys.settrace(self._trace)
            try:
                call()
            except Late:
                pass
            finally:
                sys.settrace(None)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in self._files or frame.f_code.co_name == "__del__":
            return None  # an exception in a finalizer does not leave it
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "call":
            self._strike()
            after_call = [False]

            def on_opcode(frame: FrameType, event: str, arg: Any) -> Any:
                if event == "opcode":
                    if after_call[0]:
                        self._strike()
                    after_call[0] = self._is_call(frame)
                return on_opcode

            return on_opcode
        return None

    def _strike(self) -> None:
        if not self.left:
            self.left = -1
            raise Late
        if self.left > 0:
            self.left -= 1

    def _is_call(self, frame: FrameType) -> bool:
        code = frame.f_code
        if code not in self._calls:
            self._calls[code] = {
                one.offset: one.opname.startswith(("CALL", "JUMP_BACKWARD", "JUMP_ABSOLUTE"))
                for one in dis.get_instructions(code)
            }
        return self._calls[code].get(frame.f_lasti, False)


def instants(run: Callable[[Thrower], object], files: Collection[str | None]) -> int:
    """The number of such instants in what ``run`` does with a thrower."""
    for _ in range(3):  # since 3.12 a function's opcodes are traced from its second call on
        thrower = Thrower(100_000, files)
        run(thrower)
    return 100_000 - thrower.left
