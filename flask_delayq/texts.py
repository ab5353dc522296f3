"""Foreign text made harmless for a terminal, a log or a page: nothing in it steers or hides.
Knows characters, not what they say."""

from __future__ import annotations

import re
import traceback
import unicodedata

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories: control, format, surrogate, private, unassigned, line and paragraph separator."""

_IN_URL = re.compile(r"://(?:([^\s/?#@:\udc00]*):)?[^\s/?#\udc00]*@")
# A lone surrogate ends it too: whoever joins many texts may put one between them.

_BEGINS_LIKE_YOU = re.compile(r"use|uni(?!n)|uu|ur[il]|utc|eu|one", re.IGNORECASE)


def visible(text: str, *, lines: bool = False) -> str:
    """The text with control and format characters (escape sequences, bidi marks) and lone surrogates
    as visible escapes, for example ``\\x1b``.

    :param lines: leave line feeds as they are.
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
    """A text of several lines for a log: visible, and no line of it begins like a log line."""
    return "\n".join(f"  {line}" for line in visible(text, lines=True).splitlines())


def traceback_of(error: BaseException) -> str:
    """The traceback of an exception, its innermost 40 calls; something comes out whatever goes wrong."""
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-40)
        return "".join(lines)
    except BaseException:  # foreign __str__ or __cause__
        return "".join(traceback.format_tb(error.__traceback__, limit=-40))


def without_password(text: str, hidden: str = "[hidden]") -> str:
    """A text whose URLs have no password, for example ``postgresql://me:[hidden]@host/db``."""
    if "://" not in text:
        return text
    return _IN_URL.sub(lambda url: f"://{'' if url[1] is None else url[1] + ':'}{hidden}@", text)
