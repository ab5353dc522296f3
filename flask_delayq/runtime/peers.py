"""The processes that run jobs of this store, and what they can run, by their records.
Knows only records."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from ..job import ProcessRecord
from ..task import Task, TaskRegistry


class Peer(Struct, frozen=True):
    """A living process."""

    owner: str
    pid: int
    host: str
    app: str
    queues: tuple[str, ...] | None
    """The queues that it serves; ``None``: all."""
    tasks: Mapping[str, str] | None
    """The names of its tasks, each with its :func:`fingerprint`; ``None``: unknown."""

    def may_know(self, task: str) -> bool:
        return self.tasks is None or task in self.tasks

    def serves(self, queue: str) -> bool:
        return self.queues is None or queue in self.queues

    def __str__(self) -> str:
        return f"process {self.pid} of {self.app or 'an app without a name'} on {self.host}"


def living(processes: Iterable[ProcessRecord]) -> list[Peer]:
    """The living ones of these processes."""
    return [_peer(process) for process in processes if process.alive]


class _Told(Struct):
    app: str = ""
    queues: tuple[str, ...] | None = None
    tasks: dict[str, str] | None = None


def _peer(process: ProcessRecord) -> Peer:
    told = _Told()
    # Bad values of a forged or foreign record are ignored.
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError):
        told = msgspec.json.decode(process.info, type=_Told)
    return Peer(process.owner, process.pid, process.host, told.app, told.queues, told.tasks)


def fingerprint(task: Task[..., Any]) -> str:
    """A hash of a task's parameters: processes with different hashes have different code, so one of them
    may accept a call that the other one does not."""
    return f"{zlib.crc32(task.parameters.encode('utf-8', 'replace')):08x}"


def fingerprints(registry: TaskRegistry) -> dict[str, str]:
    """Every name of every task with its :func:`fingerprint`."""
    return {name: fingerprint(task) for task in registry for name in (task.name, *task.declared.aliases)}
