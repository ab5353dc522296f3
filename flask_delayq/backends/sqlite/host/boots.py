"""Which boot of the host this is: leases are kept on a clock that begins anew with each.
Must not know a lease."""

from __future__ import annotations

import ctypes

UNKNOWN_BOOT = "unknown:"
"""The id, or how it begins, where the system tells none: one boot then looks like the next."""

LINUX = "/proc/sys/kernel/random/boot_id"

SYSCTLS = (b"kern.bootsessionuuid", b"kern.boot_id")
"""What macOS and FreeBSD call it. (Not ``kern.boottime``, which moves when the wall clock is set.)"""


def boot_id() -> str:
    """A text that is the same for all processes of this boot, and another one after the next."""
    # Nothing that can change while the host runs may stand in for it, as its name can: all leases
    # would seem to have ended, and what runs would be run again.
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
