"""Wrong tokens: slows down whoever sends many, and tells the log of all of them in one line a minute.
Knows addresses and moments; never sees a token."""

from __future__ import annotations

import logging
import threading
from ipaddress import IPv4Address, IPv6Address, ip_address

from flask import Request

from ..texts import visible

_log = logging.getLogger(__name__)

BURST = 10
"""Wrong tokens that may come from one address at once."""

PAUSE = 6.0
"""Seconds after which one more may come."""

ADDRESSES = 2000
"""Addresses remembered; beyond it the one that was quiet for the longest is forgotten."""

EVERY = 60.0
"""Seconds between two lines of the log on one matter."""


class Seldom:
    """When to write a line about something that may happen very often."""

    def __init__(self) -> None:
        self._count = 0
        self._told_at: float | None = None

    def happened(self) -> None:
        """It has happened once more."""
        self._count += 1

    def due(self, now: float) -> int:
        """How often it happened since the last line, if a line is due now; else 0."""
        if not self._count or (self._told_at is not None and now - self._told_at < EVERY):
            return 0
        count, self._count, self._told_at = self._count, 0, now
        return count


class WrongTokens:
    """The wrong tokens that came to one app in this process.

    Nobody is made to wait inside a request, which would let a few guesses hold all threads of a server:
    beyond :data:`BURST` a token from the same address is not looked at, and is answered with 429, until
    :data:`PAUSE` has gone by. Other addresses, among them the rightful owner's, do not notice.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._full_until: dict[str, float] = {}
        self._let_in: dict[str, int] = {}
        self._line = Seldom()
        self._latest = ""

    def pause(self, who: str, now: float) -> float:
        """Seconds until the next token from there is looked at; 0: at once.

        :param now: monotonic seconds.
        """
        with self._lock:
            self._tell(now)
            return max(0.0, self._full_until.get(who, 0.0) - (BURST - 1) * PAUSE - now)

    def wrong(self, who: str, path: str, now: float) -> None:
        """A wrong token came from there."""
        with self._lock:
            self._count(who, now)
            self._line.happened()
            self._latest = visible(f"from {who[:100]} for {path[:200]!r}")
            self._tell(now)

    def let_in(self, who: str, token: int, now: float) -> None:
        """A wrong token came from there, and the access function let the request in.

        It may be one of the app's own, which a client sends again and again: so the same one counts
        once, and the log is not told.

        :param token: tells it from others.
        """
        with self._lock:
            if self._let_in.get(who) != token:
                self._count(who, now)
                self._let_in[who] = token

    def _count(self, who: str, now: float) -> None:
        # Moved to the end, so that the first one is the one that was quiet for the longest.
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
    """The address that a request came from, for a line of the log: behind ``ProxyFix`` it is what a
    header said."""
    return visible((request.remote_addr or "a socket")[:100])


def whence(request: Request) -> str:
    """Where a request comes from, as far as wrong tokens are counted by it; opens nothing.

    Behind a proxy that the app was not told about, every peer has the proxy's address. Then the address
    that the proxy itself added last to ``X-Forwarded-For`` keeps people apart, so that one who guesses
    does not shut out the others.
    """
    peer = _network(request.remote_addr or "")
    if peer is not None and not peer.is_private:
        return str(peer)
    near = str(peer) if peer is not None else (request.remote_addr or "a socket")
    hop = _network(_without_port(request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()))
    return near if hop is None else f"{hop} by way of {near}"


def _without_port(text: str) -> str:
    """An address as some proxies write it: ``203.0.113.9:50122``, ``[2001:db8::1]:50122``."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _network(text: str) -> IPv4Address | IPv6Address | None:
    """An address as people are told apart by it: of IPv6 the first of its /64 network, which one person
    has; an IPv4 address that a server for both writes as one of IPv6 is one of IPv4."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv4Address):
        return found
    return found.ipv4_mapped or IPv6Address(int(found) >> 64 << 64)
