"""The boot id of the host: the clock of the leases restarts with each boot.
Must not know a lease."""

from __future__ import annotations

import ctypes

UNKNOWN_BOOT = "unknown:"
"""The id, or its prefix, if the system has no boot id: then all boots look the same."""

LINUX = "/proc/sys/kernel/random/boot_id"

SYSCTLS = (b"kern.bootsessionuuid", b"kern.boot_id")
"""What macOS and FreeBSD call it. (Not ``kern.boottime``, which moves when the wall clock is set.)"""


def boot_id() -> str:
    """A string that is the same in all processes of this boot, and different after a reboot."""
    # A value that can change while the host runs (such as the host name) must not replace it: then all
    # leases would end, and running jobs would run again.
    try:
        with open(LINUX, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return _by_sysctl() or UNKNOWN_BOOT


def _by_sysctl() -> str:
    try:
        ask = ctypes.CDLL(None).sysctlbyname
    except (AttributeError, OSError, TypeError):  # Linux, Windows
        return ""
    for name in SYSCTLS:
        answer = ctypes.create_string_buffer(128)
        size = ctypes.c_size_t(len(answer))
        if ask(name, answer, ctypes.byref(size), None, ctypes.c_size_t(0)) == 0 and answer.value:
            return answer.value.decode("ascii", "replace").strip()
    return ""
