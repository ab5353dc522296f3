"""Changes by people: cancel, revive, pause, purge; and changes by age: prune.
Must not know how jobs are claimed and ended by workers; each function takes the lock itself."""

from __future__ import annotations

from math import inf

from msgspec.structs import replace

from ...job import CANCELLED, Failure, StoredState
from ...serializer import encode_failure
from .rows import Entry
from .store import Store

_WAITING, _RUNNING = StoredState.WAITING, StoredState.RUNNING
_FAILED, _CANCELLED = StoredState.FAILED, StoredState.CANCELLED


def cancel(store: Store, job_id: str, *, now: float, reason: str = "") -> StoredState | None:
    with store.lock, store.whole:
        row = store.rows.get(job_id)
        if row is None:
            return None
        if row.stored is _WAITING:
            store.leave_waiting(row)
            store.finish(row, _CANCELLED, now)
            if reason:
                row.error = encode_failure(Failure(CANCELLED, reason))
        elif row.stored is _RUNNING:
            row.cancel_requested = True
        return row.stored


def revive(store: Store, job_id: str, *, run_at: float) -> StoredState | None:
    with store.lock, store.whole:
        row = store.rows.get(job_id)
        if row is None:
            return None
        before = row.stored
        if before is _FAILED or before is _CANCELLED:
            store.leave_final(row)
            row.attempt = row.rescues = 0
            row.suspect = row.later = False
            row.cancel_requested = False
            row.new = replace(row.new, enqueued_at=run_at)
            row.run_at = run_at
            row.finished_at = None
            row.stored = _WAITING
            store.stand(row, store.queue(row.new.queue))
        return before


def pause(store: Store, queue: str) -> None:
    with store.lock:
        store.queue(queue).paused = True


def resume(store: Store, queue: str) -> None:
    with store.lock:
        found = store.queues.get(queue)
        if found is not None:
            found.paused = False


def purge(store: Store, queue: str, *, now: float, limit: int = 1000) -> int:
    with store.lock, store.whole:
        found = store.queues.get(queue)
        if found is None:
            return 0
        taken: list[Entry] = []
        for line in found.all_lines():
            taken += line.take_until(inf, limit - len(taken))
        found.waiting -= len(taken)
        store.waiting -= len(taken)
        for entry in taken:
            store.finish(entry[3], _CANCELLED, now)
        return len(taken)


def forget_queues(store: Store) -> int:
    with store.lock:
        used = {row.new.queue for row in store.rows.values()}
        empty = [name for name, queue in store.queues.items() if name not in used and not queue.paused]
        for name in empty:
            del store.queues[name]
        return len(empty)


def prune(
    store: Store, *, finished_before: float, failed_before: float, keep: int | None, limit: int
) -> int:
    with store.lock, store.whole:
        gone = store.finished.take_before(finished_before, limit)
        gone += store.failed.take_before(failed_before, limit - len(gone))
        if keep is not None:
            for line in (store.finished, store.failed):
                excess = len(store.finished) + len(store.failed) - keep
                gone += line.take_until(inf, min(excess, limit - len(gone)))
        for entry in gone:
            store.forget(entry[3])
        return len(gone)
