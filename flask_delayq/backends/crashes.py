"""What a rescue makes of one job whose owner is gone; pure, and the same for every backend.
Must not know how an owner's death is told, nor where jobs are kept."""

from __future__ import annotations

from typing import NamedTuple

from ..job import CRASHED, INTERRUPTED, Failure, StoredState

SUSPECT_FROM = 2
"""Crashes from which a job is suspected of causing them. Not the first one: most jobs that were beside a
crash are beside one only, and they go on running side by side."""


CUT_OFF = Failure(INTERRUPTED, "a stop cut the run off, and the task asks not to be repeated")
"""Why a run fails that a stop has interrupted, if it must not be repeated."""


class Verdict(NamedTuple):
    """What becomes of the job."""

    state: StoredState
    rescues: int
    charged: bool
    """Whether this rescue was counted in ``rescues``."""
    suspect: bool
    """Whether it runs alone among suspects from now on."""
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
    """Decide about one running job whose owner is gone; see ``Backend.rescue``.

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
    """The charges that make a job a suspect: before the last one that it may have, so that none fails
    for what a neighbour did."""
    return max(1, min(SUSPECT_FROM, max_rescues))


def _why(rescues: int, fail_on_crash: bool, interrupted: bool) -> Failure:
    if interrupted:
        return CUT_OFF
    if fail_on_crash:
        return Failure(CRASHED, "crashed the worker; the task asks not to be run again after that")
    times = "once" if rescues == 1 else f"{rescues} times in a row"
    return Failure(CRASHED, f"crashed the worker {times}")
