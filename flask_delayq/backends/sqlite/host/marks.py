"""Begun marks: which claims a process had begun. A rescue reads them when the process is dead.
Must not know SQL, nor how a death is detected; a mark is a write to memory, without a system call.

Each owner has a small file ``<owner>.begun`` beside its lock file, mapped into memory and shared. The
pages belong to the kernel, so the marks survive any kill of the process. An entry names a job and the
``claim_no``, so an entry that is left over from an earlier run means nothing. A kill may come:

- before the entry is complete: the task has not been called. Half an entry matches no claim.
- from then until the outcome is stored: the entry stays, because its place is reused only after that. It
  does not matter how long the job runs, or how long the store is unavailable. If a run is refused right
  after its mark, its entry is erased.
- after that: the job no longer runs in this claim, and nobody reads the entry.

Unreliable marks are ignored: then every claim counts as begun. Marks are unreliable if there is no file
(it could not be made, or it was removed and is not made again yet), if a dead owner's file is of another
boot (pages may be missing after a power cut), if an owner began a run before it had a file, or if there
were more runs at once than places.

The disk space of the file is allocated when the file is made, so a full disk cannot make a write to it
fail (SIGBUS). On a copy-on-write file system (btrfs, ZFS) the risk is that of SQLite's ``-shm``, which
every process on a store has mapped.
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
"""The most begun but unrecorded runs of one owner. The runtime allows fewer: the recorder's backlog
and twice all places of the workers."""

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
    """The marks of one store: those of this process's owners, and those of other processes.

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
        """By owner; ``None``: it will never have marks."""
        self._making = threading.RLock()  # a fork waits for it: a file may be open, but in no table
        forking.watch(self)

    # --- of this process -----------------------------------------------------------------------------

    def open(self, owner: str) -> None:
        """Make the file of an owner, unless it has begun a run already: that run would be missing.
        If the file was removed, make it again."""
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
        """Make the file again, if others took the owner for dead and removed it, or put a copy there.

        Runs begin meanwhile. Each run is in the new file before the file gets its name: either it was
        marked in the old table before that is read here, or :meth:`mark` sees the new table and marks
        the run there too. A refused run is erased from the old table first, and each copied entry is
        checked against the old table again.
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
            self._tables[owner] = old  # the runs that it could not mark are missing
        try:
            if not old.overfull and not new.overfull:
                os.rename(unnamed, path)
                _log.warning("%s was removed or replaced while in use; it was made again", path)
        except OSError:
            pass  # the table is complete: the next announcement finds no file and copies it to one
        finally:
            with suppress(OSError):
                os.unlink(unnamed)

    def mark(self, claim: Claim) -> None:
        """Mark the run of a claim as begun. Never raises."""
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
        """Erase the mark of a run that has not begun after all. Never raises."""
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
        """Free the places of these outcomes: they were recorded, or their claims are no longer ours."""
        tables = self._tables
        for outcome in outcomes:
            claim = outcome.claim
            table = tables.get(claim.owner)
            if table is not None and outcome.verb is not Verb.INTERRUPT:  # such a run continues
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
        """Returns a function of (owner, job id, ``claim_no``): whether the owner may have begun the
        claim. It reads each file once."""
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
        if not known and not self._lives(owner):  # a living owner is of this boot, whatever id it read
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
        """Wait until no file is being made; a child may inherit mapped files."""
        self._making.acquire(timeout=timeout)

    def after_fork_in_parent(self) -> None:
        """Files may be made again."""
        if is_held_here(self._making):
            self._making.release()

    def after_fork_in_child(self) -> None:
        """Forget all tables: the runs and their marks belong to the parent."""
        self._making = threading.RLock()
        self._tables = {}


class _Table:
    """One owner's file.

    Each step is one operation on a list or a dict. So workers wait for no lock, and neither a signal
    handler nor an async exception leaves a lock held.
    """

    def __init__(self, path: str, header: bytes, later: str = "") -> None:
        self._path = later or path
        self.overfull = False
        """Some run could not be marked: from then on every claim counts as begun."""
        self.before: _Table | None = None
        """The table whose entries are being copied into this one."""
        mapped, self._identity = _make(path, header)
        self._memory = memoryview(mapped)
        self._places: dict[Run, int] = {}
        self._free: list[int] = []
        places = range(_HEADER.size, _SIZE, _ENTRY.size)
        self._fresh: Iterator[int] = iter(places)
        if not getattr(sys, "_is_gil_enabled", lambda: True)():
            # Without the GIL one iterator could give two threads the same place.
            self._free, self._fresh = list(places), iter(())

    def is_at(self, path: str) -> bool:
        """Whether the file of this table is at that path."""
        try:
            found = os.lstat(path)
        except OSError:
            return False
        return self._identity == (found.st_dev, found.st_ino)

    def mark(self, run: Run) -> None:
        entry = _entry_of(*run)
        try:
            place = self._free.pop()  # the one used last, so that few pages become dirty
        except IndexError:
            place = next(self._fresh, 0)
            if not place:
                self._give_up()
                return
        if self._places.setdefault(run, place) != place:
            self._free.append(place)  # already copied from `before`
            return
        self._memory[place : place + _ENTRY.size] = entry

    def runs(self) -> list[Run]:
        """The runs that are marked now."""
        return list(self._places)

    def has(self, run: Run) -> bool:
        return run in self._places

    def forget(self, run: Run) -> None:
        place = self._places.pop(run, None)
        if place is not None:
            self._free.append(place)

    def erase(self, run: Run) -> None:
        # Remove it from the dict first: from then on no other thread can free its place.
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
    """Make the file, allocate its space and map it; returns the map, and the file's device and inode.

    :raises OSError: it cannot be made; then there is no such file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | folders.SAFELY
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        # The file of an earlier runtime with the same name: its marks must not count as ours.
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
    """Give the file its size, and allocate the space for it on the disk."""
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
