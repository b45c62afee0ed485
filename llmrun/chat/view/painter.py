"""Rows onto a terminal: only what changed is written, and what is finished is never touched again.

The painter knows the rows that may still change; the cursor always rests behind the last of them, in no style.
Sequences are ECMA-48's: CHA (G), CUU (A), CUD (B), CUF (C), EL (K), ED (J), SGR (m).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

from llmrun.chat.view.text import PLAIN, Row, Style, char_width, row_width

_SKIP = 6  # blanks from which moving over them takes fewer bytes than writing them


class Painter:
    """Paints rows, the last of which may be painted again. write: takes what goes to the terminal."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self.rows: list[Row] = []
        self._fresh = True  # the cursor is at the begin of an empty line
        self._at = 0  # the row the cursor is in
        self._behind = True  # and whether it is behind that row's last character

    @property
    def is_untouched(self) -> bool:
        """Whether nothing is on the screen that it knows of."""
        return self._fresh and not self.rows

    def paint(self, rows: Sequence[Row]) -> None:
        """Make the rows that may change these; the caller sees to it that all painted before are on the screen."""
        parts: list[str] = []
        for index, row in enumerate(rows):
            if index >= len(self.rows):
                parts += self._add(index, row)
            elif row != self.rows[index]:
                parts += self._change(index, row)
        if len(rows) < len(self.rows):
            parts += [*self._move(len(rows)), "\r\x1b[J"]
            self._behind, self._fresh = False, not rows
        self.rows = list(rows)
        parts += self._rest()
        if parts:
            self._write("".join(parts))

    def commit(self, count: int) -> None:
        """Never touch the first `count` rows again."""
        if count:
            self.rows = self.rows[count:]
            self._at = max(0, self._at - count)

    def leave(self) -> None:
        """End the last line, and know nothing of what is above."""
        if self.rows or not self._fresh:
            self._write("\n")
        self.forget()

    def forget(self) -> None:
        """Know nothing of what is above: somebody else wrote, and the cursor is at the begin of a line."""
        self.rows, self._fresh, self._at, self._behind = [], True, 0, True

    def _add(self, index: int, row: Row) -> list[str]:
        parts: list[str] = []
        if index or not self._fresh:
            parts = [*self._move(index - 1), "\n"] if index else ["\n"]
        self._at, self._behind, self._fresh = index, True, False
        return [*parts, _painted(row)]

    def _change(self, index: int, row: Row) -> list[str]:
        old, new = _cells(self.rows[index]), _cells(row)
        kept = _common(old, new)
        if kept == len(old) and self._at == index and self._behind:
            return [_painted_cells(new[kept:])]
        parts = self._move(index)
        if not all(_is_certain(char) for char, _ in new[:kept]):
            kept = 0
        parts.append(f"\x1b[{sum(char_width(c) for c, _ in new[:kept]) + 1}G" if kept else "\r")
        if kept < len(old):
            parts.append("\x1b[K")
        self._behind = True
        return [*parts, _painted_cells(new[kept:])]

    def _move(self, index: int) -> list[str]:
        away, self._at = index - self._at, index
        if away:
            self._behind = False
        count = "" if abs(away) == 1 else str(abs(away))
        return [f"\x1b[{count}{'B' if away > 0 else 'A'}"] if away else []

    def _rest(self) -> list[str]:
        """Bring the cursor behind the last row."""
        if not self.rows or (self._at == len(self.rows) - 1 and self._behind):
            return []
        parts = self._move(len(self.rows) - 1)
        width = row_width(self.rows[-1])
        self._behind = True
        if all(_is_certain(char) for text, _ in self.rows[-1] for char in text):
            return [*parts, f"\x1b[{width + 1}G"]
        return [*parts, "\r", _painted(self.rows[-1])]


def _cells(row: Row) -> list[tuple[str, Style]]:
    return [(char, style) for text, style in row for char in text]


def _common(old: list[tuple[str, Style]], new: list[tuple[str, Style]]) -> int:
    """How many characters may stay; a mark that belongs to the character before it goes with it."""
    kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    while 0 < kept < len(new) and kept < len(old) and not char_width(new[kept][0]):
        kept -= 1
    while 0 < kept < len(old) and not char_width(old[kept][0]):
        kept -= 1
    return kept


def _is_certain(char: str) -> bool:
    """Whether all terminals agree on a character's width; no emoji, nor signs that may become some."""
    return char.isascii() or (char_width(char) > 0 and not 0x2300 <= ord(char) < 0x2E80 and ord(char) < 0x1F000)


def _painted_cells(cells: list[tuple[str, Style]]) -> str:
    spans: list[tuple[str, Style]] = []
    for char, style in cells:
        if spans and spans[-1][1] == style:
            spans[-1] = (spans[-1][0] + char, style)
        else:
            spans.append((char, style))
    return _painted(tuple(spans))


def _painted(row: Row) -> str:
    """Text with its sequences, for cells that are blank; ends in no style."""
    parts: list[str] = []
    before = PLAIN
    for text, style in row:
        if style != before:
            codes = ";".join(map(str, style if not before or not style else (0, *style)))
            parts.append(f"\x1b[{codes}m")
            before = style
        parts.append(_skipping(text) if not style else text)
    return "".join([*parts, "\x1b[m"] if before else parts)


def _skipping(text: str) -> str:
    if " " * _SKIP not in text:
        return text
    body = text.lstrip(" ")
    lead = len(text) - len(body)
    parts = [f"\x1b[{lead}C"] if lead >= _SKIP else [" " * lead]
    word = body.rstrip(" ")
    inner, at = len(body) - len(word), 0
    while (begin := word.find(" " * _SKIP, at)) >= 0:
        end = begin
        while word[end] == " ":
            end += 1
        parts += [word[at:begin], f"\x1b[{end - begin}C"]
        at = end
    return "".join([*parts, word[at:], f"\x1b[{inner}C" if inner >= _SKIP else " " * inner])
