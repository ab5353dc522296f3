"""The job that runs in this context, as the task itself sees it (``current_job``).
Knows the claim, and the store as a ``ReportStore``; does not know what runs the job."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from math import inf
from typing import Protocol

from msgspec import Struct

from .clock import Clock
from .errors import BackendError, shown
from .job import Claim
from .serializer import UNENCODABLE, encode

_log = logging.getLogger(__name__)

REPORT_EVERY = 0.1
"""Minimum seconds between two stored progress reports of one job; reports in between are dropped."""

NOTE_LIMIT = 500
"""Maximum length of a progress note in characters; the rest is cut off."""

LOOK_EVERY = 1.0
"""Minimum seconds between two queries whether a cancel was requested."""


class ReportStore(Protocol):
    """The two verbs of ``Backend`` that a running job needs."""

    def progress(self, claim: Claim, data: bytes) -> bool: ...
    def cancel_requested(self, claim: Claim) -> bool: ...


class RunningJob(Struct, eq=False, gc=False):
    """One run of a job.

    :ivar id: the job's id.
    :ivar task: the task's name.
    :ivar queue: the queue it came from.
    :ivar attempt: the number of this run, from 1.
    :ivar rescues: how often it was taken back from a process that died, since it was enqueued or last
        retried or snoozed. If it is above 0, an earlier run may have done part of the work.
    """

    claim: Claim
    started_at: float
    """When this run began: epoch seconds."""
    _store: ReportStore
    _clock: Clock
    _cancelled: bool = False
    _looked: float = -inf
    _reported: float = -inf

    @property
    def id(self) -> str:
        return self.claim.id

    @property
    def task(self) -> str:
        return self.claim.task

    @property
    def queue(self) -> str:
        return self.claim.queue

    @property
    def attempt(self) -> int:
        return self.claim.attempt

    @property
    def rescues(self) -> int:
        return self.claim.rescues

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Report the progress of the job; shown on its page and in ``job.progress``.

        Cheap to call often: at most one report per :data:`REPORT_EVERY` seconds is stored, and always
        the one with ``done >= total``. A report that cannot be stored is dropped; it never fails the
        job.

        :param done: the amount of work done so far, in any unit.
        :param total: the whole amount of work, or ``None`` if unknown.
        :param note: what is being done; the first :data:`NOTE_LIMIT` characters are stored.
        :raises TypeError: ``done`` or ``total`` is not a number, or ``note`` is not a string.
        """
        if not (isinstance(done, (int, float)) and isinstance(total, (int, float, type(None)))):
            raise TypeError(f"progress must be numbers, not {shown(done)} of {shown(total)}")
        if not isinstance(note, str):
            raise TypeError(f"the note of a progress must be a string, not {shown(note)}")
        now = self._clock.monotonic()
        is_last = total is not None and done >= total
        if now - self._reported < REPORT_EVERY and not is_last:
            return
        self._reported = now
        kept = note[:NOTE_LIMIT].encode("utf-8", "replace").decode()
        try:
            report = encode({"done": done, "total": total, "note": kept, "at": self._clock.now()})
            self._store.progress(self.claim, report)
        except (BackendError, *UNENCODABLE) as error:
            _log.warning("progress of job %s was not stored: %s", self.id, error)

    @property
    def cancel_requested(self) -> bool:
        """Whether a cancel of this job was requested, or its claim was lost.

        Then the task should raise ``Cancel`` or return. This queries the store at most once per
        :data:`LOOK_EVERY` seconds, so a loop may check it in every round.
        """
        if not self._cancelled:
            now = self._clock.monotonic()
            if now - self._looked >= LOOK_EVERY:
                self._looked = now
                try:
                    self._cancelled = self._store.cancel_requested(self.claim)
                except BackendError as error:
                    _log.warning("cannot check whether job %s was cancelled: %s", self.id, error)
        return self._cancelled

    def request_cancel(self) -> None:
        """Make :attr:`cancel_requested` True, without a query of the store."""
        self._cancelled = True


running_job: ContextVar[RunningJob] = ContextVar("flask_delayq.running_job")
"""The job of this context; unset outside a task."""
