"""Hides secrets in data for people: by the name of a key, at any depth, and every other occurrence of a
hidden value. Knows plain JSON values and strings, not their meaning."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ..texts import without_password

HIDDEN = "[hidden]"

DEPTH = 40
"""Maximum depth of nested data that is shown."""

SHORTEST = 4
"""Minimum length of a hidden value that is searched for in strings; shorter ones would match
anywhere."""

WHOLE = 4
"""Words of at most this length must be a whole word of a name: ``pin`` does not match ``shipping``."""

MOST = 400
"""Maximum number of hidden values remembered for one job."""

# Lone surrogates, which no JSON string contains: the separator of strings, and the mark of a hidden
# part.
_BETWEEN = "\udc00"
_GONE = "\udc01"

_BORDERS = re.compile(r"[\W_]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_CUT = re.compile(r"(\n?\[\.\.\.\]\n?)")
"""The mark where the executor shortened a text."""

_NAMES = ("name", "key", "header", "field")
_VALUES = ("value", "val", "content")

_IN_QUERY = re.compile(r"([?&])([\w.-]{1,64})=[^\s&#'\"<>)\udc00]+")
_IN_HEADER = re.compile(
    r"\b(bearer|basic|digest|token)\s+(?=[^\s,;'\"\udc00]*[0-9])[\w.~+/=-]{6,}", re.IGNORECASE
)


class Redaction:
    """Hides the secrets of one job.

    :param words: a key is secret if it contains one of them, ignoring case and punctuation; words of
        at most :data:`WHOLE` characters must be a whole word of the key.
    """

    def __init__(self, words: Iterable[str]) -> None:
        bare = {word for word in map(_bare, words) if word}
        self._parts = tuple(word for word in bare if len(word) > WHOLE)
        self._whole = frozenset(word for word in bare if len(word) <= WHOLE)
        self._secrets: set[str] = set()
        self._hides: dict[str, bool] = {}

    def hides(self, key: object) -> bool:
        """Whether the value under this key is secret."""
        name = str(key)
        if (known := self._hides.get(name)) is None:
            known = self._hides[name] = self._is_secret(name)
        return known

    def _is_secret(self, name: str) -> bool:
        bare = _bare(name)
        if any(word in bare for word in self._parts):
            return True
        for word in _BORDERS.split(name):
            word = word.lower().rstrip("0123456789")
            if word in self._whole or (word.endswith("s") and word[:-1] in self._whole):
                return True
        return False

    def learn(self, value: Any, secret: bool = False, depth: int = 0) -> None:
        """Remember the secret values in plain data, so that :meth:`clean` finds them in strings, too."""
        if depth > DEPTH or len(self._secrets) >= MOST:
            return
        if isinstance(value, dict):
            for _, part, hidden in self._items(value):
                self.learn(part, secret or hidden, depth + 1)
        elif isinstance(value, list):
            paired = self._is_pair(value)
            for number, part in enumerate(value):
                self.learn(part, secret or (paired and number == 1), depth + 1)
        elif secret and not isinstance(value, bool) and value is not None:
            text = str(value)
            if len(text) >= SHORTEST:
                # A message often contains a value as Python or JSON writes it.
                self._secrets.update((text, repr(text)[1:-1], json.dumps(text)[1:-1]))

    def clean(self, value: Any) -> Any:
        """A copy of plain data without its secrets."""
        found: list[str] = []
        self._collect(value, found, 0)
        return self._rebuilt(value, iter(self._cleaned(found)), 0)

    def text(self, text: str) -> str:
        """A text without the secrets learnt so far, also without the rest of a shortened secret."""
        return self._cleaned(["".join(self._without_stumps(_CUT.split(text)))])[0]

    # --- the parts of data -------------------------------------------------------------------------

    def _items(self, value: dict[str, Any]) -> Iterator[tuple[str, Any, bool]]:
        """Key, part and whether it is hidden; also of ``{"name": "password", "value": ...}``."""
        named = any(isinstance(name := value.get(key), str) and self.hides(name) for key in _NAMES)
        for key, part in value.items():
            yield key, part, self.hides(key) or (named and key in _VALUES)

    def _is_pair(self, value: list[Any]) -> bool:
        """Whether it is like ``["Authorization", "..."]``."""
        return len(value) == 2 and all(isinstance(part, str) for part in value) and self.hides(value[0])

    def _collect(self, value: Any, found: list[str], depth: int) -> None:
        """All texts that :meth:`_rebuilt` will ask for, in its order."""
        if isinstance(value, str):
            found.append(value)
        elif depth > DEPTH:
            return
        elif isinstance(value, dict):
            for key, part, hidden in self._items(value):
                found.append(key)
                if not hidden:
                    self._collect(part, found, depth + 1)
        elif isinstance(value, list):
            for part in value[:1] if self._is_pair(value) else value:
                self._collect(part, found, depth + 1)

    def _rebuilt(self, value: Any, texts: Iterator[str], depth: int) -> Any:
        if isinstance(value, str):
            return next(texts)
        if not isinstance(value, (dict, list)):
            return value
        if depth > DEPTH:
            return "[nested more deeply]"
        if isinstance(value, dict):
            cleaned = {}
            for _, part, hidden in self._items(value):
                key = next(texts)
                cleaned[key] = HIDDEN if hidden else self._rebuilt(part, texts, depth + 1)
            return cleaned
        if self._is_pair(value):
            return [next(texts), HIDDEN]
        return [self._rebuilt(part, texts, depth + 1) for part in value]

    # --- texts -------------------------------------------------------------------------------------

    def _cleaned(self, texts: list[str]) -> list[str]:
        # All strings are joined: a result can have hundreds of thousands, and each secret is searched
        # for once. A hidden part becomes a character that no secret contains, so it is not found again.
        if not texts:
            return texts
        whole = _BETWEEN.join(texts)
        for secret in sorted(self._secrets, key=lambda text: (-len(text), text)):
            whole = whole.replace(secret, _GONE)
        whole = without_password(whole, _GONE)
        if "=" in whole:
            whole = _IN_QUERY.sub(self._hide_in_query, whole)
        whole = _IN_HEADER.sub(rf"\1 {_GONE}", whole)
        return whole.replace(_GONE, HIDDEN).split(_BETWEEN)

    def _hide_in_query(self, found: re.Match[str]) -> str:
        return f"{found[1]}{found[2]}={_GONE}" if self.hides(found[2]) else found[0]

    def _without_stumps(self, pieces: list[str]) -> list[str]:
        """The pieces of a shortened text (every other one is the mark of a cut) without the beginning of
        a secret before the mark and the end of a secret after it."""
        for cut in range(1, len(pieces), 2):
            before, after = pieces[cut - 1], pieces[cut + 1]
            begun = max((_overlap(before, secret) for secret in self._secrets), default=0)
            ended = max((_overlap(after[::-1], secret[::-1]) for secret in self._secrets), default=0)
            if begun:
                pieces[cut - 1] = before[:-begun] + _GONE
            if ended:
                pieces[cut + 1] = _GONE + after[ended:]
        return pieces


def _overlap(text: str, secret: str) -> int:
    """The length of the longest suffix of the text that is a prefix of the secret."""
    tail = text[-len(secret) :]
    head = secret[:SHORTEST]
    at = tail.find(head)
    while at >= 0:
        if secret.startswith(tail[at:]):
            return len(tail) - at
        at = tail.find(head, at + 1)
    return 0


def _bare(key: str) -> str:
    return "".join(char for char in key.lower() if char.isalnum())
