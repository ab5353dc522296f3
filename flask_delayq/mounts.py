"""The file system of a path, and whether its files survive a deploy or a restart.
Must not know what is stored there; reads the system's mount table and opens nothing else."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import NamedTuple

TABLE = "/proc/mounts"

MARKS = ("/.dockerenv", "/run/.containerenv")
"""Files that Docker and Podman create in every container."""

_LAYERS = frozenset({"overlay", "aufs", "fuse.fuse-overlayfs"})
_MEMORY = frozenset({"tmpfs", "ramfs"})


class Mount(NamedTuple):
    """A mounted file system."""

    kind: str
    """``"ext4"``, ``"overlay"``, ``"nfs4"``; empty if unknown."""
    point: str
    """Where it is mounted."""


def mount_of(path: str, table: str | None = None) -> Mount:
    """The file system that a path is on, or will be once it exists."""
    path = os.path.realpath(path)
    best = Mount("", "")
    with suppress(OSError), open(table or TABLE, encoding="utf-8", errors="replace") as file:
        for line in file:
            _, point, kind, *_ = line.split(" ")
            point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point)
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(
                best.point
            ):  # a later mount on the same point hides the first
                best = Mount(kind, point)
    return best


def why_temporary(path: str) -> str:
    """Why a file at this path may be lost at a deploy or a restart, as the end of a sentence; else
    empty.

    A container's own files are in a layer over its image: with most engines an overlay file system, else
    the root file system of a container that has the marker file of its engine. A volume is a separate
    mount.
    """
    mount = mount_of(path)
    if mount.kind in _MEMORY:
        return f"in memory ({mount.kind} at {mount.point}), so it ends with the machine or container"
    if mount.kind in _LAYERS or (mount.point == "/" and any(map(os.path.exists, MARKS))):
        return "in the container's own files, so it is lost when a deploy replaces the container"
    return ""
