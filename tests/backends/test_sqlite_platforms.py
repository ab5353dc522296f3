"""Systems that are not Linux, as far as they can be played on it: boots, clocks, flushes, paths.

It must not say that a system is supported: it has not been there.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time

import apsw
import pytest

from backends.sqlite_kit import ROOT, backend_on, child, line, opened, put
from flask_delayq.backends import open_backend
from flask_delayq.backends.sqlite.host import boots
from flask_delayq.backends.sqlite.verbs import rescues
from flask_delayq.clock import SystemClock
from flask_delayq.config import LONGEST_LEASE, Settings
from flask_delayq.errors import ConfigurationError
from flask_delayq.job import ProcessRecord, StoredState
from flask_delayq.testing import FakeClock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "delayq.sqlite3"


def record(owner, now):
    return ProcessRecord(owner, os.getpid(), "here", now, now, b"{}")


def take(backend, clock, lease=60.0):
    (claim,) = backend.claim(None, now=clock.now(), limit=1, owner="x", lease=lease)
    return claim


def rescued(backend, clock):
    return [one.id for one in backend.rescue(now=clock.now(), max_rescues=3)]


# --- boots -------------------------------------------------------------------------------------------


@pytest.fixture
def no_boot_id(monkeypatch):
    monkeypatch.setattr(boots, "LINUX", "/nowhere/boot_id")


def test_where_a_boot_has_no_id_a_new_host_name_ends_no_lease(path, no_boot_id, monkeypatch):
    clock = FakeClock(time.time())
    with opened(path, clock) as backend:
        known = put(backend)
        clock.advance(1)
        take(backend, clock)
        monkeypatch.setattr(socket, "gethostname", lambda: "moved-by-dhcp")
        with opened(path, clock) as second:
            assert rescued(second, clock) == []
            assert second.get(known).stored is StoredState.RUNNING


def test_where_a_boot_has_no_id_a_clock_that_began_anew_ends_all_leases(path, no_boot_id):
    """As after a reboot: the lease of the old boot seems to last for as long as the old uptime."""
    clock = FakeClock(time.time())
    clock.advance(50_000)
    with opened(path, clock) as backend:
        backend.announce(record("x", clock.now()))
        known = put(backend)
        take(backend, clock)
        backend._signs.let_go("x")
        os.unlink(backend._signs.path("x"))  # no sign can tell there
    rebooted = FakeClock(clock.now() + 30)
    with opened(path, rebooted) as backend:
        assert rescued(backend, rebooted) == [known]
        assert rescued(backend, rebooted) == []


@pytest.mark.parametrize("other", ["", "another boot"])
def test_who_reads_another_boot_id_ends_no_lease_of_a_living_process(path, monkeypatch, other):
    """As `flask delayq status` in a unit with ProcSubset=pid, or in some containers."""
    clock = FakeClock(time.time())
    with opened(path, clock) as backend:
        once, again = put(backend, fail_on_crash=True), put(backend)
    with child("begin", path, "alive", 1) as process:
        assert line(process) == "2"
        with monkeypatch.context() as patch:
            patch.setattr(boots, "LINUX", str(path.parent / "boot_id"))
            if other:
                (path.parent / "boot_id").write_text(other)
            with opened(path) as backend:
                assert rescued(backend, SystemClock()) == []
                backend.announce(record("x", time.time()))
                backend.withdraw("x")
            # A living process also vouches for its begun marks: it is hit by a lease that ends.
            with opened(path) as backend:
                later = SystemClock().monotonic() + 7200
                found = backend.rescue(now=time.time(), max_rescues=3, limit=1, asked_at=later)
                assert [(one.id, one.charged) for one in found] == [(once, True)]
                found = backend.rescue(now=time.time(), max_rescues=3, asked_at=later)
                assert [(one.id, one.charged) for one in found] == [(again, False)]
                put(backend)
        with child("begin", path, "second", 0) as second:
            assert line(second) == "2"
            with opened(path) as backend:
                assert rescued(backend, SystemClock()) == []
                second.kill()
                second.wait(5)
                assert len(rescued(backend, SystemClock())) == 2


def test_who_reads_no_boot_id_leaves_the_known_one(path, monkeypatch):
    """So that the next who reads it ends no lease of an owner of which nobody can tell."""
    with opened(path) as backend:
        put(backend)
        take(backend, SystemClock(), lease=3600)
        with monkeypatch.context() as patch:
            patch.setattr(boots, "LINUX", "/nowhere/boot_id")
            with opened(path) as second:
                assert rescued(second, SystemClock()) == []
        with opened(path) as second:
            assert rescued(second, SystemClock()) == []


def test_a_lease_that_ends_later_than_any_may_has_ended(path):
    clock = FakeClock(time.time())
    with opened(path, clock) as backend:
        within, beyond = put(backend), put(backend)
        clock.advance(1)
        take(backend, clock, LONGEST_LEASE)
        take(backend, clock, LONGEST_LEASE + rescues.SLACK + 0.001)
        assert rescued(backend, clock) == [beyond]
        assert backend.get(within).stored is StoredState.RUNNING


def test_what_is_claimed_while_somebody_judges_is_of_this_boot(path):
    clock = FakeClock(time.time())
    with opened(path, clock) as backend:
        put(backend)
        asked_at = clock.monotonic()
        clock.advance(60)
        take(backend, clock, LONGEST_LEASE)
        assert backend.rescue(now=clock.now(), max_rescues=3, judge="other", asked_at=asked_at) == []


def test_the_boot_is_asked_of_sysctl_where_linux_has_a_file(no_boot_id, monkeypatch):
    def sysctlbyname(name, answer, size, new, length):
        if name != b"kern.bootsessionuuid":
            return -1
        answer.value = b"E0B9A5C8"
        return 0

    assert boots.boot_id() == boots.UNKNOWN_BOOT
    library = type("Library", (), {"sysctlbyname": staticmethod(sysctlbyname)})
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert boots.boot_id() == "E0B9A5C8"


# --- what only POSIX systems have --------------------------------------------------------------------

WITHOUT_POSIX = """
import asyncio, os, select, signal, socket, sys, time  # asyncio looks at some of it when it is loaded
for module, names in (
    (os, "register_at_fork fork geteuid getuid statvfs O_CLOEXEC O_NOFOLLOW O_NONBLOCK O_DIRECTORY "
         "posix_fallocate mkfifo"),
    (socket, "AF_UNIX socketpair"),
    (select, "poll epoll"),
    (signal, "SIGKILL SIGHUP SIGALRM setitimer pthread_kill pthread_sigmask"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
sys.modules["fcntl"] = sys.modules["resource"] = None

from flask import Flask
from flask_delayq import DelayQ
from flask_delayq.testing import faults

app = Flask("x", instance_path=sys.argv[1])
app.config["DELAYQ_MODE"] = "manual"
delayq = DelayQ(app)

@delayq.task(name="double")
def double(number):
    return 2 * number

with app.app_context():
    delayq.start()
    job = double.enqueue(21)
    print(job.wait(20).result)
    print([process.alive for process in delayq.state.backend.processes()])
    print(delayq.state.health().ok, delayq.state.backend.health(probe=False).ok)
    delayq.stop(5)
delayq.state.close()
faults.Fault("claim", action="kill").action()
"""


def test_without_what_only_posix_systems_have_jobs_run(tmp_path):
    ran = subprocess.run(
        # -u: what stands in a buffer when the process is killed is lost.
        [sys.executable, "-u", "-c", WITHOUT_POSIX, tmp_path / "instance"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in ran.stderr
    assert ran.stdout.split("\n")[:3] == ["42", "[True]", "True True"]
    assert ran.returncode == -signal.SIGTERM, "a fault ends the process also where SIGKILL is unknown"


# --- flushes -----------------------------------------------------------------------------------------


def test_commits_and_checkpoints_flush_the_drive_itself_where_the_system_can(path):
    with opened(path) as backend:
        for use in (backend._store.write, backend._store.read):
            for pragma in ("fullfsync", "checkpoint_fullfsync"):
                assert use(lambda sql, pragma=pragma: sql.value(f"PRAGMA {pragma}")) == 1


# --- paths -------------------------------------------------------------------------------------------

NAMES = [
    "feature%2Flogin",
    "what?now",
    "100%",
    "a b",
    "#1",
    "Köln",
    "it's",
    'say "hi"',
    "new\nline",
    "🦊",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_default_store_lies_in_the_instance_folder_whatever_that_is_called(tmp_path, name):
    folder = tmp_path / name
    backend = open_backend(Settings.read({}, folder=str(folder)).url)
    put(backend)
    backend.close()
    assert [p.name for p in folder.iterdir() if not p.name.endswith(("-wal", "-shm"))] == [
        "delayq.sqlite3"
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_relative_url_is_quoted_by_who_writes_it_and_its_folder_is_not(tmp_path, name):
    settings = Settings.read({"DELAYQ_URL": "sqlite:///jobs%20here.db"}, folder=str(tmp_path / name))
    backend = open_backend(settings.url)
    put(backend)
    backend.close()
    assert (tmp_path / name / "jobs here.db").exists()


def test_a_path_that_sqlite_cannot_take_is_told_at_once(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(ConfigurationError, match="UTF-8") as caught:
        open_backend(Settings.read({}, folder=folder).url)
    assert caught.value.key == "DELAYQ_URL"
    assert not os.path.exists(folder)


def test_a_path_works_also_where_the_locale_knows_no_such_letters(tmp_path):
    folder = tmp_path / "café"
    folder.mkdir()
    program = (
        "import os, sys, time\n"
        "from flask_delayq import DelayQ\n"
        "from flask import Flask\n"
        "app = Flask('x', instance_path=sys.argv[1])\n"
        "app.config['DELAYQ_MODE'] = 'manual'\n"
        "delayq = DelayQ(app)\n"
        "@delayq.task(name='nothing')\n"
        "def nothing(): pass\n"
        "with app.app_context():\n"
        "    for _ in range(3): nothing.enqueue()\n"
        "    print(delayq.state.health().ok, ascii(delayq.state.backend.url))\n"
        "    delayq.drain()\n"
        "delayq.state.close()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, os.fsencode(folder)],
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0 and "Traceback" not in ran.stderr
    assert ran.stdout.startswith("True 'sqlite:////")
    assert (folder / "delayq.sqlite3").exists()
    with opened(folder / "delayq.sqlite3") as backend:
        assert backend.counts(now=time.time())["completed"] == 3


def test_sqlite_itself_is_asked_for_nothing_that_it_lacks(path):
    """The pragmas of other systems are known to this build: a misspelt one would be ignored."""
    connection = apsw.Connection(str(path))
    known = {row[0] for row in connection.execute("PRAGMA pragma_list")}
    connection.close()
    assert {"fullfsync", "checkpoint_fullfsync"} <= known


def test_a_backend_tells_its_path_as_text_that_can_be_shown(tmp_path):
    backend = backend_on(tmp_path / "Köln" / "delayq.sqlite3")
    backend.url.encode()
