"""Records outcomes, each fenced by its claim; also progress and cancel requests of a run.
Must not know transactions, threads or files."""

from __future__ import annotations

from collections.abc import Sequence

from ....job import Claim, Outcome, Verb
from ..file.connection import Bindings, Sql
from ..file.errors import VALUE_ERRORS

_OURS = "WHERE id = ? AND state = 1 AND owner = ? AND claim_no = ?"
_FREED = "owner = NULL, lease_until = NULL, interrupted = 0"

_END = f"UPDATE job SET state = {{}}, attempt = ?, finished_at = ?, {_FREED} {_OURS}"
_COMPLETE, _FAIL, _CANCEL = (_END.format(state) for state in (2, 3, 4))

# A job that was asked to stop does not wait again.
_AGAIN = f"""
UPDATE job SET state = iif(cancel_requested, 4, 0), finished_at = iif(cancel_requested, ?, NULL),
               {{}} {_OURS}"""
# A waiting job has no lease: a value other than NULL means that a retry or snooze has set its `run_at`.
_LATER = "run_at = ?, rescues = 0, suspect = 0, owner = NULL, lease_until = 0, interrupted = 0"
_RETRY = _AGAIN.format(f"attempt = ?, {_LATER}")
_SNOOZE = _AGAIN.format(_LATER)
RELEASE = _AGAIN.format(_FREED)
"""Binds the moment, the id, the owner and the ``claim_no``."""

_INTERRUPT = f"UPDATE job SET interrupted = 1 {_OURS}"

_SET_RESULT = "UPDATE body SET result = ?, error = ? WHERE id = ?"
_CLEAR_ERROR = "UPDATE body SET error = NULL WHERE id = ? AND error IS NOT NULL"
_SET_ERROR = "UPDATE body SET error = ? WHERE id = ?"

DURABLE = frozenset({Verb.COMPLETE, Verb.FAIL, Verb.CANCEL, Verb.RETRY, Verb.SNOOZE})
"""Verbs that must be durable; a lost release or interruption is only repeated."""


def record(sql: Sql, outcomes: Sequence[Outcome]) -> list[bool]:
    """Write all outcomes; if one cannot be stored, the transaction fails."""
    return [_write(sql, outcome) for outcome in outcomes]


def record_one_by_one(sql: Sql, outcomes: Sequence[Outcome]) -> list[bool]:
    """Write the outcomes that can be stored; slower, for a batch for which :func:`record` failed."""
    return [_write_alone(sql, outcome) for outcome in outcomes]


def _write_alone(sql: Sql, outcome: Outcome) -> bool:
    sql.run("SAVEPOINT outcome")
    try:
        written = _write(sql, outcome)
    except VALUE_ERRORS:
        sql.run("ROLLBACK TO outcome")
        written = False
    sql.run("RELEASE outcome")
    return written


def _write(sql: Sql, outcome: Outcome) -> bool:
    claim, verb, at = outcome.claim, outcome.verb, outcome.at
    ours = (claim.id, claim.owner, claim.claim_no)
    statement, changes = _change(claim, verb, at, outcome.run_at)
    if not sql.run(statement, (*changes, *ours)):
        return False
    if verb is Verb.COMPLETE:
        if outcome.result is None and outcome.error is None:
            sql.do(_CLEAR_ERROR, (claim.id,))
        else:
            sql.do(_SET_RESULT, (outcome.result, outcome.error, claim.id))
    elif outcome.error is not None and verb is not Verb.RELEASE:
        sql.do(_SET_ERROR, (outcome.error, claim.id))
    return True


def _change(claim: Claim, verb: Verb, at: float, run_at: float | None) -> tuple[str, Bindings]:
    """The statement for a verb and what it binds before the claim's own three."""
    if verb is Verb.COMPLETE:
        return _COMPLETE, (claim.attempt, at)
    if verb is Verb.FAIL:
        return _FAIL, (claim.attempt, at)
    if verb is Verb.CANCEL:
        return _CANCEL, (claim.attempt, at)
    if verb is Verb.RETRY:
        return _RETRY, (at, claim.attempt, run_at)
    if verb is Verb.SNOOZE:
        return _SNOOZE, (at, run_at)
    if verb is Verb.RELEASE:
        return RELEASE, (at,)
    if verb is Verb.INTERRUPT:
        return _INTERRUPT, ()
    raise ValueError(f"{verb.value} is not how a run ends")


def set_progress(sql: Sql, claim: Claim, data: bytes) -> bool:
    """Store the progress of a running job, if the claim is still current."""
    return bool(
        sql.run(
            f"UPDATE body SET progress = ? WHERE EXISTS (SELECT 1 FROM job {_OURS}) AND id = ?",
            (data, claim.id, claim.owner, claim.claim_no, claim.id),
        )
    )


def should_stop(sql: Sql, claim: Claim) -> bool:
    """Whether a cancel was requested, or the claim is no longer current."""
    wanted = sql.value(
        f"SELECT NOT cancel_requested FROM job {_OURS}", (claim.id, claim.owner, claim.claim_no)
    )
    return not wanted
