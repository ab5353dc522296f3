"""Begun marks: which of its claims a process had begun, for those who take them back when it is dead.
Must not know SQL, nor how death is told; a mark is a store into memory, without a system call.

Each owner has a small file ``<owner>.begun`` beside its lock file, mapped into memory and shared. What a
process stored there outlives it, however it is killed: the pages are the system's. An entry names a job
and the ``claim_no``, so one that is left over from an earlier run means nothing. At each instant of a
kill:

- before the entry is complete: the task has not been called. Half an entry matches no claim.
- from then until the outcome is stored: the entry stands, since its place is given to another claim only
  after that. So it does not matter how long a job runs, nor how long the store is away. A run that is
  refused right after its mark is no run: its entry is erased.
- after that: the job does not run in this claim any more, and nobody asks.

Whatever makes marks unreliable makes them count for nothing, and everything claimed counts as begun:
no file (none could be made, or it was removed and is not made again yet), a dead owner's file of another
boot (pages may be missing after a power cut), an owner that began a run before it had a file, more runs
at once than there are places.

The room of the file is reserved when it is made, so that storing into it cannot fail for want of space
(SIGBUS). Where a file system writes changes elsewhere (btrfs, ZFS) the same is true as of SQLite's
``-shm``, which every process on a store has mapped.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from struct import Struct
from typing import TypeAlias

from ....job import Claim, Outcome, Verb
from ...nesting import is_held_here
from . import folders, forking
from .boots import UNKNOWN_BOOT

_log = logging.getLogger(__name__)

PLACES = 16_384
"""Runs that one owner may have begun and not recorded. More than the runtime lets there be: what waits
for the recorder and all places of the workers, twice."""

_ENTRY = Struct("<28sI")
_HEADER = Struct("<16s48s")
_MAGIC = b"DELAYQ begun 1\n"
_SIZE = _HEADER.size + PLACES * _ENTRY.size
_SUFFIX = ".begun"

Run: TypeAlias = tuple[str, int]
"""A job's id and its ``claim_no``."""


def _entry_of(job_id: str, claim_no: int) -> bytes:
    name = job_id.encode("utf-8", "surrogatepass")
    if len(name) > 28:  # our own ids are 28 characters
        name = blake2b(name, digest_size=28).digest()
    return _ENTRY.pack(name, claim_no & 0xFFFF_FFFF)


