"""Escapes foreign text for a terminal, a log or a page, so that it can control and hide nothing.
Knows characters, not their meaning."""

from __future__ import annotations

import re
import traceback
import unicodedata

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories: control, format, surrogate, private, unassigned, line and paragraph separator."""

_IN_URL = re.compile(r"://(?:([^\s/?#@:\udc00]*):)?[^\s/?#\udc00]*@")
# A lone surrogate ends a URL too: callers may put one between joined texts.

_BEGINS_LIKE_YOU = re.compile(r"use|uni(?!n)|uu|ur[il]|utc|eu|one", re.IGNORECASE)


def visible(text: str, *, lines: bool = False) -> str:
    """The text with control and format characters (escape sequences, bidi marks) and lone surrogates
    escaped, for example as ``\\x1b``.

    :param lines: keep line feeds.
    """
    if text.isprintable():
        return text
    if lines and "\n" in text:
        return "\n".join(visible(line) for line in text.split("\n"))
    return "".join(
        char
        if unicodedata.category(char) not in _UNSAFE
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def with_article(noun: str) -> str:
    """``a list``, ``an object``, ``a User``."""
    sounds_open = noun[:1] in set("aeiouAEIOU") and not _BEGINS_LIKE_YOU.match(noun)
    return f"{'an' if sounds_open else 'a'} {noun}"


def indented(text: str) -> str:
    """A multi-line text for a log: escaped and indented, so that no line looks like a log line."""
    return "\n".join(f"  {line}" for line in visible(text, lines=True).splitlines())


def traceback_of(error: BaseException) -> str:
    """The traceback of an exception, at most its innermost 40 calls; never raises."""
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-40)
        return "".join(lines)
    except BaseException:  # foreign __str__ or __cause__
        return "".join(traceback.format_tb(error.__traceback__, limit=-40))


def without_password(text: str, hidden: str = "[hidden]") -> str:
    """The text with the passwords of URLs hidden, for example ``postgresql://me:[hidden]@host/db``."""
    if "://" not in text:
        return text
    return _IN_URL.sub(lambda url: f"://{'' if url[1] is None else url[1] + ':'}{hidden}@", text)
