"""The whole product in an app: tasks that note what they do, where and when; views that enqueue.

It must not judge anything: the notes, one line per event in one file, are for the tests.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flask import Flask, current_app, request

from flask_delayq import DelayQ, current_job, mounts

# The tests say the same inside a container, whose files the package warns of.
mounts.TABLE, mounts.MARKS = os.devnull, ()

FOLDER = "PRODUCT_FOLDER"
"""The variable that names the folder of the store and the notes."""

LINGER = 0.7
"""Seconds that a process stays which should run no jobs: the watcher's questions come every 0.1 s."""


def note(event: str, *words: object) -> None:
    """Append to the notes, in one write, so that lines of several processes never mix."""
    line = "\t".join(map(str, (event, os.getpid(), os.getppid(), time.monotonic(), *words)))
    target = os.open(Path(os.environ[FOLDER], "notes"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(target, f"{line}\n".encode())
    finally:
        os.close(target)


def create_app(folder: str | os.PathLike[str] | None = None, **config: object) -> Flask:
    """The app. Its store is in the folder; settings come from ``FLASK_DELAYQ_*`` and ``config``."""
    app = Flask("product", instance_path=str(folder or os.environ[FOLDER]))
    app.config.from_prefixed_env()
    app.config.update(config)
    delayq = DelayQ(app)
    delayq.admin_access(lambda action: True)
    app.extensions["tasks"] = delayq.tasks
    add_tasks(delayq)
    add_views(app)
    return app


def add_tasks(delayq: DelayQ) -> None:
    @delayq.task(name="quick", produce=True)
    def quick(n: int = 0) -> int:
        begin()
        end()
        return n

    @delayq.task(name="slow")
    def slow(seconds: float) -> None:
        begin()
        threading.Event().wait(seconds)
        end()

    @delayq.task(name="hold")
    def hold(gate: str) -> None:
        """Run until a file appears in the folder, a minute at most."""
        begin()
        deadline = time.monotonic() + 60
        while not Path(os.environ[FOLDER], gate).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        end()

    @delayq.task(name="uses")
    def uses(what: str, seconds: float = 0.0) -> None:
        """Do something with threads or processes, again and again for a while."""
        begin()
        until = time.monotonic() + seconds
        USES[what]()
        while time.monotonic() < until:
            USES[what]()
        end()

    if os.environ.get("PRODUCT_BEAT"):

        @delayq.task(name="beat", every=1)
        def beat() -> None:
            note("beat", repr(current_job.claim.run_at))


def begin() -> None:
    """Note it, and the processes in which an earlier run of the job might still go on."""
    job = current_job
    if job.claim.claim_no > 1:
        for pid in open_runs(job.id):
            if lives(pid):
                note("beside", job.id, pid)
    note("begin", job.id, job.claim.claim_no, job.attempt, job.rescues)


def end() -> None:
    note("end", current_job.id, current_job.claim.claim_no)


def open_runs(job_id: str) -> set[int]:
    """The processes that began the job and have not noted an end of it."""
    text = Path(os.environ[FOLDER], "notes").read_text().rpartition("\n")[0]  # the last may be half
    lines = [line.split("\t") for line in text.splitlines()]
    of_job = [line for line in lines if line[0] in ("begin", "end") and line[4] == job_id]
    ended = {line[1] for line in of_job if line[0] == "end"}
    return {int(line[1]) for line in of_job if line[1] not in ended}


EXITING = 0x4
"""The flag of a thread that the kernel is ending: it runs no code of its program any more."""


def lives(pid: int) -> bool:
    """Whether any thread of a process may still run code."""
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            state, *facts = thread.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX" and not int(facts[5]) & EXITING:
            return True
    return False


def add_views(app: Flask) -> None:
    @app.get("/")
    def pid() -> str:
        return str(os.getpid())

    @app.get("/enqueue/<task>")
    def enqueue(task: str) -> str:
        """Enqueue calls with the same JSON ``args``; one id a line."""
        args = json.loads(request.args.get("args", "[]"))
        found = app.extensions["tasks"].get(task)
        return "\n".join(found.enqueue(*args).id for _ in range(int(request.args.get("count", 1))))

    @app.get("/use/<what>")
    def use(what: str) -> str:
        USES[what]()
        return str(os.getpid())

    @app.cli.command("leave-a-job")
    def leave_a_job() -> None:
        enqueue_and_linger()


def enqueue_and_linger() -> None:
    """Enqueue in a process that should run nothing, and stay long enough to be mistaken."""
    note("enqueued", enqueue_quick())
    threading.Event().wait(LINGER)


def enqueue_quick() -> str:
    return str(current_app.extensions["tasks"].get("quick").enqueue().id)


# --- what tasks and views may do beside their work ---------------------------------------------------


def use_pool() -> None:
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(abs, (-1, -2))) == [1, 2]


def use_threads() -> None:
    threads = [threading.Thread(target=time.sleep, args=(0.001,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def use_asyncio() -> None:
    async def work() -> int:
        return await asyncio.to_thread(abs, -1)

    assert asyncio.run(work()) == 1


def use_subprocess() -> None:
    subprocess.run(["true"], check=True, timeout=30)


def use_processes(method: str, target: object) -> None:
    process = multiprocessing.get_context(method).Process(target=target)
    process.start()
    process.join(60)
    assert process.exitcode == 0, process.exitcode


def fork(child: object) -> None:
    """Fork; the child ends by ``os._exit`` when its function returns."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def fork_and_return() -> None:
    """Fork; the child goes on as if it were the parent: it returns to whoever called the task."""
    pid = os.fork()
    if pid:
        wait_for(pid)


def fork_and_raise() -> None:
    pid = os.fork()
    if pid == 0:
        sys.exit(0)
    wait_for(pid)


def wait_for(pid: int) -> None:
    """Wait for a child some seconds; note one that does not end."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.005)
    note("child stays", pid)
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def child_of_fork() -> None:
    """In a forked child: what came over open, and a job of its own."""
    note("inherited", *open_files("delayq.sqlite3"))
    with_app = current_app.extensions["delayq"]
    claimed = with_app.client.runner is not None
    note("child", enqueue_quick(), claimed)
    threading.Event().wait(0.2)  # long enough for threads that should not be


def child_of_spawn() -> None:
    """In a process that knows nothing: an app of its own, and a job."""
    with create_app().app_context():
        note("child", enqueue_quick(), False)


def open_files(word: str) -> list[str]:
    """The files of this process whose path has the word in it; folders are of no consequence."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the listing's own
            continue
        if word in target and not os.path.isdir(target):
            found.append(target)
    return found


USES = {
    "thread pool": use_pool,
    "threads": use_threads,
    "asyncio": use_asyncio,
    "subprocess": use_subprocess,
    "fork": lambda: fork(child_of_fork),
    "multiprocessing fork": lambda: use_processes("fork", child_of_fork),
    "multiprocessing spawn": lambda: use_processes("spawn", child_of_spawn),
    "fork and return": fork_and_return,
    "fork and raise": fork_and_raise,
}
