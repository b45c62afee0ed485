"""What is looked for in conversations, and the place in a text that shows it best. Pure."""

from __future__ import annotations

import re

_LENGTH = 160  # characters of a snippet
_BEFORE = 40  # of them before the first word that was found


def clean(text: str) -> str:
    """Return a text that can be stored: bytes that were none (they arrive as lone surrogates) become "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def words_of(text: str) -> tuple[str, ...]:
    """Return the words that are looked for, each once; NUL, at which SQLite's LIKE ends a text, divides them."""
    return tuple(dict.fromkeys(clean(text).replace("\0", " ").split()))


def match_of(word: str) -> str:
    """Return a query of FTS5 for words that begin so; quotes make everything in it text (sqlite.org/fts5.html, 3.1)."""
    return '"' + word.replace('"', '""') + '" *'


def like_of(word: str) -> str:
    r"""Return a pattern of LIKE … ESCAPE '\' for a text with this in it."""
    escaped = word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def snippet(text: str, words: tuple[str, ...]) -> str:
    """Return the part of a text in which most of the words are, on one line; its beginning, where none is."""
    line = " ".join(text.split())
    if len(line) <= _LENGTH:
        return line
    lower, wanted = line.lower(), [word.lower() for word in words]
    places = [found.start() for word in wanted for found in re.finditer(re.escape(word), lower)]

    def found_from(start: int) -> int:
        return sum(word in lower[start : start + _LENGTH] for word in wanted)

    start = max(0, max(sorted(places), key=found_from, default=0) - _BEFORE)
    part = line[start : start + _LENGTH]
    return ("…" if start else "") + part.strip() + ("…" if start + _LENGTH < len(line) else "")
