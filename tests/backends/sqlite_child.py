"""What the tests of the sqlite store let other processes do: `python sqlite_child.py VERB PATH ...`.

It must not import pytest; it prints one line per fact and ends when its work or its input ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import signal
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw

from flask_delayq.backends import open_backend
from flask_delayq.backends.sqlite.file.store import Store
from flask_delayq.backends.sqlite.host import forking
from flask_delayq.backends.sqlite.host.marks import Marks
from flask_delayq.clock import SystemClock
from flask_delayq.errors import BackendUnavailableError
from flask_delayq.ids import new_id
from flask_delayq.job import NewJob, Outcome, ProcessRecord, Verb


def backend(path):
    return open_backend(f"sqlite:///{path}", clock=SystemClock())


def job(**facts):
    now = time.time()
    defaults = {
        "id": new_id(),
        "task": "send",
        "queue": "default",
        "priority": 1,
        "run_at": now,
        "enqueued_at": now,
        "payload": b"{}",
    }
    return NewJob(**(defaults | facts))


def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def put(store, timeout=5, **facts):
    new = job(**facts)
    store.enqueue([new], now=time.time(), timeout=timeout)
    return new.id


def create(path):
    """Open the store when told so, together with the others, and put one job into it."""
    store = backend(path)
    say("ready")
    sys.stdin.readline()
    say(put(store))
    store.close()


def put_when_told(path):
    """Put one job, and another for each line of input."""
    store = backend(path)
    say(put(store))
    while sys.stdin.readline():
        say(put(store))
    store.close()


def produce(path):
    """Acknowledge jobs until killed."""
    store = backend(path)
    while True:
        say(put(store))


def write(path):
    """Store jobs without a pause until killed, and look after nothing."""
    store = backend(path)
    say(put(store))
    while True:
        put(store)


def press(path, seconds, threads=4, size=2000):
    """Write at full speed in threads, with the upkeep that a process with a runtime has. Says how many
    jobs it stored."""
    store = backend(path)
    put(store)
    say("ready")
    sys.stdin.readline()
    end = time.monotonic() + float(seconds)
    stored = []

    def write():
        while time.monotonic() < end:
            stored.append(put(store, payload=bytes(int(size))))
            claims = store.claim(None, now=time.time(), limit=2, owner=str(os.getpid()), lease=60)
            store.record([Outcome(c, Verb.COMPLETE, time.time()) for c in claims], now=time.time())

    def maintain():
        while time.monotonic() < end:
            time.sleep(0.1 if store.maintain() else 1.0)

    with ThreadPoolExecutor(int(threads) + 1) as pool:
        futures = [pool.submit(maintain), *(pool.submit(write) for _ in range(int(threads)))]
        for future in futures:
            future.result()
    store.close()
    say(len(stored))


def work(path, owner, own, total):
    """Enqueue jobs and run whatever is due, in three threads, until all processes' jobs are done."""
    store = backend(path)
    ran = []

    def turn():
        for _ in range(int(own) // 3):
            put(store)
            run()
        while store.counts(now=time.time())["completed"] < int(total):
            run()

    def run():
        claims = store.claim(None, now=time.time(), limit=2, owner=owner, lease=60)
        ends = [Outcome(claim, Verb.COMPLETE, time.time()) for claim in claims]
        assert all(store.record(ends, now=time.time()))
        ran.extend(claim.id for claim in claims)

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(turn) for _ in range(3)]:
            future.result()
    store.close()
    say(*ran)


def own(path, owner, jobs):
    """Be a runtime that holds jobs, until told to end or killed."""
    store = backend(path)
    now = time.time()
    store.announce(ProcessRecord(owner, os.getpid(), "here", now, now, b"{}"))
    claims = store.claim(None, now=now, limit=int(jobs), owner=owner, lease=3600)
    say(len(claims))
    sys.stdin.readline()
    store.close()


def begin(path, owner, begun):
    """Be a runtime that holds every job and has begun so many of them, until killed."""
    store = backend(path)
    now = time.time()
    store.announce(ProcessRecord(owner, os.getpid(), "here", now, now, b"{}"))
    claims = store.claim(None, now=now, limit=1000, owner=owner, lease=3600)
    for claim in claims[: int(begun)]:
        store.mark_begun(claim)
    say(len(claims))
    sys.stdin.readline()


