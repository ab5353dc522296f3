"""Which file system a path is on, by tables of mounts as systems write them.

It must not depend on the machine that runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flask_delayq import mounts
from flask_delayq.mounts import Mount, mount_of, why_temporary

DOCKER = """\
overlay / overlay rw,relatime,lowerdir=/var/lib/docker/overlay2/l/A:/b,upperdir=/c,workdir=/d 0 0
proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0
tmpfs /run tmpfs rw,nosuid 0 0
/dev/vda1 /data ext4 rw,relatime 0 0
/dev/vda1 /my\\040jobs ext4 rw,relatime 0 0
/dev/vda1 /etc/hosts ext4 rw,relatime 0 0
"""
HOST = """\
rootfs / rootfs rw 0 0
/dev/sda2 / ext4 rw,relatime 0 0
/dev/sdb1 /srv xfs rw,relatime 0 0
fileserver:/jobs /srv/shared nfs4 rw,relatime 0 0
"""


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend to be on a machine with this table of mounts, and perhaps a container's mark."""

    def pretend(table: str, *, marked: bool = False) -> None:
        path = tmp_path / "mounts"
        path.write_text(table)
        monkeypatch.setattr(mounts, "TABLE", str(path))
        monkeypatch.setattr(mounts, "MARKS", (str(path),) if marked else ())

    return pretend


@pytest.mark.parametrize(
    ("table", "path", "found"),
    [
        (HOST, "/home/x/jobs.sqlite3", Mount("ext4", "/")),
        (HOST, "/srv", Mount("xfs", "/srv")),
        (HOST, "/srv/shared/x", Mount("nfs4", "/srv/shared")),
        (HOST, "/srv/shared2/x", Mount("xfs", "/srv")),
        (DOCKER, "/my jobs/x", Mount("ext4", "/my jobs")),
        ("", "/x", Mount("", "")),
    ],
)
def test_the_innermost_mount_counts(
    on: Callable[..., None], table: str, path: str, found: Mount
) -> None:
    on(table)
    assert mount_of(path) == found


@pytest.mark.parametrize(
    ("table", "marked", "path", "word"),
    [
        (DOCKER, True, "/app/instance/delayq.sqlite3", "container"),
        (DOCKER, False, "/app/instance/delayq.sqlite3", "container"),  # containerd sets no mark
        (DOCKER, True, "/data/delayq.sqlite3", ""),  # a volume
        (DOCKER, True, "/run/delayq.sqlite3", "in memory"),
        (HOST, False, "/app/instance/delayq.sqlite3", ""),
        (HOST, True, "/app/instance/delayq.sqlite3", "container"),  # an engine without overlays
        (HOST, True, "/srv/delayq.sqlite3", ""),
    ],
)
def test_what_a_deploy_or_a_restart_takes_away(
    on: Callable[..., None], table: str, marked: bool, path: str, word: str
) -> None:
    on(table, marked=marked)
    assert word in why_temporary(path)
    assert bool(why_temporary(path)) == bool(word)


def test_a_system_without_a_table_is_not_suspected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "TABLE", "/nowhere")
    monkeypatch.setattr(mounts, "MARKS", ())
    assert why_temporary("/app/instance/delayq.sqlite3") == ""
