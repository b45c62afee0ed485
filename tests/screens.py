"""A terminal to draw on, and its screen as an emulator shows it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field

import pyte
from wcwidth import wcwidth

from llmrun.chat.view.markdown import MarkdownView


@dataclass(slots=True)
class Clock:
    """Seconds, which pass when told to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class FakeTerminal:
    """Takes what is painted, and shows it (if emulated); what scrolled away is still there."""

    columns: int = 80
    lines: int = 24
    interruptions: int = 0
    emulated: bool = True  # which takes longer than all else
    painted: list[str] = field(default_factory=list)
    screen: pyte.HistoryScreen = field(init=False)
    stream: pyte.Stream = field(init=False)

    def __post_init__(self) -> None:
        self.screen = pyte.HistoryScreen(self.columns, self.lines, history=100_000, ratio=0.5)
        self.screen.set_mode(pyte.modes.LNM)  # what a terminal's driver does to newlines
        self.stream = pyte.Stream(self.screen)

    def paint(self, text: str) -> None:
        self.painted.append(text)
        if not self.emulated:
            return
        # the emulator drops what follows these characters
        self.stream.feed("".join(c for c in text if wcwidth(c) or unicodedata.combining(c) or c < " "))

    def size(self) -> tuple[int, int]:
        return self.columns, self.lines

    @property
    def written(self) -> str:
        return "".join(self.painted)

    def rows(self) -> list[str]:
        """All rows there ever were, without blanks at their end, nor blank rows at the end."""
        lines = [*self.screen.history.top, *(self.screen.buffer[y] for y in range(self.screen.lines))]
        rows = ["".join(line[x].data for x in range(self.screen.columns)).rstrip() for line in lines]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def text(self) -> str:
        return "\n".join(self.rows())

    def style(self, word: str) -> pyte.screens.Char:
        """How the first character of a word on the screen looks."""
        for y, row in enumerate(self.screen.display):
            if (x := row.find(word)) >= 0:
                return self.screen.buffer[y][x]
        raise AssertionError(f"{word!r} is not on the screen")


def show(text: str, columns: int = 80, lines: int = 24, piece: int = 5, *, emulated: bool = True) -> FakeTerminal:
    """A text shown in pieces of so many characters, with a redraw for each."""
    terminal, clock = FakeTerminal(columns, lines, emulated=emulated), Clock()
    view = MarkdownView(terminal, clock=clock)
    for begin in range(0, len(text), piece):
        clock.now += 1.0
        view.answer(text[begin : begin + piece])
    view.end()
    return terminal


def letters(text: str) -> str:
    """What words are made of, in order; composed, as the emulator does it."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFC", text)))
