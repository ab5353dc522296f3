"""The file system that a path is on, and whether what is written there is still there tomorrow.
Must not know what is kept there; reads the system's table of mounts and opens nothing else."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import NamedTuple

TABLE = "/proc/mounts"

MARKS = ("/.dockerenv", "/run/.containerenv")
"""Files that Docker and Podman put into every container."""

_LAYERS = frozenset({"overlay", "aufs", "fuse.fuse-overlayfs"})
_MEMORY = frozenset({"tmpfs", "ramfs"})


class Mount(NamedTuple):
    """A mounted file system."""

    kind: str
    """``"ext4"``, ``"overlay"``, ``"nfs4"``; empty where the system does not tell."""
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
            if inside and len(point) >= len(best.point):  # of two on one point the later is seen
                best = Mount(kind, point)
    return best


def why_temporary(path: str) -> str:
    """Why what is at a path may be gone after a deploy or a restart, as the end of a sentence; else
    empty.

    A container's own files are in a layer over its image, which is an overlay file system with most
    engines, or the root of a container that its engine has marked. A volume is a mount of its own.
    """
    mount = mount_of(path)
    if mount.kind in _MEMORY:
        return f"in memory ({mount.kind} at {mount.point}), so it ends with the machine or container"
    if mount.kind in _LAYERS or (mount.point == "/" and any(map(os.path.exists, MARKS))):
        return "in the container's own files, so it is lost when a deploy replaces the container"
    return ""
