"""What SQLite's error codes mean to a caller: one table from apsw's exceptions to the package's errors.
Must not know which operation failed, nor repair anything."""

from __future__ import annotations

import apsw

from ....errors import BackendError, BackendUnavailableError, StoreCorruptError

OPERATION_ERRORS = (apsw.Error, BackendError, TypeError, ValueError, ArithmeticError, LookupError)
"""What an operation can raise by itself: SQLite's errors, ours, and values that cannot be bound.

Anything else that surfaces inside an operation was thrown into the thread that runs it
(KeyboardInterrupt, a time limit) and belongs to that thread, not to the operation.
"""

PLAIN_VALUE_ERRORS = (TypeError, ValueError, ArithmeticError)

VALUE_ERRORS = (
    *(apsw.TooBigError, apsw.MismatchError, apsw.ConstraintError, apsw.RangeError),
    *PLAIN_VALUE_ERRORS,
)
"""What a value that cannot be stored raises inside an operation; the store itself is well."""

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
    """A value that SQLite cannot store in its column, told from trouble with the store."""


class CommitUnknown(Exception):  # noqa: N818 - a fact, turned into an error by who knows the ids
    """Whether the transaction was stored cannot be told."""


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
    """Whether a connection that met this error should not be used any more."""
    return isinstance(error, _BROKEN)


def leaves_doubt(error: apsw.Error) -> bool:
    """Whether a COMMIT that failed like this may nevertheless be found after a crash."""
    # A frame that could not be written ends the WAL before it; one that was written and not flushed
    # may be there or not.
    written = getattr(error, "extendedresult", 0) != apsw.SQLITE_IOERR_WRITE
    return isinstance(error, apsw.IOError | apsw.CorruptError | apsw.NoMemError) and written
