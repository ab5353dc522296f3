"""Who may see and do what under ``/delayq``: denied until a token, a function or local debugging allows
it. Knows requests and settings; knows no page, and changes nothing."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Callable, Collection
from ipaddress import IPv6Address, ip_address
from weakref import WeakSet

from flask import Request
from msgspec import Struct

_log = logging.getLogger(__name__)

HOW_TO_OPEN = (
    "Access denied. Set DELAYQ_ADMIN_TOKEN and send it as `Authorization: Bearer ...`, or register a "
    "function with @delayq.admin_access; `flask run --debug` allows access from this machine."
)
NOT_OURS = (
    "A request that changes something needs the admin token, or must be same-origin "
    "(Sec-Fetch-Site: same-origin, or an Origin equal to this host)."
)

READING = frozenset({"GET", "HEAD"})
"""Methods that change nothing; every other one needs the token or a same-origin proof."""

_LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
_PROXIED = ("Forwarded", "X-Real-Ip", "Via", "Client-Ip", "X-Client-Ip", "True-Client-Ip")


class Access(Struct, frozen=True):
    """The decision about a request and an action."""

    allowed: bool
    via: str = ""
    """``"token"``, ``"function"`` or ``"local"``."""
    wrong_token: bool = False
    """The request has a token that is not an admin token. If the function allowed the request, it may be
    a token of the app."""
    pause: float = 0.0
    """The token came too soon after wrong ones and was not checked: seconds until one is checked
    again."""


DENIED = Access(False)

_unclear: WeakSet[Callable[[str], bool]] = WeakSet()
"""Functions that returned something other than True or False; logged once each."""


def judge(
    request: Request,
    action: str,
    *,
    tokens: Collection[bytes],
    function: Callable[[str], bool] | None,
    debug: bool,
    pause: float = 0.0,
) -> Access:
    """Decide whether the sender of the request may do this. The first rule that applies:

    1. The bearer token is one of ``tokens``: everything is allowed.
    2. There is a ``function``: it decides, and only ``True`` itself allows. (A decorator such as
       ``login_required`` would return a redirect, which is truthy.)
    3. A wrong token was sent: denied.
    4. Local debugging, see :func:`is_local` and :func:`is_sent_by_another_site`: everything is allowed.

    :param action: ``"read"``, ``"act"`` or ``"produce"``.
    :param tokens: the digests of ``DELAYQ_ADMIN_TOKEN``.
    :param function: registered by ``@delayq.admin_access``.
    :param debug: whether the app is in debug mode.
    :param pause: seconds for which tokens from this address are not checked.
    """
    given = bearer_token(request) if tokens else None
    if given is not None and not pause and is_one_of(given, tokens):
        return Access(True, "token")
    if function is not None:
        answer: object = function(action)
        if type(answer) is not bool and not _was_told(function):
            _log.warning(
                "the admin_access function returned a %s instead of True or False; access is denied",
                type(answer).__name__,
            )
        if answer is True:
            return Access(True, "function", wrong_token=given is not None and not pause)
    if given is not None:
        return Access(False, wrong_token=not pause, pause=pause)
    if function is None and debug and is_local(request) and not is_sent_by_another_site(request):
        return Access(True, "local")
    return DENIED


def _was_told(function: Callable[[str], bool]) -> bool:
    try:
        known = function in _unclear
        _unclear.add(function)
    except TypeError:  # an object that no weak reference can be made to
        return False
    return known


def bearer_token(request: Request) -> bytes | None:
    """The token in ``Authorization: Bearer ...``, as the bytes that were sent; ``None`` without one."""
    header = request.environ.get("HTTP_AUTHORIZATION", "")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        return None
    # WSGI passes all bytes as latin-1 text.
    return bytes(token.strip().encode("latin-1", "replace"))


def is_one_of(given: bytes, digests: Collection[bytes]) -> bool:
    """Whether these bytes are one of the tokens, in constant time."""
    digest = hashlib.sha256(given).digest()
    right = False
    for known in digests:  # always all of them: constant time
        right |= hmac.compare_digest(digest, known)
    return right


def is_local(request: Request) -> bool:
    """Whether the request comes from this machine, to the development server, and through no proxy.

    Behind a proxy on the same host every client has a loopback address; so has a visitor's browser after
    DNS rebinding. So forwarding headers, HTTP/1.0 (nginx's default towards an app) and foreign host
    names count as not local. Other servers may remove forwarding headers, so only werkzeug's own
    counts, which usually has no proxy. Used in debug mode only; a tunnel that forwards bytes cannot
    be detected.
    """
    if "werkzeug.socket" not in request.environ or request.environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        return False
    names = [name.title() for name, _ in request.headers.items()]
    if any(name in _PROXIED or name.startswith("X-Forwarded") for name in names):
        return False
    return is_loopback(request.remote_addr) and bool(
        _LOCAL_HOST.fullmatch(request.environ.get("HTTP_HOST", ""))
    )


def is_sent_by_another_site(request: Request) -> bool:
    """Whether the browser says that a script or form of another origin made this request.

    Every page in a browser on this machine sends from a loopback address. With CORS headers, which an
    app may add to all responses, such a page could also read the response. A link that a person
    follows is allowed: only the person sees the response.
    """
    origin = request.headers.get("Origin")
    if origin is not None and origin.lower() != own_origin(request):
        return True
    if request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
        return False
    followed = ("navigate", "document")
    how = (request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest"))
    return request.method not in READING or how != followed


def is_loopback(address: str | None) -> bool:
    """Whether a peer's address is a loopback address; a Unix socket has no address: False."""
    try:
        found = ip_address(address or "")
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped.is_loopback
    return found.is_loopback


def is_same_origin(request: Request) -> bool:
    """Whether the browser says that a page of this same origin made the request."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    # Browsers omit Sec-Fetch-Site on plain http; all of them send Origin with a POST.
    origin = request.headers.get("Origin")
    return origin is not None and origin.lower() == own_origin(request)


def own_origin(request: Request) -> str:
    """The origin of this app, as a browser writes it in ``Origin``."""
    # Not `host_url`, which has international names in Unicode.
    return f"{request.scheme}://{request.host}".lower()
