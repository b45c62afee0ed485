"""The blocks that hold text, as rows: paragraphs and headings; and what is in front of their rows.

A leaf that is still being written gives the rows that may change and parts with those that will not (`settle`), so that
what has to be parsed and painted again stays small, however long the text becomes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol, Self

from llmrun.chat.view.inline import closed, is_closed, spans_of
from llmrun.chat.view.text import DIM, PLAIN, Row, Span, Style, joined, row_width, stripped, text_width, wrap

_LONGEST = 500  # characters of a paragraph that are parsed again with every redraw, at most


@dataclass(frozen=True, slots=True)
class Frame:
    """What is drawn into. width: cells of a row; room: rows that may still change, at most."""

    width: int
    room: int
    colour: bool = True


@dataclass(frozen=True, slots=True)
class Quote:
    """A block quote, as a container."""


@dataclass(frozen=True, slots=True)
class Item:
    """An item of a list, as a container. offset: columns its content is indented by."""

    marker: str
    offset: int


Container = Quote | Item


@dataclass(frozen=True, slots=True)
class Edge:
    """What is in front of a leaf's rows. fresh: how many of the containers begin with it; gap: a blank row before."""

    containers: tuple[Container, ...] = ()
    fresh: int = 0
    gap: bool = False

    def width(self, frame: Frame) -> int:
        """Return how many cells are left for the leaf."""
        return max(1, frame.width - row_width(self._prefix(frame, fresh=False)))

    def dressed(self, rows: list[Row], frame: Frame) -> list[Row]:
        """Return rows with what is in front of them."""
        if not rows:
            return []
        rest = self._prefix(frame, fresh=False)
        first = self._prefix(frame, fresh=True) if self.fresh else rest
        dressed = [stripped(joined((*(rest if index else first), *row))) for index, row in enumerate(rows)]
        outer = Edge(self.containers[: len(self.containers) - self.fresh])
        return [stripped(outer._prefix(frame, fresh=False)), *dressed] if self.gap else dressed

    def used(self) -> Edge:
        """Return what is in front of rows that follow."""
        return Edge(self.containers)

    def _prefix(self, frame: Frame, *, fresh: bool) -> Row:
        """The inner half of it where there is little room."""
        begun = len(self.containers) - self.fresh
        pieces = [_piece(c, shown=fresh and index >= begun) for index, c in enumerate(self.containers)]
        while pieces and sum(text_width(text) for text, _ in pieces) > frame.width // 2:
            del pieces[0]
        return tuple(pieces)


def _piece(container: Container, *, shown: bool) -> Span:
    if isinstance(container, Quote):
        return "│ ", DIM
    return (container.marker if shown else " " * text_width(container.marker)) + " ", PLAIN


class Leaf(Protocol):
    """A block without blocks in it."""

    edge: Edge

    def rows(self, frame: Frame) -> list[Row]:
        """Return the rows that are not settled, as they are if nothing more comes."""

    def open_rows(self, frame: Frame) -> list[Row]:
        """Return the rows that are not settled, as what will come most likely makes them."""

    def settle(self, frame: Frame) -> list[Row]:
        """Return rows that will not change, whatever comes, and part with them."""

    def add(self, text: str) -> None:
        """Take in more of the line that came last."""

    def cut(self, frame: Frame) -> None:
        """Part with all that `open_rows` has: it stays as it is."""

    def copy(self) -> Self:
        """Return the same leaf, to try something on."""


@dataclass(slots=True)
class Paragraph:
    """Text that is wrapped; changes as it grows. literal: what looks like Markdown is none; single: of one line."""

    edge: Edge
    text: str = ""
    style: Style = PLAIN
    literal: bool = False
    single: bool = False
    _lead: Row = field(default=())  # of a row that has been begun
    _begun: bool = False  # whether there were rows already

    def rows(self, frame: Frame) -> list[Row]:
        """Return the rows that are not settled."""
        return self.edge.dressed(self._body(self.text, frame), frame)

    def open_rows(self, frame: Frame) -> list[Row]:
        """Return the same with the marks that are open in it closed."""
        return self.edge.dressed(self._body(self.text, frame, guess=True), frame)

    def _body(self, text: str, frame: Frame, *, guess: bool = False) -> list[Row]:
        if not text and not self._lead and self._begun:
            return []
        text = closed(text) if guess and not self.literal else text
        spans: Row = ((text, self.style),) if self.literal else spans_of(text, self.style, colour=frame.colour)
        return wrap((*self._lead, *spans), self.edge.width(frame))

    @property
    def is_whole(self) -> bool:
        """Whether no part of it was given away."""
        return not self._begun

    def add(self, text: str) -> None:
        """Take in more of the last line."""
        self.text += text

    def add_line(self, text: str) -> None:
        """Take in another line."""
        self.text += ("\n" if self.text or self._lead else "") + text

    def settle(self, frame: Frame) -> list[Row]:
        """Part with the rows of a begin that means the same without the rest."""
        settled: list[Row] = []
        width = self.edge.width(frame)
        limit = min(_LONGEST, max(width * frame.room // 2, 40))
        lines = max(1, frame.room // 4)
        while (
            text_width(self.text[: limit + 1]) > limit
            or len(self.text) > 4 * limit  # many characters of no width
            or self.text.count("\n") > lines
        ):
            window = "\n".join(self.text[:limit].split("\n")[:lines])
            settled += self._part(window if len(window) < limit else _begin(window, literal=self.literal), frame)
        return settled

    def _part(self, begin: str, frame: Frame) -> list[Row]:
        """Part with the rows of a begin of the text but the last, which may go on."""
        body = self._body(begin, frame)
        mark = self.text[len(begin) : len(begin) + 1]
        self.text = self.text[len(begin) + len(mark if mark in (" ", "\n") else "") :]
        if mark == "\n":
            lead: Row = ()
        else:
            *body, lead = body
            lead = joined((*lead, (" ", PLAIN))) if mark == " " else lead
        settled = self.edge.dressed(body, frame)
        self._follow(lead, moved=bool(body))
        return settled

    def _follow(self, lead: Row, *, moved: bool) -> None:
        self._lead, self._begun = lead, True
        self.edge = self.edge.used() if moved else self.edge

    def cut(self, frame: Frame) -> None:
        """Part with what is shown."""
        self.cut_but_last(frame)
        self._lead, self.edge = (), self.edge.used()

    def cut_but_last(self, frame: Frame) -> None:
        """Part with what is shown but its last row, which goes on."""
        body = self._body(self.text, frame, guess=True)
        spaces = len(self.text) - len(self.text.rstrip(" "))
        self._lead = joined((*body[-1], (" " * spaces, PLAIN))) if body else ()
        self.edge = replace(self.edge, gap=False) if len(body) == 1 else self.edge.used()
        self.text, self._begun = "", True

    def copy(self) -> Paragraph:
        """Return the same paragraph."""
        return replace(self)


def _begin(window: str, *, literal: bool) -> str:
    """A begin of a text that can be shown apart from the rest, of more than a quarter of it if there is one."""
    for share in (1.0, 0.9, 0.75, 0.5, 0.35):
        part = window[: int(len(window) * share)]
        end = max(part.rfind(" "), part.rfind("\n"))
        if end > len(window) // 4 and (literal or is_closed(window[:end])):
            return window[:end]
    end = max(window.rfind(" "), window.rfind("\n"))
    return window[:end] if end > 0 else window
