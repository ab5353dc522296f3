"""uWSGI from inside: which of its processes this is, and its hook after a fork.
Must not know what the hook does; the module ``uwsgi`` exists only inside uWSGI."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def _module() -> Any:
    module = sys.modules.get("uwsgi")
    return module if hasattr(module, "worker_id") else None


def worker_id() -> int:
    """The number of this worker, from 1; 0 in every other process, inside uWSGI or not."""
    module = _module()
    return int(module.worker_id()) if module is not None else 0


def is_no_worker() -> bool:
    """Whether this is uWSGI but no worker: it will become one or fork some later, or is a mule.

    No Python thread may live in it: uWSGI forks in C without taking the GIL, and a worker forked at the
    moment at which a thread holds it waits for ever. (Loading lazily, uWSGI forks first: there the app
    is loaded by a worker.)
    """
    return _module() is not None and not worker_id()


def is_without_threads() -> bool:
    """Whether this uWSGI was started without threads for Python.

    2.0.27 and later have them always. Older ones say 0 unless ``--enable-threads`` is given, and the
    oldest say nothing then.
    """
    module = _module()
    return module is not None and not getattr(module, "has_threads", 0)


def will_be_green() -> bool:
    """Whether gevent replaces the threads of each worker, which happens after the fork and its hooks."""
    module = _module()
    return module is not None and "gevent-monkey-patch" in getattr(module, "opt", ())


def runs_no_jobs() -> bool:
    """Whether no worker of this uWSGI can run jobs, and no watching thread should live in one either."""
    return is_without_threads() or will_be_green()


def call_after_fork(hook: Callable[[], None]) -> None:
    """Have uWSGI call `hook` in each worker and mule, after the fork if there is one.

    Python's own hooks (``os.register_at_fork``) do not run there.
    """
    module = _module()
    if module.masterpid():
        try:
            # It owns the one hook that uWSGI has, and refuses to be imported without a master.
            from uwsgidecorators import postfork  # type: ignore[import-untyped]
        except ImportError:  # packaged apart by distributions
            pass
        else:
            postfork(hook)
            return
    earlier = getattr(module, "post_fork_hook", None)

    def both() -> None:
        if earlier is not None:
            earlier()
        hook()

    module.post_fork_hook = both
