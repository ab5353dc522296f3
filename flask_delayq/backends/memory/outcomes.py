"""How a run ends: by its outcome, or because its owner is dead. Each function changes one row.
Must not know locks and batches; the verbs hold the lock."""

from __future__ import annotations

from ...job import Outcome, Rescue, StoredState, Verb
from ...serializer import encode_failure
from ..crashes import CUT_OFF, verdict_of
from .rows import Row
from .store import Store

_COMPLETED, _FAILED = StoredState.COMPLETED, StoredState.FAILED
_RETRY, _RELEASE, _INTERRUPT = Verb.RETRY, Verb.RELEASE, Verb.INTERRUPT
_ENDS = {Verb.COMPLETE: _COMPLETED, Verb.FAIL: _FAILED, Verb.CANCEL: StoredState.CANCELLED}


def write_end(store: Store, outcome: Outcome) -> bool:
    """Write how one run ended, if its claim is current."""
    claim = outcome.claim
    row = store.held(claim)
    if row is None:
        return False
    verb = outcome.verb
    state = _ENDS.get(verb)
    if state is not None:
        store.halt(row)
        row.attempt = claim.attempt
        row.result = outcome.result
        if outcome.error is not None or state is _COMPLETED:
            row.error = outcome.error
        store.finish(row, state, outcome.at)
        return True
    if verb is _INTERRUPT:
        row.interrupted = True
        return True
    if verb is not _RELEASE:
        if outcome.run_at is None:
            return False
        row.run_at = outcome.run_at
    if verb is _RETRY:
        row.attempt = claim.attempt
        row.error = outcome.error
    store.halt(row)
    if verb is not _RELEASE:
        row.later = True
        row.rescues = 0  # it has not crashed its process
        row.suspect = False
    store.wait_or_cancel(row, outcome.at)
    return True


def give_back(store: Store, row: Row, now: float) -> None:
    """Release a running job of an owner that withdraws."""
    store.halt(row)
    if row.interrupted and row.new.fail_on_crash and not row.cancel_requested:
        row.error = encode_failure(CUT_OFF)
        store.finish(row, _FAILED, now)
    else:
        store.wait_or_cancel(row, now)


def take_back(store: Store, row: Row, now: float, max_rescues: int) -> Rescue:
    """Take a running job back from a dead owner."""
    new, owner = row.new, row.owner or ""
    store.halt(row)
    verdict = verdict_of(
        rescues=row.rescues,
        max_rescues=max_rescues,
        fail_on_crash=new.fail_on_crash,
        interrupted=row.interrupted,
        cancel_requested=row.cancel_requested,
    )
    row.rescues = verdict.rescues
    row.suspect = verdict.suspect
    if verdict.failure is not None:
        row.error = encode_failure(verdict.failure)
    if verdict.state.is_final:
        store.finish(row, verdict.state, now)
    else:
        store.wait(row)
    return Rescue(
        new.id,
        new.task,
        new.queue,
        owner,
        row.rescues,
        row.stored,
        verdict.charged,
        verdict.failure,
    )
