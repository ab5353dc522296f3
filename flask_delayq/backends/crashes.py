"""What a rescue does with one job whose owner is dead; pure, and the same for every backend.
Must not know how an owner's death is detected, or where jobs are stored."""

from __future__ import annotations

from typing import NamedTuple

from ..job import CRASHED, INTERRUPTED, Failure, StoredState

SUSPECT_FROM = 2
"""The number of crashes that makes a job a suspect. Not one: most neighbours of a crash see only one,
and they must still run in parallel."""


CUT_OFF = Failure(INTERRUPTED, "a stop interrupted the run, and the task has on_crash='fail'")
"""The failure of a job whose run a stop has interrupted, if it must not be repeated."""


class Verdict(NamedTuple):
    """What happens to the job."""

    state: StoredState
    rescues: int
    charged: bool
    """Whether this rescue was counted in ``rescues``."""
    suspect: bool
    """Whether it is a suspect from now on: its owner runs only one suspect at a time."""
    failure: Failure | None
    """Why, if it failed."""


def verdict_of(
    *,
    rescues: int,
    max_rescues: int,
    fail_on_crash: bool,
    interrupted: bool,
    cancel_requested: bool,
    begun: bool = True,
) -> Verdict:
    """Decide about one running job whose owner is dead; see ``Backend.rescue``.

    :param rescues: how often it was charged before.
    :param begun: whether its task may have begun in this run.
    """
    charged = begun and not interrupted
    rescues += charged
    state, failure = StoredState.WAITING, None
    if cancel_requested:
        state = StoredState.CANCELLED
    elif (charged and rescues > max_rescues) or (begun and fail_on_crash):
        state, failure = StoredState.FAILED, _why(rescues, fail_on_crash, interrupted)
    return Verdict(state, rescues, charged, rescues >= suspect_from(max_rescues), failure)


def suspect_from(max_rescues: int) -> int:
    """The number of charges that makes a job a suspect: less than the maximum, so that no job fails
    because of a neighbour."""
    return max(1, min(SUSPECT_FROM, max_rescues))


def _why(rescues: int, fail_on_crash: bool, interrupted: bool) -> Failure:
    if interrupted:
        return CUT_OFF
    if fail_on_crash:
        return Failure(CRASHED, "crashed the worker, and the task has on_crash='fail'")
    times = "once" if rescues == 1 else f"{rescues} times in a row"
    return Failure(CRASHED, f"crashed the worker {times}")