def fork_marks(path, owner):
    """Be a runtime whose fork begins what is the parent's."""
    store = backend(path)
    now = time.time()
    store.announce(ProcessRecord(owner, os.getpid(), "here", now, now, b"{}"))
    mine, other = store.claim(None, now=now, limit=2, owner=owner, lease=3600)
    child = os.fork()
    if child == 0:
        store.mark_begun(other)
        os._exit(0)
    os.waitpid(child, 0)
    store.mark_begun(mine)
    say(mine.id, other.id)
    sys.stdin.readline()


def look(path):
    """Tell who lives."""
    store = backend(path)
    say(*sorted(f"{process.owner}:{process.alive}" for process in store.processes()))
    store.close()


def read_only(path):
    """Use a store that this user may read only; root becomes somebody else for it."""
    store = backend(path)
    known = put(store)
    store.close()
    os.chmod(path, 0o444)
    if os.geteuid() == 0:
        for parent in Path(path).parents[:3]:
            parent.chmod(0o755)
        Path(path).parent.chmod(0o777)
        os.setuid(65534)
    try:
        put(store)
    except BackendUnavailableError as error:
        say(error.reason)
    say(store.get(known) is not None)
    say(store.health().ok)
    store.close()


def hold(path, seconds):
    """Hold the write lock like a backup or a shell would."""
    connection = apsw.Connection(path)
    connection.execute("BEGIN IMMEDIATE")
    say("held")
    time.sleep(float(seconds))
    connection.execute("ROLLBACK")
    connection.close()


