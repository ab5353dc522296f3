"""One call of the store fails, any one in turn: nothing accepted is lost, nothing runs twice, and the
process goes on without help.

The store is a real file, and so is the runtime; the failure is put between the two.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from acceptance.conftest import Figure
from acceptance.stores import url_of
from flask_delayq import DelayQ, current_job
from flask_delayq.errors import BackendUnavailableError
from flask_delayq.ids import new_id
from flask_delayq.job import JobQuery, StoredState
from flask_delayq.testing.faults import Fault, install
from kit import make_app
from waiting import wait_until

AT_ONCE = 8
"""Ordeals side by side: most of each is waiting."""

JOBS = 25
"""At least; more are enqueued until the fault has struck."""

LEASE = 3.0


class Ordeal:
    """A process's life with one failed call in it.

    :param point: ``"before:*:7"``: the seventh call, whatever it is, fails and does nothing;
        ``"after:claim:1"``: the first claim is made, but nobody is told.
    """

    def __init__(self, folder: Path, point: str) -> None:
        self.point = point
        fault = Fault.parse(f"fail:{point}")
        self.least = fault.nth if fault.verb == "*" else 0
        self.runs: Counter[tuple[str, int]] = Counter()
        self.accepted: dict[str, int] = {}
        url = url_of(folder, point)
        self.app, self.delayq = make_app(url=url, lease=LEASE, workers=2, retention_count=None)
        self._register(self.delayq)
        self.faulty = install(self.delayq, fault)
        if fault.when == "after":  # a doorbell is an object of this process, not an answer of a store
            self.faulty.open_doorbell = self.faulty.inner.open_doorbell

    def _register(self, delayq: DelayQ) -> None:
        lock = threading.Lock()

        @delayq.task(name="work", max_attempts=5, backoff=[0.01])
        def work(failures: int) -> None:
            with lock:
                self.runs[current_job.id, current_job.attempt] += 1
            if current_job.attempt <= failures:
                raise ValueError("as planned")

        @delayq.task(name="beat", every=0.2)
        def beat() -> None:
            with lock:
                self.runs[current_job.id, current_job.attempt] += 1

    def endure(self) -> list[str]:
        """Live through it; what went wrong."""
        self.delayq.start()
        try:
            self._produce()
            wait_until(lambda: self._open() == [], 20, f"{self}: all is done")
            wait_until(lambda: self.delayq.state.health().ok, 10, f"{self}: it is well again")
            faults = [] if self.delayq.stop(5) else [f"{self}: it did not stop"]
            return faults + self._faults()
        except AssertionError as error:
            return [str(error)]
        finally:
            self.delayq.stop(0)
            self.delayq.state.close()

    def _produce(self) -> None:
        while len(self.accepted) < JOBS or self.faulty.total < self.least:
            number = len(self.accepted)
            failures, delay = int(number % 5 == 1), 0.02 if number % 4 == 2 else 0.0
            call = self.delayq.tasks.get("work").options(id=new_id())
            for _ in range(2):  # a caller that is told of a failure may repeat itself
                try:
                    self.accepted[call.enqueue_in(delay, failures).id] = failures
                    break
                except BackendUnavailableError:
                    continue

    def _open(self) -> list[str]:
        records = [self.faulty.inner.get(job) for job in self.accepted]
        return [record.id for record in records if not record.stored.is_final]

    def _faults(self) -> list[str]:
        faults = []
        for job, failures in self.accepted.items():
            record = self.faulty.inner.get(job)
            ran = {attempt: n for (one, attempt), n in self.runs.items() if one == job}
            wanted = {attempt: 1 for attempt in range(1, failures + 2)}
            if record is None or record.stored is not StoredState.COMPLETED or record.rescues:
                faults.append(f"{self}: {job} is {record}")
            if ran != wanted:
                faults.append(f"{self}: {job} ran {ran} instead of {wanted}")
        beats = self.faulty.inner.list(JobQuery(task="beat", limit=10_000), now=0.0)
        moments = [record.run_at for record in beats]
        if len(set(moments)) != len(moments):
            faults.append(f"{self}: an occurrence was enqueued twice")
        faults += [f"{self}: {job} ran {n} times" for (job, _), n in self.runs.items() if n > 1]
        return faults

    def __str__(self) -> str:
        return f"a failure {self.point}"


def endure(folder: Path, points: Sequence[str]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda point: Ordeal(folder, point).endure(), points))
    assert [fault for faults in found for fault in faults] == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_failed_call_costs_no_job(tmp_path: Path, figure: Figure, when: str) -> None:
    calls = range(1 if when == "before" else 3, 201, 5)
    endure(tmp_path, [f"{when}:*:{nth}" for nth in calls])
    figure(f"{len(calls)} of the first 200 calls failed {when} they were done, one in each run")


@pytest.mark.stress
@pytest.mark.timeout(900)
@pytest.mark.parametrize("when", ["before", "after"])
def test_every_failed_call_costs_no_job(tmp_path: Path, when: str) -> None:
    endure(tmp_path, [f"{when}:*:{nth}" for nth in range(1, 201)])


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_failed_first_call_of_each_verb_costs_no_job(tmp_path: Path, when: str) -> None:
    rare = ("announce", "open_doorbell", "put_schedule", "schedules", "next_occurrence", "fire")
    common = ("enqueue", "claim", "record", "upcoming", "next_due", "renew", "rescue", "maintain")
    endure(tmp_path, [f"{when}:{verb}:1" for verb in (*rare, *common)])


@pytest.mark.parametrize("verb", ["enqueue", "claim"])
def test_a_claim_that_is_long_on_its_way_runs_once(tmp_path: Path, verb: str) -> None:
    """The thread that claimed a job stands still before it can say so: meanwhile nobody holds the claim,
    and it is older than what the renewer waits for."""
    app, delayq = make_app(url=url_of(tmp_path), lease=LEASE, workers=2)
    ran: list[int] = []

    @delayq.task(name="work")
    def work() -> None:
        ran.append(current_job.claim.claim_no)

    def stand_still() -> None:
        deadline = time.monotonic() + LEASE * 0.9
        wait_until(lambda: ran or time.monotonic() > deadline, LEASE)

    if verb == "claim":  # so that there is something to claim at the start
        job = work.enqueue()
        delayq.state.close()
        for cached in ("client", "backend"):
            delayq.state.__dict__.pop(cached)
    install(delayq, Fault(verb, 1, when="after", action=stand_still))
    delayq.start()
    try:
        if verb == "enqueue":
            wait_until(lambda: delayq.state.supervisor.dispatcher.accepting, 5, "claims may be made")
            job = work.enqueue()
        wait_until(lambda: ran, LEASE * 2, "it runs")
        assert delayq.join(5)
        assert delayq.get(job.id).state == "completed"
    finally:
        delayq.stop(5)
        delayq.state.close()
    assert len(ran) == 1, f"it ran under the claims {ran}"
    assert app is not None
