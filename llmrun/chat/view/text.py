"""Styled text in rows: what a character takes on a terminal, and where lines break. Pure; knows no Markdown.

A style is a tuple of SGR parameters (ECMA-48, 8.3.117), a span a text in one style, a row the spans of one line of the
screen.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

Style = tuple[int, ...]
Span = tuple[str, Style]
Row = tuple[Span, ...]

PLAIN: Style = ()
BOLD: Style = (1,)
DIM: Style = (2,)
ITALIC: Style = (3,)
UNDERLINED: Style = (4,)
STRUCK: Style = (9,)
_COLOURS = frozenset((*range(30, 38), *range(90, 98)))

# Scripts that are written without spaces, of wide characters: a line may break before each
_UNSPACED = (
    "\u1100-\u115f\u2e80-\u3000\u3003-\u30ff\u3105-\u9fff\ua960-\ua97f\uac00-\ud7a3\uf900-\ufaff"
    "\ufe30-\ufe4f\uff00-\uff60\uffe0-\uffe6\U00020000-\U0003fffd"
)
# but not before these, which end a phrase
_CLOSING = "\u3001\u3002\u300d\u300f\u3009\u300b\u3011\u3015\uff01\uff09\uff0c\uff0e\uff1a\uff1b\uff1f"
_PIECE = re.compile(rf"\n|[ \t]+|[{_UNSPACED}][{_CLOSING}\u0300-\u036f\u3099\u309a]*|[^ \t\n{_UNSPACED}]+")
_BREAKABLE = re.compile(rf"[{_UNSPACED}]")


@lru_cache(maxsize=8192)
def char_width(char: str) -> int:
    """Return how many cells a character takes, at most.

    Terminals disagree on emoji that are made of several characters; this counts each part, so that a row is never
    longer than it is counted.
    """
    from wcwidth import wcwidth

    if char == "\ufe0f":  # makes the sign before it an emoji, in some terminals a wide one
        return 1
    return max(wcwidth(char), 1 if unicodedata.category(char) == "Mc" else 0)


def text_width(text: str) -> int:
    """Return how many cells a text of one line takes, at most."""
    return len(text) if text.isascii() else sum(map(char_width, text))


def row_width(row: Iterable[Span]) -> int:
    """Return how many cells spans take together, at most."""
    return sum(text_width(text) for text, _ in row)


def without_colour(row: Iterable[Span]) -> Row:
    """Return a row whose styles name no colour."""
    return joined((text, tuple(code for code in style if code not in _COLOURS)) for text, style in row)


def joined(spans: Iterable[Span]) -> Row:
    """Return spans with neighbours of one style as one, and none that is empty."""
    row: list[Span] = []
    for text, style in spans:
        if row and row[-1][1] == style:
            row[-1] = (row[-1][0] + text, style)
        elif text:
            row.append((text, style))
    return tuple(row)


def stripped(row: Sequence[Span]) -> Row:
    """Return a row without spaces at its end."""
    spans = list(row)
    while spans and not spans[-1][0].rstrip(" "):
        spans.pop()
    if spans:
        spans[-1] = (spans[-1][0].rstrip(" "), spans[-1][1])
    return joined(spans)


def wrap(spans: Iterable[Span], width: int) -> list[Row]:
    """Return rows of at most `width` cells: newlines kept, words whole where they fit; at least one row.

    Spaces at a break are dropped, and those that begin a row.
    """
    lines = _Lines(max(1, width))
    for word in _words(spans):
        lines.add(word)
    return lines.ended()


def chop(spans: Iterable[Span], width: int) -> list[Row]:
    """Return rows of at most `width` cells, broken wherever they are full, every space kept; at least one row."""
    lines = _Lines(max(2, width))
    for text, style in spans:
        lines.fill([(text, style)])
    return lines.ended(strip=False)


def _words(spans: Iterable[Span]) -> Iterator[list[Span]]:
    """Texts that must not be broken, spaces and newlines; a word may be in several styles."""
    word: list[Span] = []
    for text, style in spans:
        for piece in _PIECE.findall(text):
            if word and (piece[0] in " \t\n" or _BREAKABLE.match(piece)):
                yield word
                word = []
            if piece[0] in " \t\n" or _BREAKABLE.match(piece):
                yield [(piece, style)]
            else:
                word.append((piece, style))
    if word:
        yield word


class _Lines:
    """Rows being filled."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._rows: list[Row] = []
        self._row: list[Span] = []
        self._used = 0
        self._space: Span | None = None

    def add(self, word: list[Span]) -> None:
        """Put a word, a space or a newline behind what is there."""
        first, style = word[0]
        if first == "\n":
            self._end_row()
        elif first[0] in " \t":
            self._space = (first.replace("\t", "    "), style) if self._used else None
        else:
            self._add_word(word)

    def _add_word(self, word: list[Span]) -> None:
        width = row_width(word)
        space = len(self._space[0]) if self._space else 0
        if self._used and self._used + space + width > self._width:
            self._end_row()
        elif self._space:
            self._row.append(self._space)
            self._used += space
        self._space = None
        if width > self._width:
            self.fill(word)
        else:
            self._row += word
            self._used += width

    def fill(self, spans: list[Span]) -> None:
        """Put text behind what is there, broken wherever a row is full."""
        for text, style in spans:
            if text.isascii() and self._used + len(text) <= self._width:
                self._row.append((text, style))
                self._used += len(text)
                continue
            for char in text:
                width = char_width(char)
                if self._used + width > self._width and self._used:
                    self._end_row()
                self._row.append((char, style))
                self._used += width

    def _end_row(self) -> None:
        self._rows.append(joined(self._row))
        self._row, self._used, self._space = [], 0, None

    def ended(self, *, strip: bool = True) -> list[Row]:
        self._end_row()
        return [stripped(row) if strip else row for row in self._rows]
