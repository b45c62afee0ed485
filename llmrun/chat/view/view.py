"""How an answer is shown: as Markdown on a terminal that can, else as it comes; and what becomes of thoughts."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from llmrun.console import Console
from llmrun.units import format_seconds

_STATUS_EVERY = 0.25  # seconds


class View(Protocol):
    """Shows one answer, in whatever pieces it comes."""

    def thought(self, text: str) -> None:
        """Show more of what the model thinks."""

    def answer(self, text: str) -> None:
        """Show more of the answer."""

    def end(self) -> None:
        """Show what is left: nothing more will come."""

    def leave(self) -> None:
        """Leave a clean terminal at once: the answer was broken off."""


def make_view(console: Console, *, clock: Callable[[], float] = monotonic) -> View:
    """Return the view that a console's style asks for, as far as what it prints to can show that."""
    view: View = PlainView(console)
    if console.style.markdown and console.shows_markdown:
        from llmrun.chat.view.markdown import MarkdownView  # only where it is drawn

        view = MarkdownView(console, colour=not os.environ.get("NO_COLOR"), clock=clock)
    return view if console.style.thoughts == "show" else FoldingView(view, console, clock=clock)


class PlainView:
    """The answer as it comes; thoughts go where talk goes, so that a pipe has the answer alone."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._thinks = False

    def thought(self, text: str) -> None:
        """Print more of what the model thinks, to stderr."""
        self._thinks = self._thinks or bool(text.strip())
        if self._thinks:
            self._console.think(text)

    def answer(self, text: str) -> None:
        """Print more of the answer."""
        if self._thinks and text.strip():
            self._thinks = False
            self._console.end_thoughts()
        self._console.answer(text)

    def end(self) -> None:
        """End the thoughts' last line; that of the answer is its caller's."""
        if self._thinks:
            self._console.end_thoughts()

    def leave(self) -> None:
        """Nothing is left open."""
        self.end()


class FoldingView:
    """Thoughts as one line that says that there are some; or, by the console's style, not at all."""

    def __init__(self, inner: View, console: Console, *, clock: Callable[[], float] = monotonic) -> None:
        self._inner, self._console, self._clock = inner, console, clock
        self._began: float | None = None
        self._words, self._in_word = 0, False
        self._told = 0.0

    def thought(self, text: str) -> None:
        """Count more of what the model thinks."""
        if self._console.style.thoughts == "hide" or (self._began is None and not text.strip()):
            return
        now = self._clock()
        if self._began is None:
            self._inner.end()
            self._began, self._told = now, now - _STATUS_EVERY
            self._words, self._in_word = 0, False
        # a piece need not be a word: what counts is where words begin
        self._words += len(text.split()) - (self._in_word and bool(text) and not text[0].isspace())
        self._in_word = not text[-1:].isspace() if text else self._in_word
        if now - self._told >= _STATUS_EVERY:
            self._told = now
            self._console.status(f"thinking… {_whole(now - self._began)}, {self._words:,} words")

    def answer(self, text: str) -> None:
        """Show more of the answer; its first words end the thoughts."""
        if text.strip():
            self._end_thoughts()
        self._inner.answer(text)

    def end(self) -> None:
        """Show what is left."""
        self._end_thoughts()
        self._inner.end()

    def leave(self) -> None:
        """Leave a clean terminal at once."""
        self._console.clear_status()
        self._inner.leave()

    def _end_thoughts(self) -> None:
        if self._began is not None:
            took = self._clock() - self._began
            self._began = None
            self._console.aside(f"thought for {_whole(took)}")


def _whole(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 10 else format_seconds(seconds)
