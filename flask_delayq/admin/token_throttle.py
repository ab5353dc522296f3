"""Rate limit for wrong tokens by address; logs their number once a minute.
Knows addresses and times; never sees a token."""

from __future__ import annotations

import logging
import threading
from ipaddress import IPv4Address, IPv6Address, ip_address

from flask import Request

from ..texts import visible

_log = logging.getLogger(__name__)

BURST = 10
"""Wrong tokens that one address may send at once."""

PAUSE = 6.0
"""Seconds after which it may send one more."""

ADDRESSES = 2000
"""Maximum number of remembered addresses; the least recent one is forgotten first."""

EVERY = 60.0
"""Seconds between two log lines about the same thing."""


class Seldom:
    """Limits the log lines about something that may happen very often."""

    def __init__(self) -> None:
        self._count = 0
        self._told_at: float | None = None

    def happened(self) -> None:
        """Count one more event."""
        self._count += 1

    def due(self, now: float) -> int:
        """The number of events since the last line, if a line is due now; else 0."""
        if not self._count or (self._told_at is not None and now - self._told_at < EVERY):
            return 0
        count, self._count, self._told_at = self._count, 0, now
        return count


class WrongTokens:
    """The wrong tokens sent to one app in this process.

    No request waits, because then a few guesses could occupy all threads of a server. After
    :data:`BURST` wrong tokens a token from the same address is not checked, and the response is 429,
    until :data:`PAUSE` seconds have passed. Other addresses are not affected.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._full_until: dict[str, float] = {}
        self._let_in: dict[str, int] = {}
        self._line = Seldom()
        self._latest = ""

    def pause(self, who: str, now: float) -> float:
        """Seconds until the next token from this address is checked; 0: at once.

        :param now: monotonic seconds.
        """
        with self._lock:
            self._tell(now)
            return max(0.0, self._full_until.get(who, 0.0) - (BURST - 1) * PAUSE - now)

    def wrong(self, who: str, path: str, now: float) -> None:
        """Count a wrong token from this address."""
        with self._lock:
            self._count(who, now)
            self._line.happened()
            self._latest = visible(f"from {who[:100]} for {path[:200]!r}")
            self._tell(now)

    def let_in(self, who: str, token: int, now: float) -> None:
        """Count a wrong token in a request that the access function allowed.

        It may be a token of the app, which a client sends with every request. So the same token counts
        once, and nothing is logged.

        :param token: a hash of the token.
        """
        with self._lock:
            if self._let_in.get(who) != token:
                self._count(who, now)
                self._let_in[who] = token

    def _count(self, who: str, now: float) -> None:
        # Moved to the end, so that the first one is the least recent one.
        until = self._full_until.pop(who, 0.0)
        self._full_until[who] = max(until, now) + PAUSE
        if len(self._full_until) > ADDRESSES:
            quiet = next(iter(self._full_until))
            del self._full_until[quiet]
            self._let_in.pop(quiet, None)

    def _tell(self, now: float) -> None:
        if count := self._line.due(now):
            if count == 1:
                _log.warning("a wrong admin token came %s", self._latest)
            else:
                _log.warning("%d wrong admin tokens came, the latest %s", count, self._latest)


def peer_of(request: Request) -> str:
    """The address of the sender, for a log line; behind ``ProxyFix`` it comes from a header."""
    return visible((request.remote_addr or "a socket")[:100])


def whence(request: Request) -> str:
    """The address by which wrong tokens are counted. It is never used to allow access.

    Behind a proxy without ``ProxyFix`` every peer has the proxy's address. Then clients are told
    apart by the address that the proxy itself added last to ``X-Forwarded-For``, so that one who guesses
    does not lock the others out.
    """
    peer = _network(request.remote_addr or "")
    if peer is not None and not peer.is_private:
        return str(peer)
    near = str(peer) if peer is not None else (request.remote_addr or "a socket")
    hop = _network(_without_port(request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()))
    return near if hop is None else f"{hop} by way of {near}"


def _without_port(text: str) -> str:
    """Remove the port that some proxies write: ``203.0.113.9:50122``, ``[2001:db8::1]:50122``."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _network(text: str) -> IPv4Address | IPv6Address | None:
    """The address by which clients are told apart: for IPv6 the /64 network, which belongs to one
    client; an IPv4-mapped IPv6 address counts as IPv4."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv4Address):
        return found
    return found.ipv4_mapped or IPv6Address(int(found) >> 64 << 64)
