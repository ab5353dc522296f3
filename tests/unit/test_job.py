"""The states and their one table of transitions, walked from end to end.

Must not know storage or threads.
"""

from __future__ import annotations

import msgspec
import pytest
from msgspec import structs

from flask_delayq.job import (
    TRANSITIONS,
    Claim,
    Failure,
    JobRecord,
    JobState,
    NewJob,
    Outcome,
    Priority,
    ProcessRecord,
    ScheduleRecord,
    StoredState,
    Verb,
)

FINAL = {StoredState.COMPLETED, StoredState.FAILED, StoredState.CANCELLED}


def record(stored: StoredState, run_at: float = 100.0) -> JobRecord:
    return JobRecord("j", "t", "default", 1, stored, run_at, 50.0, b"{}")


@pytest.mark.parametrize(
    ("now", "state"), [(99.999, JobState.SCHEDULED), (100.0, JobState.READY), (1e9, JobState.READY)]
)
def test_a_waiting_job_is_scheduled_until_it_is_due(now: float, state: JobState) -> None:
    assert record(StoredState.WAITING).state_at(now) is state


@pytest.mark.parametrize(
    "stored", [stored for stored in StoredState if stored is not StoredState.WAITING]
)
def test_every_other_state_has_the_same_name_at_all_times(stored: StoredState) -> None:
    for now in (0.0, 1e10):
        assert record(stored).state_at(now).value == stored.name.lower()


def test_states_compare_and_print_as_text() -> None:
    assert JobState.READY == "ready" and f"{JobState.READY}" == "ready"
    assert JobState("failed") is JobState.FAILED
    assert len(JobState) == 6
    with pytest.raises(ValueError, match="nope"):
        JobState("nope")


def test_the_final_states_are_the_same_for_people_and_for_stores() -> None:
    assert {stored for stored in StoredState if stored.is_final} == FINAL
    assert {state for state in JobState if state.is_final} == {stored.name.lower() for stored in FINAL}


def test_only_a_person_leads_out_of_a_final_state() -> None:
    leaving = {verb for (state, verb), _ in TRANSITIONS.items() if state in FINAL}
    assert leaving == {Verb.REVIVE}
    assert (StoredState.COMPLETED, Verb.REVIVE) not in TRANSITIONS


def test_every_state_can_be_reached_and_every_run_can_end() -> None:
    reached = {StoredState.WAITING}
    for _ in StoredState:
        reached |= {to for (state, _), to in TRANSITIONS.items() if state in reached}
    assert reached == set(StoredState)
    assert {verb for _, verb in TRANSITIONS} == set(Verb)


@pytest.mark.parametrize("state", [StoredState.WAITING, *FINAL])
def test_nothing_but_a_claim_makes_a_job_run(state: StoredState) -> None:
    into = {
        verb for (start, verb), to in TRANSITIONS.items() if to is StoredState.RUNNING and start is state
    }
    assert into <= {Verb.CLAIM}


@pytest.mark.parametrize(
    "verb", [Verb.COMPLETE, Verb.FAIL, Verb.RETRY, Verb.SNOOZE, Verb.RELEASE, Verb.INTERRUPT]
)
def test_how_a_run_ended_can_be_said_of_a_running_job_alone(verb: Verb) -> None:
    assert {state for state, known in TRANSITIONS if known is verb} == {StoredState.RUNNING}


def test_levels_sort_from_high_to_low() -> None:
    assert sorted(Priority) == [Priority.HIGH, Priority.NORMAL, Priority.LOW]


def test_records_are_frozen() -> None:
    with pytest.raises(AttributeError):
        record(StoredState.WAITING).stored = StoredState.RUNNING  # type: ignore[misc]


def test_a_failure_reads_as_one_line_and_leaves_out_what_is_empty() -> None:
    assert str(Failure("ValueError", "bad")) == "ValueError: bad"
    assert str(Failure("ValueError", "")) == "ValueError"
    assert msgspec.json.encode(Failure("E", "m")) == b'{"type":"E","message":"m"}'


SECRET = b'{"password":"hunter2-and-more"}'


def test_the_text_of_a_record_has_sizes_and_no_contents() -> None:
    claim = Claim("j1", "pay", "mail", SECRET, "me", 1, 1, 0.0)
    stored = structs.replace(record(StoredState.FAILED), payload=SECRET, result=SECRET, error=SECRET)
    for found in (
        NewJob("j1", "pay", "mail", 1, 0.0, 0.0, SECRET),
        claim,
        structs.replace(stored, progress=SECRET),
        ScheduleRecord("s", "pay", SECRET, "rule", "mail", 1, 0.0),
        ProcessRecord("o1", 1, "host", 0.0, 0.0, SECRET),
    ):
        text = repr(found)
        assert text.startswith(type(found).__name__ + "(") and "<31 bytes>" in text
        assert "hunter2" not in text
    outcome = Outcome(claim, Verb.COMPLETE, 0.0, result=SECRET, error=SECRET)
    assert repr(outcome) == "<Outcome of pay: complete; attempt 1 of job j1>"
    assert "task='pay'" in repr(claim) and "claim_no=1" in repr(claim)
