"""Tasks that are not registered here and of which jobs came: what to ask the store for because of them.
Knows names only; no thread and no store."""

from __future__ import annotations

from collections.abc import Collection

from ..task import TaskRegistry


class ForeignTasks:
    """What one runtime has met.

    While a process knows the tasks of all jobs that it gets, it asks for any job, which costs nothing.
    From the first one that it does not know it asks for its own tasks only: the others belong to other
    code, another app on the same store or another version of this one, and it must not even touch them.
    """

    def __init__(self, registry: TaskRegistry) -> None:
        self._registry = registry
        self._names: set[str] = set()

    @property
    def met(self) -> bool:
        """Whether there was one."""
        return bool(self._names)

    def meet(self, task: str) -> bool:
        """Note a task that is not registered here; True if it is the first time."""
        if task in self._names:
            return False
        self._names.add(task)
        return True

    @property
    def tasks(self) -> Collection[str] | None:
        """The tasks to ask for; ``None``: any."""
        return self._registry.names if self._names else None