class Marks:
    """The marks of one store: those of this process's owners, and those that others left.

    :param folder: where the files are.
    :param store: the path of the store.
    :param boot: identifies this boot of the host.
    :param lives: whether an owner shows a sign of life.
    """

    def __init__(
        self,
        *,
        folder: str,
        store: str,
        boot: str,
        lives: Callable[[str], bool | None] = lambda owner: None,
    ) -> None:
        self._folder = folder
        self._store = store
        self._boot = boot
        self._lives = lives
        self._no_boot = boot.startswith(UNKNOWN_BOOT)
        self._tables: dict[str, _Table | None] = {}
        """By owner; ``None``: it has no marks, for good."""
        self._making = threading.RLock()  # no fork comes while a file is open that is not in a table yet
        forking.watch(self)

    # --- of this process -----------------------------------------------------------------------------

    def open(self, owner: str) -> None:
        """Let an owner have marks, unless it has begun a run before: that one would be missing. If its
        file was removed, it gets another one."""
        if owner in self._tables:
            self._restore(owner)
            return
        self._tables[owner] = None
        if self._no_boot:
            return
        try:
            folders.make_own(self._folder, self._store)
            with self._making:
                self._tables[owner] = _Table(self._path(owner), self._header())
        except (OSError, ValueError) as error:
            _log.warning(
                "it cannot be kept in %s which jobs of this process have begun (%s): if it dies,"
                " whatever it has claimed counts as begun",
                self._folder,
                error,
            )

    def _restore(self, owner: str) -> None:
        """Make the file anew, if others took the owner for dead and removed it, or put a copy there.

        Runs begin meanwhile. Each is in the file before it gets its name: it was marked in the old table
        before that is read here, or :meth:`mark` sees the new one and marks it there as well. One that
        is refused is erased from the old table first, which is asked again after each copy.
        """
        old = self._tables.get(owner)
        if old is None or old.overfull or old.is_at(path := self._path(owner)):
            return
        unnamed = f"{path}.new"
        try:
            folders.make_own(self._folder, self._store)
            with self._making:
                new = _Table(unnamed, self._header(), path)
                new.before = old
                self._tables[owner] = new
        except (OSError, ValueError):
            return  # the next announcement tries again
        for run in old.runs():
            new.mark(run)
            if not old.has(run):
                new.erase(run)
        new.before = None
        if old.overfull:
            self._tables[owner] = old  # what it could not mark is missing
        try:
            if not old.overfull and not new.overfull:
                os.rename(unnamed, path)
                _log.warning("%s was removed or replaced while in use; it was made again", path)
        except OSError:
            pass  # the table is whole: the next announcement finds no file and makes one of it
        finally:
            with suppress(OSError):
                os.unlink(unnamed)

    def mark(self, claim: Claim) -> None:
        """The run of a claim begins. Never raises."""
        try:
            table = self._tables[claim.owner]
        except KeyError:
            self._tables[claim.owner] = None
            return
        run = (claim.id, claim.claim_no)
        while table is not None:
            table.mark(run)
            marked, table = table, self._tables.get(claim.owner)
            if table is marked:
                return

    def unmark(self, claim: Claim) -> None:
        """The run of a claim has not begun after all. Never raises."""
        run = (claim.id, claim.claim_no)
        table = self._tables.get(claim.owner)
        while table is not None:
            if (before := table.before) is not None:
                before.erase(run)
            table.erase(run)
            erased, table = table, self._tables.get(claim.owner)
            if table is erased:
                return

    def forget(self, outcomes: Iterable[Outcome]) -> None:
        """These were recorded, or are not ours any more: their places are free for other claims."""
        tables = self._tables
        for outcome in outcomes:
            claim = outcome.claim
            table = tables.get(claim.owner)
            if table is not None and outcome.verb is not Verb.INTERRUPT:  # such a run goes on
                if table.before is not None:
                    table.before.forget((claim.id, claim.claim_no))  # before it is copied
                table.forget((claim.id, claim.claim_no))

    def let_go(self, owner: str) -> None:
        """Leave the file to others: the owner counts as dead."""
        self._tables.pop(owner, None)

    # --- of the dead -----------------------------------------------------------------------------------

    def remove(self, owner: str) -> None:
        """Remove the file of a dead owner."""
        with suppress(OSError):
            os.unlink(self._path(owner))

    def reader(self) -> Callable[[str, str, int], bool]:
        """Tells whether an owner may have begun a claim (owner, job id, ``claim_no``). It reads each
        file once."""
        known: dict[str, frozenset[bytes] | None] = {}

        def may_have_begun(owner: str, job_id: str, claim_no: int) -> bool:
            if owner not in known:
                known[owner] = self._read(owner)
            begun = known[owner]
            return begun is None or _entry_of(job_id, claim_no) in begun

        return may_have_begun

    def _read(self, owner: str) -> frozenset[bytes] | None:
        try:
            descriptor = os.open(self._path(owner), os.O_RDONLY | folders.SAFELY)
            try:
                with open(descriptor, "rb", closefd=False) as file:
                    content = file.read(_SIZE + 1)
            finally:
                os.close(descriptor)
        except OSError:
            return None
        if len(content) != _SIZE or not content.startswith(_MAGIC):
            return None
        known = not self._no_boot and content.startswith(self._header())
        if not known and not self._lives(owner):  # who lives is of this boot, whatever id it read
            return None
        used = len(content.rstrip(b"\0"))
        size = _ENTRY.size
        return frozenset(content[at : at + size] for at in range(_HEADER.size, used, size))

    def _path(self, owner: str) -> str:
        return folders.beside(self._folder, owner, _SUFFIX)

    def _header(self) -> bytes:
        return _HEADER.pack(_MAGIC, self._boot.encode())

    # --- forks -----------------------------------------------------------------------------------------

    def before_fork(self, timeout: float) -> None:
        """Wait for a file that is being made; what is mapped may be inherited."""
        self._making.acquire(timeout=timeout)

    def after_fork_in_parent(self) -> None:
        """Files may be made again."""
        if is_held_here(self._making):
            self._making.release()

    def after_fork_in_child(self) -> None:
        """The runs are the parent's, and so are their marks."""
        self._making = threading.RLock()
        self._tables = {}


