"""Runs a function in its own process, session and folder, with a timeout; or several in turn.
Knows nothing of what is measured."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parent.parent

Runs: TypeAlias = "list[Any] | NotMeasured"
"""The answers of one subject, one per round; or why there are none."""


class NotMeasured(Exception):  # noqa: N818 (an answer to a question, not a fault)
    """Why there is no figure, in words for the table."""


def alone(function: Callable[..., Any], *, limit: float = 90.0, **arguments: Any) -> Any:
    """Call ``function(folder, **arguments)`` in a new process and return what it returns.

    Arguments and answer travel as JSON. All processes that it started end with it.

    :param limit: the timeout in seconds.
    :raises NotMeasured: a requirement is not installed, the function failed, or it timed out.
    """
    with tempfile.TemporaryDirectory(prefix="delayq-bench-") as made:
        folder, answer = Path(made, "work"), Path(made, "answer.json")
        folder.mkdir()
        command = [sys.executable, "-c", f"from {__name__} import main; main()"]
        command += [function.__module__, function.__name__, str(folder), json.dumps(arguments)]
        process = subprocess.Popen(
            [*command, str(answer)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            raise NotMeasured(f"took more than {limit:.0f} s") from None
        finally:
            if process.returncode != 0:
                _end_session(process)
        outcome = json.loads(answer.read_text()) if answer.exists() else {}
    if "answer" in outcome:
        return outcome["answer"]
    raise NotMeasured(outcome.get("reason", f"ended with exit code {process.returncode}"))


def in_turn(rounds: int, subjects: Mapping[str, Callable[[], Any]]) -> dict[str, Runs]:
    """Run the subjects A B C A B C ..., so that a slow minute of the machine affects all of them.

    A subject that cannot be measured is left out of the further rounds.
    """
    runs: dict[str, Runs] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            so_far = runs[name]
            if isinstance(so_far, list):
                try:
                    so_far.append(subject())
                except NotMeasured as reason:
                    runs[name] = reason
    return runs


def _end_session(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def main() -> None:
    """The new process: call the function, and write its result or its error to a file."""
    module, name, folder, arguments, answer = sys.argv[1:]
    try:
        function = getattr(importlib.import_module(module), name)
        outcome = {"answer": function(Path(folder), **json.loads(arguments))}
    except ModuleNotFoundError as error:
        outcome = {"reason": f"needs {error.name}"}
    except NotMeasured as reason:
        outcome = {"reason": str(reason)}
    except BaseException as error:  # any error goes into the table
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        outcome = {"reason": f"{type(error).__name__}: {error} ({place})"[:300]}
    Path(answer).write_text(json.dumps(outcome))
    # Not by a normal exit: a peer's thread that does not stop would make it wait until the timeout.
    os._exit(0 if "answer" in outcome else 1)
