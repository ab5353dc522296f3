"""Folders and names beside a store: created for their owner only, refused if another user made them.
Must not know what is put into them."""

from __future__ import annotations

import errno
import os
import re
import stat

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:\-]{0,127}", re.ASCII)
"""The pattern of an owner's id. The id comes from the store, which somebody may have changed."""

SAFELY = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""How files beside a store are opened: no link is followed, and a pipe does not block."""


def make_private(folder: str) -> None:
    """Create a folder with mode 0700, and every missing parent; an existing folder is not changed.

    :raises OSError: it cannot be created, or is not a folder.
    """
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    if above != folder:
        make_private(above)  # os.makedirs would use the umask for them
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise


def check_room_for(path: str) -> None:
    """Check that a file could be created, with its parent folders; creates nothing.

    :raises OSError: it could not.
    """
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    if not os.path.isdir(path):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def make_own(folder: str, store: str) -> None:
    """Make the folder of signs and doorbells, or check that another user did not prepare it.

    :param store: the path of the store, whose owner may have made the folder as well.
    :raises OSError: it cannot be made, or should not be used.
    """
    make_private(folder)
    if reason := foreign(folder, store):
        raise PermissionError(errno.EPERM, reason, folder)


def foreign(folder: str, store: str) -> str:
    """Why an existing folder should not be used, as the end of a sentence; else empty."""
    if not hasattr(os, "geteuid"):
        return ""
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        return "is no folder"
    if found.st_uid not in trusted(store):
        return f"belongs to user id {found.st_uid}"
    return ""


def trusted(store: str) -> set[int]:
    """The users whose files may be used: this user, root, and the owner of the store."""
    users = {os.geteuid(), 0}
    try:
        users.add(os.stat(store).st_uid)
    except OSError:
        pass  # not made yet
    return users


def beside(folder: str, owner: str, suffix: str) -> str:
    """The path of a file that belongs to an owner.

    :raises OSError: it is not an owner's id; every caller handles missing files.
    """
    if not NAME.fullmatch(owner):
        raise OSError(errno.EINVAL, "no owner has such a name", owner)
    return os.path.join(folder, owner + suffix)
