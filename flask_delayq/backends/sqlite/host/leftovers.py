"""Files of forgotten processes: killed after their record was deleted, but before their files were.
Must not know SQL, jobs, or the contents of the files."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection
from contextlib import suppress

from . import folders
from .judging import FORGET_AFTER
from .liveness import SignsOfLife

EVERY = 3600.0
"""Seconds between two looks."""

_SUFFIXES = (".lock.new", ".begun.new", ".lock", ".begun", ".bell")


class Leftovers:
    """Searches one folder for such files, once an hour; the first time at once.

    :param folder: the folder of the files.
    :param store: the path of the store.
    """

    def __init__(self, folder: str, store: str, signs: SignsOfLife) -> None:
        self._folder = folder
        self._store = store
        self._signs = signs
        self._look_at = float("-inf")

    def turn(self, known: Callable[[], Collection[str]], *, now: float, mono: float) -> None:
        """Remove such files, if it is time. Raises only what ``known`` raises.

        :param known: returns the owners that have a record.
        :param now: the current time, epoch seconds.
        :param mono: the same time on the monotonic clock.
        """
        if mono < self._look_at:
            return
        remembered = known()  # before the files are listed: who came since shows a sign
        self._look_at = mono + EVERY
        with suppress(OSError):
            if folders.foreign(self._folder, self._store):
                return
            for owner, paths in self._by_owner().items():
                if owner not in remembered and self._is_old(paths, now) and not self._signs.alive(owner):
                    for path in paths:
                        with suppress(OSError):
                            os.unlink(path)

    def _by_owner(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in os.listdir(self._folder):
            suffix = next(filter(name.endswith, _SUFFIXES), None)
            if suffix is not None and folders.NAME.fullmatch(owner := name.removesuffix(suffix)):
                found[owner].append(os.path.join(self._folder, name))
        return found

    @staticmethod
    def _is_old(paths: list[str], now: float) -> bool:
        """Whether none of them may be of a process that is just beginning."""
        try:
            return max(os.lstat(path).st_mtime for path in paths) < now - FORGET_AFTER
        except OSError:
            return False  # another process is removing them
