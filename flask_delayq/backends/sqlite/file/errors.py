"""Translates SQLite's errors: one table from apsw's exceptions to the package's errors.
Must not know which operation failed, and repairs nothing."""

from __future__ import annotations

import apsw

from ....errors import BackendError, BackendUnavailableError, StoreCorruptError

OPERATION_ERRORS = (apsw.Error, BackendError, TypeError, ValueError, ArithmeticError, LookupError)
"""The exceptions of an operation itself: SQLite's errors, ours, and values that cannot be bound.

Any other exception inside an operation was thrown into its thread (KeyboardInterrupt, a time limit) and
belongs to that thread, not to the operation.
"""

PLAIN_VALUE_ERRORS = (TypeError, ValueError, ArithmeticError)

VALUE_ERRORS = (
    *(apsw.TooBigError, apsw.MismatchError, apsw.ConstraintError, apsw.RangeError),
    *PLAIN_VALUE_ERRORS,
)
"""The exceptions for a value that cannot be stored; the store itself is healthy."""

_UNAVAILABLE = {
    apsw.BusyError: ("locked", "is locked by another process (a backup, a shell, a slow disk?)"),
    apsw.LockedError: ("locked", "is locked by this process"),
    apsw.ProtocolError: ("locked", "is locked by another process"),
    apsw.FullError: ("full", "cannot grow: the disk or a quota is full"),
    apsw.ReadOnlyError: ("read-only", "is read-only for this user; check owner and mode"),
    apsw.PermissionsError: ("read-only", "may not be used by this user; check owner and mode"),
    apsw.IOError: ("io", "cannot be read or written"),
    apsw.CantOpenError: ("io", "cannot be opened; check that its folder exists and is writable"),
    apsw.NoMemError: ("io", "cannot be used: SQLite ran out of memory"),
    apsw.ConnectionClosedError: ("closed", "was closed meanwhile"),
}

_BROKEN = (
    *(apsw.IOError, apsw.CorruptError, apsw.NotADBError, apsw.CantOpenError),
    *(apsw.ReadOnlyError, apsw.NoMemError, apsw.ConnectionClosedError, apsw.MisuseError),
)


class UnfitValueError(BackendError):
    """SQLite cannot store a value in its column; the store itself is healthy."""


class CommitUnknown(Exception):  # noqa: N818 - the caller, which knows the ids, makes an error of it
    """It is unknown whether the transaction was stored."""


def translate(error: apsw.Error, path: str) -> BackendError:
    """Return the package's error for one of SQLite's."""
    detail = f"({type(error).__name__}: {error})"
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return StoreCorruptError(
            f"the store {path} is damaged {detail}; nothing was changed. Stop the application, keep "
            f"the file with its -wal and -shm, and restore a backup or try `sqlite3 .recover`"
        )
    if isinstance(error, VALUE_ERRORS):
        return UnfitValueError(f"the store {path} cannot hold a value {detail}")
    for kind, (reason, text) in _UNAVAILABLE.items():
        if isinstance(error, kind):
            return BackendUnavailableError(f"the store {path} {text} {detail}", reason=reason)
    return BackendError(f"SQLite refused an operation on the store {path} {detail}")


def needs_reopening(error: BaseException) -> bool:
    """Whether a connection must not be used again after this error."""
    return isinstance(error, _BROKEN)


def leaves_doubt(error: apsw.Error) -> bool:
    """Whether a COMMIT that failed with this error may nevertheless exist after a crash."""
    # If a frame could not be written, the WAL ends before it. A frame that was written but not flushed
    # may exist or not.
    written = getattr(error, "extendedresult", 0) != apsw.SQLITE_IOERR_WRITE
    return isinstance(error, apsw.IOError | apsw.CorruptError | apsw.NoMemError) and written
