"""How a run ends: as its worker says, or because its worker is gone. One row each.
Must not know locks and batches; the verbs have the lock when they come here."""

from __future__ import annotations

from ...job import Failure, Outcome, Rescue, Stored, Verb
from ...serializer import encode_failure
from .rows import Row
from .store import Store

_COMPLETED, _FAILED = Stored.COMPLETED, Stored.FAILED
_RETRY, _RELEASE, _INTERRUPT = Verb.RETRY, Verb.RELEASE, Verb.INTERRUPT
_ENDS = {Verb.COMPLETE: _COMPLETED, Verb.FAIL: _FAILED, Verb.CANCEL: Stored.CANCELLED}


def write_end(store: Store, outcome: Outcome) -> bool:
    """Write how one run ended, if it is still the claim's to write."""
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
    store.wait_or_cancel(row, outcome.at)
    return True


def take_back(store: Store, row: Row, now: float, max_rescues: int) -> Rescue:
    """Take a running job back from an owner that is dead."""
    new, owner = row.new, row.owner or ""
    store.halt(row)
    if not row.interrupted:
        row.rescues += 1
    if not row.cancel_requested and (row.rescues > max_rescues or new.fail_on_crash):
        times = "once" if row.rescues == 1 else f"{row.rescues} times"
        crashed = f"the job crashed the worker {times}"
        cut_off = "a stop cut the run off, and the task asks not to be repeated"
        row.error = encode_failure(Failure("Crashed", cut_off if row.interrupted else crashed))
        store.finish(row, _FAILED, now)
    else:
        store.wait_or_cancel(row, now)
    return Rescue(new.id, new.task, new.queue, owner, row.rescues, row.stored)
