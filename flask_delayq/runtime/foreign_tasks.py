"""Decides which tasks to claim after jobs of tasks came that are not registered here.
Knows only names; no thread and no store."""

from __future__ import annotations

from collections.abc import Collection

from ..task import TaskRegistry


class ForeignTasks:
    """The unregistered tasks that one runtime has met.

    While a process knows the tasks of all jobs that it gets, it claims any job, which costs nothing.
    After the first unknown task it claims only its own tasks: the others belong to another app on the
    same store or to another version of this app, and this process must not touch them.
    """

    def __init__(self, registry: TaskRegistry) -> None:
        self._registry = registry
        self._names: set[str] = set()

    @property
    def met(self) -> bool:
        """Whether there was one."""
        return bool(self._names)

    def meet(self, task: str) -> bool:
        """Add a task that is not registered here; True if it is new."""
        if task in self._names:
            return False
        self._names.add(task)
        return True

    @property
    def tasks(self) -> Collection[str] | None:
        """The tasks to claim; ``None``: any."""
        return self._registry.names if self._names else None
