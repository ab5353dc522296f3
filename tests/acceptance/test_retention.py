"""What is kept of finished jobs, what is too large to keep, and which process serves which queue.

It must not know how jobs are deleted, only what is left and whom it held up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from acceptance.conftest import Figure
from acceptance.product import Site, enqueue, words
from flask_delayq import DelayQ
from flask_delayq.errors import PayloadTooLargeError
from flask_delayq.job import Claim, Outcome, Verb
from flask_delayq.testing import FakeClock
from kit import make_app
from pace import quiet_seconds
from servers import program, server
from waiting import wait_until

DAY = 86_400.0
TOKEN = "a token for the tests"
AUTH = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/json"}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., DelayQ]]:
    """Make extensions on a store in the test's folder; all are closed at the end."""
    made: list[tuple[Flask, DelayQ]] = []  # an extension holds its app weakly

    def extension(clock: FakeClock | None = None, **settings: Any) -> DelayQ:
        settings = {"url": f"sqlite:///{tmp_path / 'store'}", "admin_token": TOKEN, **settings}
        made.append(make_app(clock, **settings))
        delayq = made[-1][1]

        @delayq.task(name="good")
        def good(text: str = "") -> str:
            return text

        @delayq.task(name="bad")
        def bad() -> None:
            raise ValueError("as planned")

        @delayq.task(name="bytes")
        def many(size: int) -> str:
            return "x" * size

        return delayq

    yield extension
    for _, delayq in made:
        delayq.state.close()


def task(delayq: DelayQ, name: str) -> Any:
    return delayq.tasks.get(name)


def finish(delayq: DelayQ, *names: str) -> list[str]:
    """Enqueue one call of each task, cancel those named "cancelled", and run the rest."""
    ids = []
    for name in names:
        job = task(delayq, "good" if name == "cancelled" else name).enqueue()
        ids.append(job.id)
        if name == "cancelled":
            job.cancel()
        delayq.drain()
    return ids


def kept(delayq: DelayQ, ids: list[str]) -> list[bool]:
    return [delayq.client.find(job_id) is not None for job_id in ids]


def prune(delayq: DelayQ) -> None:
    """What maintenance does once a minute, as a person does it."""
    runner = delayq.state.app.test_cli_runner()
    result = runner.invoke(args=["delayq", "prune"])
    assert result.exit_code == 0, result.output


# --- by age and number ------------------------------------------------------------------------------


def test_finished_jobs_are_kept_for_their_time_and_failed_ones_for_longer(
    make: Callable[..., DelayQ],
) -> None:
    clock = FakeClock()
    delayq = make(clock, retention=DAY, retention_failed=10 * DAY)
    ids = finish(delayq, "good", "cancelled", "bad")
    waiting = task(delayq, "good").enqueue_in(300 * DAY).id
    for days, expected in (
        (1.0, [True, True, True]),  # a day old, and not more
        (0.001, [False, False, True]),
        (8.998, [False, False, True]),
        (0.002, [False, False, False]),
        (200, [False, False, False]),
    ):
        clock.advance(days * DAY)
        prune(delayq)
        assert kept(delayq, ids) == expected, days
    assert kept(delayq, [waiting]) == [True]


def test_no_more_finished_jobs_are_kept_than_said_and_failed_ones_stay_longest(
    make: Callable[..., DelayQ],
) -> None:
    delayq = make(retention_count=4)
    ids = finish(delayq, "bad", "good", "good", "bad", "good", "good")
    running = task(delayq, "good").enqueue_in(60).id
    prune(delayq)
    # Six are two too many: the oldest that did not fail.
    assert kept(delayq, ids) == [True, False, False, True, True, True]
    more = finish(delayq, "bad", "bad", "bad")
    prune(delayq)
    assert kept(delayq, ids + more) == [False, *[False] * 2, True, *[False] * 2, *[True] * 3]
    assert kept(delayq, [running]) == [True]


def test_an_id_may_be_used_again_once_its_job_is_pruned(make: Callable[..., DelayQ]) -> None:
    clock = FakeClock()
    delayq = make(clock, retention=DAY)
    assert task(delayq, "good").options(id="mine").enqueue("a").created
    delayq.drain()
    assert not task(delayq, "good").options(id="mine").enqueue("a").created
    clock.advance(2 * DAY)
    prune(delayq)
    assert task(delayq, "good").options(id="mine").enqueue("a").created


def test_a_process_that_runs_jobs_prunes_by_itself(make: Callable[..., DelayQ]) -> None:
    clock = FakeClock()
    delayq = make(clock, retention=DAY, retention_failed=10 * DAY)
    ids = finish(delayq, *["good"] * 5, "bad")
    clock.advance(DAY + 1)
    delayq.start()
    wait_until(lambda: delayq.state.backend.processes(), 10, "the runtime has begun its turns")
    clock.advance(61)  # the first round comes after a minute
    wait_until(lambda: not any(kept(delayq, ids[:5])), 10, "the old jobs are gone")
    assert kept(delayq, ids[5:]) == [True]
    clock.advance(9 * DAY)
    wait_until(lambda: not any(kept(delayq, ids)), 10, "the old failed one is gone as well")


ROWS = 20_000
HELD_UP = 0.05
"""Seconds of a quiet machine for which the pruner may hold an enqueue up."""


