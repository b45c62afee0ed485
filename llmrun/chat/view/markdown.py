"""Markdown as it streams onto a terminal: what is open is drawn again, at most so often; what is finished never is."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Protocol

from llmrun.chat.view.blocks import Blocks
from llmrun.chat.view.leaf import Edge, Frame, Leaf, Paragraph
from llmrun.chat.view.painter import Painter
from llmrun.chat.view.table import Table
from llmrun.chat.view.text import DIM, Row, row_width, without_colour
from llmrun.console import strip_control

REDRAW_EVERY = 0.05  # seconds, at least
_SHARE = 10  # times as long as the last redraw took is waited for the next: drawing takes a tenth of a core at most
_MOST_ROWS = 40  # that may still change, however tall the terminal is
_LONG = 2000  # characters of a line that are tried out with every redraw


class Terminal(Protocol):
    """What is drawn on."""

    interruptions: int  # how often others wrote in between

    def paint(self, text: str) -> None:
        """Write text with sequences in it."""

    def size(self) -> tuple[int, int]:
        """Return columns and lines."""


class MarkdownView:
    """An answer in pieces, as Markdown on a terminal. clock: seconds."""

    def __init__(self, terminal: Terminal, *, colour: bool = True, clock: Callable[[], float] = monotonic) -> None:
        self._terminal, self._clock, self._colour = terminal, clock, colour
        self._painter = Painter(terminal.paint)
        self._size, self._interruptions = terminal.size(), terminal.interruptions
        self._blocks = Blocks()
        self._thought: Paragraph | None = None
        self._partial = ""  # of a line
        self._new = ""  # text that was not looked at
        self._next = 0.0

    def answer(self, text: str) -> None:
        """Show more of the answer."""
        text = strip_control(text)
        if self._thought is not None and text.strip():
            self._end_thought()
        self._new += text
        self._redraw_in_time()

    def thought(self, text: str) -> None:
        """Show more of what the model thinks, dimmed."""
        text = strip_control(text)
        if self._thought is None:
            if not text.strip():
                return
            if self._new or self._partial or self._blocks.leaf is not None:
                self._end_answer()
            text = text.lstrip()
            self._thought = Paragraph(self._edge(), style=DIM, literal=True)
        self._new += text
        self._redraw_in_time()

    def end(self) -> None:
        """Show all of it for good, and leave the cursor at the begin of a line."""
        if self._thought is not None:
            self._end_thought()
        self._end_answer()
        self._painter.leave()

    def leave(self) -> None:
        """Leave a clean terminal at once, whatever was being drawn."""
        if not self._painter.is_untouched:
            self._terminal.paint("\x1b[m")
            self._painter.leave()

    def _edge(self) -> Edge:
        return Edge(gap=not self._painter.is_untouched)

    def _redraw_in_time(self) -> None:
        now = self._clock()
        if now >= self._next:
            self.redraw()
            after = self._clock()
            self._next = now + max(REDRAW_EVERY, (after - now) * _SHARE)

    def redraw(self) -> None:
        """Show what has come."""
        self._look_around()
        frame = self._frame()
        if self._thought is not None:
            body = self._new.rstrip()  # blank lines that end it are not shown
            self._thought.add(body)
            self._new = self._new[len(body) :]
            self._paint(self._thought.settle(frame), self._thought.open_rows(frame))
            return
        settled = self._take_lines(frame)
        _, rows = self._tried(frame)
        if len(rows) > frame.room or len(self._partial) > _LONG:
            settled += self._begin_line(frame)
            rows = self._open_rows(frame)
        if len(rows) > frame.room and self._blocks.leaf is not None:
            self._blocks.leaf.cut(frame)
            settled, rows = settled + rows, []
        self._paint(settled, rows)

    def _frame(self) -> Frame:
        # the last column stays free: terminals disagree on where the cursor is behind it
        room = max(2, min(_MOST_ROWS, self._size[1] - 2))
        return Frame(max(1, self._size[0] - 1), room, self._colour)

    def _paint(self, settled: list[Row], rows: list[Row]) -> None:
        shown = [*settled, *rows] if self._colour else [without_colour(row) for row in (*settled, *rows)]
        self._painter.paint(shown)
        self._painter.commit(len(settled))

    def _take_lines(self, frame: Frame) -> list[Row]:
        """Take in the lines that are complete; returns rows that will not change."""
        settled: list[Row] = []
        *lines, self._partial = (self._partial + self._new).split("\n")
        self._new = ""
        for line in lines:
            settled += _ended(self._blocks.line(line), frame)
        if self._blocks.midline:
            self._blocks.more(self._partial)
            self._partial = ""
        return settled + self._settled(frame)

    def _settled(self, frame: Frame) -> list[Row]:
        return self._blocks.leaf.settle(frame) if self._blocks.leaf is not None else []

    def _open_rows(self, frame: Frame) -> list[Row]:
        return self._blocks.leaf.open_rows(frame) if self._blocks.leaf is not None else []

    def _tried(self, frame: Frame) -> tuple[Blocks, list[Row]]:
        """The blocks as they would be if the line ended here, and the rows of what is open."""
        if not self._partial or self._blocks.is_unclear(self._partial):
            return self._blocks, self._open_rows(frame)
        tried = self._blocks.copy()
        if isinstance(tried.leaf, Table) and "|" in self._partial:
            tried.leaf.try_line(self._partial)
            return tried, tried.leaf.open_rows(frame)
        rows = _ended(tried.line(self._partial), frame)
        return tried, rows + (tried.leaf.open_rows(frame) if tried.leaf is not None else [])

    def _begin_line(self, frame: Frame) -> list[Row]:
        """Take in a line's begin for good; returns rows that will not change."""
        if not self._partial:
            return []
        settled = _ended(self._blocks.begin_line(self._partial), frame)
        self._partial = ""
        return settled + self._settled(frame)

    def _look_around(self) -> None:
        """See whether what was drawn is still where it was."""
        if self._terminal.interruptions != self._interruptions:
            self._interruptions = self._terminal.interruptions
            self._part(self._frame(), keep=False)
            self._painter.forget()
        if (size := self._terminal.size()) != self._size:
            self._resize(size)

    def _resize(self, size: tuple[int, int]) -> None:
        """Go on behind what is there: where its rows are now, nobody knows, but the last one ends at the cursor."""
        before = self._frame()
        self._size = size
        after = self._frame()
        rows = self._painter.rows
        leaf = self._thought or self._tried(before)[0].leaf
        keep = (
            bool(rows)
            and isinstance(leaf, Paragraph)
            and row_width(rows[-1]) <= after.width
            and leaf.edge.width(before) - before.width == leaf.edge.width(after) - after.width
        )
        self._part(before, keep=keep)
        if keep:
            self._painter.commit(len(rows) - 1)
        elif rows:
            self._painter.leave()

    def _part(self, frame: Frame, *, keep: bool) -> None:
        """Take what is shown in a frame as settled; keep: but the last row."""
        leaf: Leaf | None = self._thought
        if leaf is None:
            if self._partial and not self._blocks.is_unclear(self._partial):
                self._begin_line(frame)
            leaf = self._blocks.leaf
        if keep and isinstance(leaf, Paragraph):
            leaf.cut_but_last(frame)
        elif leaf is not None:
            leaf.cut(frame)

    def _end_thought(self) -> None:
        self.redraw()
        self._thought, self._new = None, ""
        self._painter.commit(len(self._painter.rows))
        self._blocks = Blocks.after_rows()

    def _end_answer(self) -> None:
        self.redraw()
        frame = self._frame()
        settled = _ended(self._blocks.line(self._partial), frame) if self._partial else []
        self._paint(settled + _ended(self._blocks.end(), frame), [])
        self._partial, self._blocks = "", Blocks() if self._painter.is_untouched else Blocks.after_rows()


def _ended(leaves: list[Leaf], frame: Frame) -> list[Row]:
    """The rows of leaves that nothing is added to any more."""
    return [row for leaf in leaves for row in (*leaf.settle(frame), *leaf.rows(frame))]