class _Table:
    """One owner's file.

    Every step is one operation on a list or a dict, so that workers wait for nobody, and neither a
    signal handler nor an exception from outside leaves a lock behind.
    """

    def __init__(self, path: str, header: bytes, later: str = "") -> None:
        self._path = later or path
        self.overfull = False
        """Some run could not be marked: everything claimed counts as begun, for good."""
        self.before: _Table | None = None
        """The table whose entries are being copied into this one."""
        mapped, self._identity = _make(path, header)
        self._memory = memoryview(mapped)
        self._places: dict[Run, int] = {}
        self._free: list[int] = []
        places = range(_HEADER.size, _SIZE, _ENTRY.size)
        self._fresh: Iterator[int] = iter(places)
        if not getattr(sys, "_is_gil_enabled", lambda: True)():
            # There two threads could be given the same place by one iterator.
            self._free, self._fresh = list(places), iter(())

    def is_at(self, path: str) -> bool:
        """Whether the file is found there."""
        try:
            found = os.lstat(path)
        except OSError:
            return False
        return self._identity == (found.st_dev, found.st_ino)

    def mark(self, run: Run) -> None:
        entry = _entry_of(*run)
        try:
            place = self._free.pop()  # the one used last, so that few pages are written to
        except IndexError:
            place = next(self._fresh, 0)
            if not place:
                self._give_up()
                return
        if self._places.setdefault(run, place) != place:
            self._free.append(place)  # copied from the table before
            return
        self._memory[place : place + _ENTRY.size] = entry

    def runs(self) -> list[Run]:
        """What is marked now."""
        return list(self._places)

    def has(self, run: Run) -> bool:
        return run in self._places

    def forget(self, run: Run) -> None:
        place = self._places.pop(run, None)
        if place is not None:
            self._free.append(place)

    def erase(self, run: Run) -> None:
        # Out of the dict first: from then on nobody else can give its place away.
        place = self._places.pop(run, None)
        if place is not None:
            self._memory[place : place + _ENTRY.size] = bytes(_ENTRY.size)
            self._free.append(place)

    def _give_up(self) -> None:
        self.overfull = True
        self._memory[: _HEADER.size] = bytes(_HEADER.size)
        with suppress(OSError):
            os.unlink(self._path)


def _make(path: str, header: bytes) -> tuple[mmap.mmap, tuple[int, int]]:
    """Make the file, with all its room, and map it; with its device and inode.

    :raises OSError: it cannot be had; then there is no such file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | folders.SAFELY
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        # Of an earlier runtime that was called the same: its marks are not ours, and are not to be
        # taken for ours.
        os.unlink(path)
        raise
    try:
        _reserve(descriptor)
        mapped = mmap.mmap(descriptor, _SIZE)
        mapped[: len(header)] = header
        found = os.fstat(descriptor)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)
    return mapped, (found.st_dev, found.st_ino)


def _reserve(descriptor: int) -> None:
    """Give the file its size, with the room for it on the disk."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, _SIZE)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    left = _SIZE
    while left:
        left -= os.write(descriptor, bytes(left))
