"""Tables as they are written: columns as wide as what is in them, within what the terminal has.

A new row can make a column wider, and then the whole table is painted again; so widths are taken anew only when the
number of rows has doubled and at the end, and never again once there are more rows than may still change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Literal

from llmrun.chat.view.inline import closed, spans_of
from llmrun.chat.view.leaf import Edge, Frame
from llmrun.chat.view.text import BOLD, PLAIN, UNDERLINED, Row, Span, Style, joined, row_width, wrap

Align = Literal["left", "center", "right"]

_GAP = 2  # cells between columns
_NARROWEST = 4  # cells of a column that is wrapped
_FIRST = 12  # cells of a column before there is a row to tell by

_DELIMITERS = re.compile(r" *\|?(?: *:?-+:? *\|)* *(?::?-+:? *)?")
_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
_BREAK = re.compile(r"<br */?>", re.IGNORECASE)


def parse_cells(line: str) -> list[str]:
    """Return the cells of a row; a bar in code or behind a backslash does not end one."""
    line = line.strip()
    line = line.removeprefix("|")
    cells, begin, at = [], 0, 0
    codes = {match.start(): match.end() for match in _CODE.finditer(line)} if "`" in line else {}
    while at < len(line):
        if line[at] == "|":
            cells.append(line[begin:at])
            begin = at + 1
        at = codes[at] if at in codes else at + (2 if line[at] == "\\" else 1)
    if line[begin:].strip():
        cells.append(line[begin:])
    return [cell.strip().replace("\\|", "|") for cell in cells]


def parse_aligns(line: str) -> list[Align] | None:
    """Return how columns are aligned, as the line under a table's header says; None for another line."""
    if "-" not in line or ("|" not in line and ":" not in line) or not _DELIMITERS.fullmatch(line.rstrip()):
        return None
    return [_align(cell) for cell in parse_cells(line)]


def _align(cell: str) -> Align:
    if cell.endswith(":"):
        return "center" if cell.startswith(":") else "right"
    return "left"


@dataclass(slots=True)
class Table:
    """A table; changes as it grows."""

    edge: Edge
    header: list[str]
    aligns: list[Align]
    _body: list[list[str]] = field(default_factory=list)
    _basis: int = 0  # rows that the widths are taken of
    _fixed: tuple[int, ...] | None = None  # widths of columns, once rows were given away; () is no columns
    _ended: bool = False

    def add_line(self, text: str) -> None:
        """Take in a row."""
        self._body.append(parse_cells(text))
        count = len(self._body)
        if count & (count - 1) == 0:
            self._basis = count

    def try_line(self, text: str) -> None:
        """Take in the begin of a row, which leaves widths as they are."""
        *cells, last = parse_cells(text) or [""]
        self._body.append([*cells, closed(last)])

    def end(self) -> None:
        """There will be no more rows."""
        self._basis, self._ended = len(self._body), True

    def add(self, text: str) -> None:
        """Rows come whole."""

    def open_rows(self, frame: Frame) -> list[Row]:
        """Return the rows that are not settled."""
        return self.rows(frame)

    def rows(self, frame: Frame) -> list[Row]:
        """Return the rows that are not settled."""
        widths = self._fixed if self._fixed is not None else self._widths(frame)
        rows: list[Row] = []
        if self._fixed is None:
            rows += self._laid(self.header, widths, BOLD, frame)
        for cells in self._body:
            rows += self._laid(cells, widths, PLAIN, frame)
        return self.edge.dressed(rows, frame)

    def settle(self, frame: Frame) -> list[Row]:
        """Part with everything once there are more rows than may still change."""
        if self._fixed is None:
            if len(self._body) < 2 or len(self.rows(frame)) <= frame.room // 2:
                return []
            self._basis = len(self._body)
        settled = self.rows(frame)
        self._fix(frame)
        return settled

    def _fix(self, frame: Frame) -> None:
        self._fixed = self._widths(frame) if self._fixed is None else self._fixed
        self._body = []
        self.edge = self.edge.used()

    def cut(self, frame: Frame) -> None:
        """Part with what is shown; columns stay as wide as they are."""
        self._fix(frame)

    def copy(self) -> Table:
        """Return the same table."""
        return replace(self, _body=list(self._body))

    def _widths(self, frame: Frame) -> tuple[int, ...]:
        """Cells of each column; none where there is no room for columns."""
        room = self.edge.width(frame)
        basis = [self.header, *self._body[: self._basis]]
        natural = [max(_widest(cell, frame) for cell in column) for column in zip_longest(*basis, fillvalue="")]
        if not self._basis:
            natural = [max(width, _FIRST) for width in natural[:-1]] + natural[-1:]
            natural[-1] = max(natural[-1], room - sum(natural[:-1]) - _GAP * (len(natural) - 1))
        room -= _GAP * (len(natural) - 1)
        if sum(natural) <= room:
            return tuple(natural)
        if room < _NARROWEST * len(natural):
            return ()
        return _shared(natural, room)

    def _laid(self, cells: Sequence[str], widths: tuple[int, ...], style: Style, frame: Frame) -> list[Row]:
        """One row of the table as rows of the screen."""
        if not widths or len(cells) > len(widths):
            return self._in_line(cells, style, frame)
        columns = [wrap(_cell(cell, style, frame), width) for cell, width in zip(cells, widths, strict=False)]
        lines = [list(line) for line in zip_longest(*columns, fillvalue=())]
        if style == BOLD:
            lines = [line + [()] * (len(widths) - len(line)) for line in lines]
        return [self._joined(line, widths, underlined=style == BOLD and line is lines[-1]) for line in lines]

    def _joined(self, line: list[Row], widths: tuple[int, ...], *, underlined: bool) -> Row:
        """Cells side by side, with no blanks behind the last; a line under the header's last row."""
        last = len(line) - 1 if underlined else max((i for i, cell in enumerate(line) if cell), default=0)
        spans: list[Span] = []
        for index, cell in enumerate(line[: last + 1]):
            spare = widths[index] - row_width(cell)
            align = self.aligns[index] if index < len(self.aligns) else "left"
            before = {"left": 0, "center": spare // 2, "right": spare}[align]
            spans += [(" " * before, PLAIN), *cell]
            if index < last:
                spans.append((" " * (spare - before + _GAP), PLAIN))
        return joined((text, style + UNDERLINED) for text, style in spans) if underlined else joined(spans)

    def _in_line(self, cells: Sequence[str], style: Style, frame: Frame) -> list[Row]:
        """A row whose cells have no columns: one after the other."""
        spans: list[Span] = []
        for cell in cells:
            spans += [(" │ ", PLAIN)] * bool(spans) + _cell(cell, style, frame)
        return wrap(spans, self.edge.width(frame))


def _cell(text: str, style: Style, frame: Frame) -> list[Span]:
    return list(spans_of(_BREAK.sub("\n", text), style, colour=frame.colour))


def _widest(text: str, frame: Frame) -> int:
    return max(row_width(row) for row in wrap(_cell(text, PLAIN, frame), 10**6))


def _shared(natural: Sequence[int], room: int) -> tuple[int, ...]:
    """Widths of columns: the narrow ones as they are, the others what is left in equal parts."""
    widths = list(natural)
    open_columns = sorted(range(len(widths)), key=lambda index: widths[index])
    while open_columns:
        share = room // len(open_columns)
        index = open_columns.pop(0)
        widths[index] = min(widths[index], max(1, share))
        room -= widths[index]
    return tuple(widths)
