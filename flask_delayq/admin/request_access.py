"""Decides once per request and action whether it is allowed; counts wrong tokens and failing access
functions. Knows the app of the request; the rules are in ``access``."""

from __future__ import annotations

import logging
from weakref import WeakKeyDictionary

from flask import current_app, request
from werkzeug.exceptions import HTTPException

from ..app_state import AppState, current_state
from ..texts import indented, traceback_of
from .access import DENIED, Access, bearer_token, judge
from .token_throttle import Seldom, WrongTokens, whence

_log = logging.getLogger(__name__)


def may(action: str) -> bool:
    """Whether the sender of the request may do that; decided once per action and request."""
    return decided(action).allowed


def decided(action: str) -> Access:
    """The decision about this request and action; denied if the access function raises. For links on
    pages, and for ``/health``, which must work without that function."""
    state = current_state()
    _ = state.settings  # raises first if the settings are bad, which is not the access function's fault
    try:
        return access_for(action)
    except HTTPException:  # the access function may abort instead of returning
        return DENIED
    except Exception as error:  # foreign code, for example `current_user.is_admin` without a login
        _known()[state, action] = DENIED
        line = _door().broken
        line.happened()
        if count := line.due(state.clock.monotonic()):
            text = indented(traceback_of(error))
            _log.error(
                "the admin_access function failed (%d times since this was said)\n%s", count, text
            )
        return DENIED


def access_for(action: str) -> Access:
    """The decision about this request and action.

    :raises Exception: whatever the access function raises.
    """
    state, known = current_state(), _known()
    if (state, action) not in known:
        known[state, action] = judge(
            request,
            action,
            tokens=state.settings.admin_token,
            function=state.access,
            debug=current_app.debug,
            pause=_door().guesses.pause(whence(request), state.clock.monotonic()),
        )
    return known[state, action]


def note_guess(access: Access) -> None:
    """Count the token of this request if it was a wrong one."""
    if not access.wrong_token:
        return
    guesses, who, now = _door().guesses, whence(request), current_state().clock.monotonic()
    if access.allowed:
        guesses.let_in(who, hash(bearer_token(request)), now)
    else:
        guesses.wrong(who, request.path, now)


def _known() -> dict[tuple[AppState, str], Access]:
    # Not in `g`: an app context may outlive one request. By app: one environ may pass through several.
    known: dict[tuple[AppState, str], Access] = request.environ.setdefault("delayq.access", {})
    return known


class _Door:
    """Statistics of denied requests to one app."""

    def __init__(self) -> None:
        self.guesses = WrongTokens()
        self.broken = Seldom()


_doors: WeakKeyDictionary[AppState, _Door] = WeakKeyDictionary()


def _door() -> _Door:
    state = current_state()
    door = _doors.get(state)
    return door if door is not None else _doors.setdefault(state, _Door())
