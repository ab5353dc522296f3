"""Hides secrets in what people are shown: by the name of a key, at any depth, and wherever the hidden
value turns up again. Knows plain JSON values and texts, not what they mean."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

HIDDEN = "[hidden]"

DEPTH = 40
"""Levels shown of nested data; what lies deeper is left out."""

SHORTEST = 4
"""Characters of a hidden value from which on it is looked for in texts; shorter ones are everywhere."""

MOST = 200
"""Hidden values remembered for one job."""


class Redaction:
    """What is hidden of one job.

    :param words: a key that contains one of them, whatever its case and punctuation, is secret.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = tuple(word for word in map(_bare, words) if word)
        self._secrets: set[str] = set()

    def hides(self, key: object) -> bool:
        """Whether the value under this key is secret."""
        bare = _bare(str(key))
        return any(word in bare for word in self._words)

    def learn(self, value: Any, secret: bool = False, depth: int = 0) -> None:
        """Remember the secret values in plain data, so that :meth:`clean` finds them in texts too."""
        if depth > DEPTH or len(self._secrets) >= MOST:
            return
        if isinstance(value, dict):
            for key, part in value.items():
                self.learn(part, secret or self.hides(key), depth + 1)
        elif isinstance(value, list):
            for part in value:
                self.learn(part, secret, depth + 1)
        elif secret and value is not None and len(text := str(value)) >= SHORTEST:
            # A message often quotes a value the way Python or JSON writes it.
            self._secrets.update((text, repr(text)[1:-1], json.dumps(text)[1:-1]))

    def clean(self, value: Any, depth: int = 0) -> Any:
        """A copy of plain data without its secrets."""
        if isinstance(value, str):
            return self.text(value)
        if depth > DEPTH and isinstance(value, (dict, list)):
            return "[nested more deeply]"
        if isinstance(value, dict):
            cleaned = {}
            for key, part in value.items():
                cleaned[self.text(key)] = HIDDEN if self.hides(key) else self.clean(part, depth + 1)
            return cleaned
        if isinstance(value, list):
            return [self.clean(part, depth + 1) for part in value]
        return value

    def text(self, text: str) -> str:
        """A text without the secrets learnt so far."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return text


def _bare(key: str) -> str:
    return "".join(char for char in key.lower() if char.isalnum())
