"""Every statement finds its rows by an index: what a verb costs must not grow with the store.

It must not know the statements; it listens to what the verbs execute.
"""

from __future__ import annotations

import time

import apsw

from backends.sqlite_kit import job, opened
from flask_delayq.backends.sqlite.verbs import inspection
from flask_delayq.job import (
    ClaimFor,
    JobQuery,
    JobState,
    Outcome,
    ProcessRecord,
    ScheduleRecord,
    Verb,
)

PAGE = " DESC LIMIT :limit"
"""Ends what asks for a page of the newest jobs."""


def test_no_verb_walks_through_all_jobs(tmp_path, monkeypatch):
    heard = {}

    def listen(connection):
        connection.set_exec_trace(
            lambda cursor, text, values: heard.update({text.strip(): values}) or True
        )

    monkeypatch.setattr(apsw, "connection_hooks", [*apsw.connection_hooks, listen])
    path = tmp_path / "delayq.sqlite3"
    with opened(path) as backend:
        use_every_verb(backend)
        monkeypatch.setattr(inspection, "_FEW", 0)
        look_at_everything(backend, time.time())
    monkeypatch.undo()
    connection = apsw.Connection(str(path))
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)  # as the store's own connections
    verbs = ("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")
    plans = {
        text: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", values)]
        for text, values in heard.items()
        if text.startswith(verbs)
    }
    connection.close()
    pages = [plans.pop(text) for text in list(plans) if PAGE in text and "CASE" not in text]
    assert len(plans) > 50 and len(pages) > 5
    # A page of the newest jobs walks from the newest one on, and ends after a page.
    assert {plan[0].partition(" (")[0] for plan in pages} == {
        "SCAN job",
        "SEARCH job USING PRIMARY KEY",
        "SCAN job USING INDEX job_chosen",
        "SEARCH job USING INDEX job_chosen",
    }
    assert {len(plan) for plan in pages} == {1}, "nothing is sorted"
    # A walk through a partial index is one through the jobs in one state, to count or to look at all.
    walks = {
        text: plan
        for text, plan in plans.items()
        for step in plan
        if step.startswith(("SCAN job", "SCAN body")) and "USING" not in step
    }
    assert walks == {}


def test_a_statement_is_prepared_once_whatever_its_moments(tmp_path):
    """SQLite asks the authorizer whenever it prepares a statement."""
    prepared = []

    def asked(*what):
        if what[0] != apsw.SQLITE_PRAGMA:  # done while it is prepared
            prepared.append(what)
        return apsw.SQLITE_OK

    def round_trip(now):
        backend.enqueue([job(run_at=now)], now=now, timeout=5, claim_for=ClaimFor("me", 60, 1))
        backend.enqueue([job(run_at=now)], now=now, timeout=5)
        claims = backend.claim(None, now=now, limit=1, owner="me", lease=60)
        backend.record([Outcome(claim, Verb.COMPLETE, now) for claim in claims], now=now)

    with opened(tmp_path / "delayq.sqlite3") as backend:
        now = time.time()
        round_trip(now)
        backend._store._write.connection.authorizer = asked  # what was prepared before is void
        round_trip(now + 1)
        assert prepared
        prepared.clear()
        round_trip(now + 2)
        assert not prepared


def use_every_verb(backend):
    now = time.time()
    backend.enqueue([job(), job(queue="b")], now=now, timeout=5, max_pending=9)
    backend.enqueue([job()], now=now, timeout=5, claim_for=ClaimFor("me", 60, 1), max_pending=9)
    backend.enqueue([job(run_at=now + 99) for _ in range(9)], now=now, timeout=5)
    claims = backend.claim(None, now=now + 1, limit=9, owner="me", lease=60)
    backend.claim(["default"], now=now + 100, limit=9, owner="me", lease=60, strict=True)
    backend.next_due(None, owner="me")
    backend.upcoming(None, after=0, until=now + 100, limit=1)
    backend.progress(claims[0], b"1")
    backend.cancel_requested(claims[0])
    backend.announce(ProcessRecord("me", 1, "here", now, now, b"{}"))
    backend.renew("me", claims, lease=60)
    backend.renew("me", claims, lease=1e-9)
    backend.processes()
    for verb in (Verb.INTERRUPT, Verb.RELEASE, Verb.RETRY, Verb.SNOOZE):
        outcome = Outcome(claims[0], verb, now, run_at=now, error=b"1")
        backend.record([outcome], now=now)
        claims = backend.claim(None, now=now + 1, limit=9, owner="me", lease=60) or claims
    for verb in (Verb.COMPLETE, Verb.FAIL, Verb.CANCEL):
        backend.enqueue([job()], now=now, timeout=5)
        (claim, *_) = backend.claim(None, now=now + 1, limit=1, owner="me", lease=60)
        backend.record([Outcome(claim, verb, now, result=b"1", error=b"1")], now=now)
    backend.bring_forward(now=now)
    backend.enqueue([job(run_at=now + 9, enqueued_at=now + 9)], now=now, timeout=5)
    backend.bring_forward(now=now)
    backend.withdraw("me")
    backend.rescue(now=now, max_rescues=3)
    backend.claim(None, now=now + 200, limit=9, owner="me", lease=60)
    backend.next_due(None, owner="me")
    look_at_everything(backend, now)
    waiting = job(run_at=now + 500)
    backend.enqueue([waiting], now=now, timeout=5)
    backend.cancel(waiting.id, now=now, reason="why")
    backend.revive(waiting.id, run_at=now)
    backend.pause("b")
    backend.resume("b")
    backend.purge("default", now=now)
    backend.prune(finished_before=now, failed_before=now, keep=0)
    backend.prune(finished_before=now + 9, failed_before=now + 9, keep=None)
    rule = ScheduleRecord("s", "send", b"{}", "every 5 s", "default", 1, now)
    backend.put_schedule(rule)
    backend.fire(rule, job(), next_due=now + 5)
    backend.pause_schedule("s", True)
    backend.next_occurrence()
    backend.remove_schedule("s")
    backend.maintain()
    backend.health()


def look_at_everything(backend, now):
    backend.counts(now=now)
    backend.queues(now=now)
    backend.schedules()
    (newest, *_) = backend.list(JobQuery(), now=now)
    for states in ((), *((state,) for state in JobState), (JobState.FAILED, JobState.RUNNING)):
        backend.list(JobQuery(states=states, queue="b", task="send", before=newest.id), now=now)