def fill(path, limit):
    """Enqueue into a file that may not grow beyond a limit; then lift it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = backend(path)
    put(store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    stored = 1
    try:
        while True:
            put(store, payload=bytes(4000))
            stored += 1
    except BackendUnavailableError as error:
        say(error.reason)
    say(stored, sum(store.counts(now=time.time()).values()))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    say(store.health().ok)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    put(store)
    say(store.health().ok)
    store.close()


def ring(path):
    """Enqueue one job that is due and one for later."""
    store = backend(path)
    put(store, run_at=time.time() + 3600)
    say("later")
    sys.stdin.readline()
    put(store)
    say("now")
    store.close()


def fork(path, times):
    """Fork again and again while a thread commits; every child commits once as well."""
    store = backend(path)
    acknowledged = [put(store)]
    stop = threading.Event()

    def commit():
        while not stop.is_set():
            acknowledged.append(put(store))
            store.get(acknowledged[-1])

    thread = threading.Thread(target=commit)
    thread.start()
    for _ in range(int(times)):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.write(writing, put(store).encode())
            store.close()
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            acknowledged.append(answer.read())
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    thread.join()
    present = sum(store.get(job_id) is not None for job_id in acknowledged)
    store.close()
    say(len(acknowledged), present)


def fork_in_a_hurry(path):
    """Fork while an operation cannot be waited for."""
    forking.TIMEOUT = 0.1
    store = backend(path)
    put(store)
    inside, go_on = threading.Event(), threading.Event()

    def stand(sql):
        inside.set()
        go_on.wait(20)

    thread = threading.Thread(target=store._store.write, args=(stand,))
    thread.start()
    inside.wait(5)
    child = os.fork()
    if child == 0:
        for attempt in (put, lambda store: store.get("x"), lambda store: put(backend(path))):
            try:
                attempt(store)
            except BackendUnavailableError as error:
                say(error.reason)
        say(store.health().ok)
        os._exit(0)
    os.waitpid(child, 0)
    go_on.set()
    thread.join()
    put(store)
    say(sum(store.counts(now=time.time()).values()))
    store.close()


def fork_owner(path):
    """Fork while being a runtime: the child sees that its parent lives, and its death."""
    store = backend(path)
    now = time.time()
    store.announce(ProcessRecord("parent", os.getpid(), "here", now, now, b"{}"))
    bell = store.open_doorbell("parent")
    child = os.fork()
    if child == 0:
        say([process.alive for process in store.processes()])
        put(store)
        sys.stdin.readline()
        say([process.alive for process in store.processes()])
        os._exit(0)
    say(bell.wait(5))
    os.kill(os.getpid(), signal.SIGKILL)


def interrupted(path, rounds):
    """Use the store again and again, while a signal handler and a finalizer use it in between."""
    store = backend(path)
    known = put(store)
    now = time.time()
    store.announce(ProcessRecord("me", os.getpid(), "here", now, now, b"{}"))
    bell = store.open_doorbell("me")
    other = backend(path)
    tries = {"served": 0, "refused": 0}

    def use(timeout=5.0):
        put(store, timeout=timeout)
        store.get(known)
        store.processes()
        store.health()
        if also := store.open_doorbell("also me"):
            also.close()
        bell.wait(0)
        store.maintain()
        store.health(probe=False)

    def use_in_between(*signal_and_frame):
        if tries["served"] + tries["refused"] >= 20 * int(rounds):
            return
        try:
            use(timeout=0.5)
            other.get(known)
            other.close()
            tries["served"] += 1
        except BackendUnavailableError:
            tries["refused"] += 1

    class Finalized:
        def __init__(self):
            self.me = self

        def __del__(self):
            use_in_between()

    signal.signal(signal.SIGALRM, use_in_between)
    gc.set_threshold(50)
    for turn in range(int(rounds)):
        # One signal in each round, a little later every time: over the rounds it falls everywhere.
        signal.setitimer(signal.ITIMER_REAL, 0.0001 + (turn % 100) * 0.00003)
        Finalized()
        with contextlib.suppress(BackendUnavailableError):
            use()
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.set_threshold(700)
    put(store)
    store.withdraw("me")
    bell.close()
    for one in (store, other):
        one.close()
    say(tries["served"], tries["refused"])


def fork_beside_makers(path, times):
    """Fork while other threads make backends; every child commits once. Says how many did, and how many
    of their jobs are present."""

    class Slow(weakref.WeakSet):
        """So that what comes while a fork goes through it is sure to come."""

        def __iter__(self):
            for item in super().__iter__():
                time.sleep(0.002)
                yield item

    forking._watched = Slow()
    store = backend(path)
    put(store)
    stop = threading.Event()

    def make():
        kept = []
        while not stop.is_set():
            kept.append(backend(path))
            if len(kept) > 20:
                kept.clear()

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    acknowledged = []
    for _ in range(int(times)):
        put(store)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.write(writing, put(store).encode())
            store.close()
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            acknowledged.append(answer.read())
        os.waitpid(child, 0)
    stop.set()
    for thread in threads:
        thread.join()
    present = sum(store.get(job_id) is not None for job_id in acknowledged)
    store.close()
    say(len(list(filter(None, acknowledged))), present)


def fork_in_a_fork(path):
    """A signal handler forks in the middle of the hooks before a fork. Both children use all stores."""
    stores = [backend(f"{path}{number}") for number in range(3)]

    def use_all():
        for store in stores:
            put(store)

    use_all()
    told = []
    before_fork = Store.before_fork

    def before_fork_with_a_signal(store, timeout):
        before_fork(store, timeout)
        told.append(store)
        if len(told) == 1:
            signal.raise_signal(signal.SIGUSR1)

    def fork(*signal_and_frame):
        child = os.fork()
        if child == 0:
            use_all()
            os._exit(0)
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    Store.before_fork = before_fork_with_a_signal
    signal.signal(signal.SIGUSR1, fork)
    fork()
    use_all()
    fork()


def cut_fork(path):
    """Something is thrown into a thread that forks, at the end of the hooks. Others fork later."""
    store = backend(path)
    put(store)
    cut = []

    def after_fork_and_throw(marks):
        after_fork(marks)
        if not cut:
            cut.append(marks)
            raise KeyboardInterrupt

    def fork():
        child = os.fork()
        if child == 0:
            put(store)
            os._exit(0)
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    after_fork = Marks.after_fork_in_parent
    Marks.after_fork_in_parent = after_fork_and_throw
    sys.unraisablehook = lambda unraisable: None
    fork()
    fork()
    thread = threading.Thread(target=fork, daemon=True)
    thread.start()
    thread.join(10)
    put(store)
    say(len(cut), thread.is_alive())


def fork_in_c(path):
    """Fork as a server written in C does, without Python's hooks, while the store is open."""
    store = backend(path)
    known = put(store)
    store.get(known)
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        for attempt in (
            lambda: put(store),
            lambda: store.get(known),
            lambda: put(backend(path)),
            lambda: backend(path).get(known),
        ):
            try:
                attempt()
                say("served")
            except BackendUnavailableError as error:
                say(error.reason)
        say(store.health().ok, store.health(probe=False).ok)
        os._exit(0)
    os.waitpid(child, 0)
    put(store)
    say(sum(store.counts(now=time.time()).values()))
    store.close()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
