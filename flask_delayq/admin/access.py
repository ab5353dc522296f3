"""Who may see and do what under ``/delayq``: closed until a token, a function or local debugging opens
it. Knows requests and settings; knows no page, and changes nothing."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Callable, Collection
from ipaddress import IPv6Address, ip_address

from flask import Request
from msgspec import Struct

_log = logging.getLogger(__name__)

HOW_TO_OPEN = (
    "These pages are closed. Set DELAYQ_ADMIN_TOKEN and send it as `Authorization: Bearer ...`, "
    "or register a function with @delayq.admin_access; `flask run --debug` opens them on this machine."
)
NOT_OURS = (
    "This changes something, so it needs the admin token, or a browser's word that it comes from "
    "these pages (Sec-Fetch-Site: same-origin, or an Origin equal to this host)."
)

READING = frozenset({"GET", "HEAD"})
"""Methods that change nothing; every other one needs the token or a same-origin proof."""

_LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
_PROXIED = ("Forwarded", "X-Real-Ip", "Via", "Client-Ip", "X-Client-Ip", "True-Client-Ip")


class Access(Struct, frozen=True):
    """What was decided about a request and an action."""

    allowed: bool
    via: str = ""
    """``"token"``, ``"function"`` or ``"local"``."""


DENIED = Access(False)


def judge(
    request: Request,
    action: str,
    *,
    tokens: Collection[str],
    function: Callable[[str], bool] | None,
    debug: bool,
) -> Access:
    """Decide whether whoever sent the request may do this. The first that applies:

    1. The bearer token is one of ``tokens``: everything is allowed.
    2. There is a ``function``: its answer holds, and only ``True`` itself opens. (A decorator such as
       ``login_required`` would answer with a redirect, which counts as true elsewhere.)
    3. A wrong token was sent: denied.
    4. Local debugging, see :func:`is_local`: everything is allowed.

    :param action: ``"read"``, ``"act"`` or ``"produce"``.
    :param tokens: ``DELAYQ_ADMIN_TOKEN``.
    :param function: registered by ``@delayq.admin_access``.
    :param debug: whether the app is in debug mode.
    """
    given = bearer_token(request) if tokens else None
    if given is not None and is_one_of(given, tokens):
        return Access(True, "token")
    if function is not None:
        answer: object = function(action)
        if type(answer) is not bool:
            _log.warning(
                "the admin_access function answered with a %s instead of True or False, so no",
                type(answer).__name__,
            )
        if answer is True:
            return Access(True, "function")
    if given is not None:
        _log.warning("a wrong admin token came from %s for %r", request.remote_addr, request.path[:200])
        return DENIED
    if function is None and debug and is_local(request):
        return Access(True, "local")
    return DENIED


def bearer_token(request: Request) -> bytes | None:
    """The token in ``Authorization: Bearer ...``, as the bytes that were sent; ``None`` without one."""
    header = request.environ.get("HTTP_AUTHORIZATION", "")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        return None
    # WSGI passes bytes as latin-1 text, whatever they are.
    return bytes(token.strip().encode("latin-1", "replace"))


def is_one_of(given: bytes, tokens: Collection[str]) -> bool:
    """Whether these bytes are one of the tokens; takes as long for a near miss as for a far one."""
    digest = hashlib.sha256(given).digest()
    right = False
    for token in tokens:  # all of them, whichever it is
        right |= hmac.compare_digest(digest, hashlib.sha256(token.encode("utf-8", "replace")).digest())
    return right


def is_local(request: Request) -> bool:
    """Whether the request comes from this machine and went through no proxy.

    A proxy on the same host makes every client a loopback one, and a page that rebinds its name in DNS
    makes the visitor's browser one: so forwarding headers and foreign host names count as not local.
    Used in debug mode only; a bare proxy leaves no trace.
    """
    names = [name.title() for name, _ in request.headers.items()]
    if any(name in _PROXIED or name.startswith("X-Forwarded") for name in names):
        return False
    return is_loopback(request.remote_addr) and bool(
        _LOCAL_HOST.fullmatch(request.environ.get("HTTP_HOST", ""))
    )


def is_loopback(address: str | None) -> bool:
    """Whether a peer's address is a loopback one; a Unix socket has none and is not."""
    try:
        found = ip_address(address or "")
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped.is_loopback
    return found.is_loopback


def is_same_origin(request: Request) -> bool:
    """Whether a browser says that the request was made by a page of this very origin."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    # Browsers leave that header out on plain http; all of them send Origin with a POST.
    origin = request.headers.get("Origin")
    return origin is not None and origin == request.host_url.rstrip("/")