def test_pruning_holds_nobody_up(make: Callable[..., DelayQ], tmp_path: Path, figure: Figure) -> None:
    """A thread enqueues while 20,000 finished jobs are pruned, and in turn into a store beside, where
    nothing is pruned: the difference is what pruning costs it."""
    clock = FakeClock()
    delayq, beside = make(clock, retention=DAY), make(clock, url=f"sqlite:///{tmp_path / 'beside'}")
    finish_many(delayq, ROWS)
    clock.advance(2 * DAY)
    delayq.start()
    wait_until(lambda: delayq.state.backend.processes(), 10, "the runtime has begun its turns")
    delayq.pause("default")
    clock.advance(61)
    began = time.monotonic()
    busy, quiet = enqueue_for([delayq, beside], lambda: delayq.counts()["completed"] == 0)
    took = quiet_seconds(began)
    pace = took / (time.monotonic() - began)
    figure(
        f"{ROWS:,} jobs pruned in {took:.1f} s beside {len(busy)} enqueues: worst {busy[-1] * 1e3:.1f}"
        f" ms, p99 {busy[len(busy) * 99 // 100] * 1e3:.1f} ms, beside worst {quiet[-1] * 1e3:.1f} ms"
    )
    assert took < 60
    # The worst of a few moments may be the disk's, with and without a pruner; the third worst is not.
    assert busy[-3] < HELD_UP / pace + 5 * quiet[-3]


def finish_many(delayq: DelayQ, number: int) -> None:
    """Finished jobs, made by the store's own verbs in large groups."""
    backend, clock = delayq.state.backend, delayq.state.clock
    for _ in range(number // 1000):
        task(delayq, "good").enqueue_many([("x" * 100,)] * 1000)
        claims: list[Claim] = backend.claim(None, now=clock.now(), limit=1000, owner="me", lease=60)
        ends = [Outcome(claim, Verb.COMPLETE, clock.now(), None, b'"done"') for claim in claims]
        assert all(backend.record(ends, now=clock.now()))


def enqueue_for(stores: list[DelayQ], over: Callable[[], bool]) -> list[list[float]]:
    """The seconds that calls of enqueue took on each store in turn, by length, until it is over."""
    found: list[list[float]] = [[] for _ in stores]
    while not over():
        for _ in range(50):
            for seconds, delayq in zip(found, stores, strict=True):
                began = time.perf_counter()
                task(delayq, "good").enqueue_in(3600)
                seconds.append(time.perf_counter() - began)
    return [sorted(seconds) for seconds in found]


# --- limits of size ---------------------------------------------------------------------------------


def test_arguments_are_taken_up_to_the_limit_and_not_one_byte_more(make: Callable[..., DelayQ]) -> None:
    limit = 1000
    delayq = make(max_payload=limit)
    good = task(delayq, "good")
    most = limit - len(json.dumps({"text": ""}, separators=(",", ":")))
    assert good.enqueue("x" * most).created
    with pytest.raises(PayloadTooLargeError) as caught:
        good.enqueue("x" * (most + 1))
    assert (caught.value.size, caught.value.limit) == (limit + 1, limit)
    with pytest.raises(PayloadTooLargeError):
        good.enqueue_many([("a",), ("x" * (most + 1),)])
    assert delayq.counts()["ready"] == 1

    def post(size: int) -> int:
        http = delayq.state.app.test_client()
        call = {"task": "good", "args": ["x" * size]}
        return http.post("/delayq/produce", json=call, headers=AUTH).status_code

    assert (post(most), post(most + 1), post(10_000_000)) == (202, 413, 413)
    assert [outcome.verb for outcome in delayq.drain()] == [Verb.COMPLETE] * 2


def test_results_are_kept_up_to_the_limit_and_a_larger_one_is_told(
    make: Callable[..., DelayQ], caplog: pytest.LogCaptureFixture
) -> None:
    delayq = make(max_result=1000)
    fits = task(delayq, "bytes").enqueue(998)  # and two quotes
    over = task(delayq, "bytes").enqueue(999)
    delayq.drain()
    assert fits.refresh().result == "x" * 998
    assert over.refresh().state == "completed"
    assert over.result is None
    assert "1,001 bytes, the limit is 1,000" in str(over.error)
    assert "1,001 bytes" in caplog.text


# --- who serves which queue -------------------------------------------------------------------------


def test_the_web_process_serves_one_set_of_queues_and_a_worker_another(tmp_path: Path) -> None:
    site = Site(tmp_path, queues=["default", "mail"])
    other = tmp_path / "other"
    other.mkdir()
    (other / "app.py").write_text((tmp_path / "app.py").read_text())
    with ExitStack() as stack:
        web = stack.enter_context(
            server(words("-m flask run --port {port}"), folder=tmp_path, env=site.env)
        )
        heavy = site.leave("quick", count=10, queue="heavy")
        urgent = site.leave("quick", count=10, queue="urgent")
        nobodys = site.leave("quick", queue="nobodys")
        mail = site.leave("quick", count=10, queue="mail")
        here = enqueue(web, "quick", count=10)
        site.ran([*mail, *here])
        assert not set(site.runs()) & {*heavy, *urgent}
        command = words("-m flask delayq worker --queues heavy,urgent")
        worker = stack.enter_context(program(command, folder=other, env=site.env))
        site.ran([*heavy, *urgent])
        later = {queue: site.leave("quick", count=5, queue=queue) for queue in ("heavy", "mail")}
        site.ran([*later["heavy"], *later["mail"]])
        ran_by = {job: run.pid for job, (run,) in site.runs().items()}
    by_web = [*mail, *here, *later["mail"]]
    by_worker = [*heavy, *urgent, *later["heavy"]]
    assert ran_by == {**dict.fromkeys(by_web, web.pid), **dict.fromkeys(by_worker, worker.pid)}
    assert site.rows()[nobodys[0]].started_at is None
