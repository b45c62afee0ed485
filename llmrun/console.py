"""Everything that is printed: answers and data to stdout, talk to stderr.

What reaches a terminal carries no control characters, whoever wrote it: a model, a file's metadata, a file's name.
A pipe gets the text as it is.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from llmrun.errors import LenderLostError, LLMRunError, WorkerDiedError

# C0 without newline and tab, DEL, C1: without its ESC or CSI a sequence is harmless text
_CONTROL = {code: None for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if chr(code) not in "\n\t"}


def strip_control(text: str) -> str:
    """Return a text without control characters other than newline and tab."""
    return text.translate(_CONTROL)


def one_line(text: str) -> str:
    """Return a text with everything that is not to be seen written as an escape: names from files, in lines of ours."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


@dataclass(frozen=True, slots=True)
class AnswerStyle:
    """How answers are shown. markdown: as Markdown, on a terminal that can; thoughts: what becomes of reasoning."""

    markdown: bool = True
    thoughts: Literal["show", "fold", "hide"] = "fold"


def wrapped(text: str, width: int) -> str:
    """Return a text whose lines are broken between words where they are too long for a terminal."""
    import textwrap

    lines = text.split("\n")
    if all(len(line) <= width for line in lines):
        return text
    wrap = textwrap.TextWrapper(
        width, break_long_words=False, break_on_hyphens=False, replace_whitespace=False, drop_whitespace=True
    )
    return "\n".join(row for line in lines for row in (wrap.wrap(line) if len(line) > width else [line]))


class Console:
    """Prints. quiet: no talk but errors; verbose: the engine's log as well.

    interruptions: how many lines went to the terminal between what was painted there.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        verbose: bool = False,
        style: AnswerStyle = AnswerStyle(),
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self.style = style
        self.interruptions = 0
        self._out = out or sys.stdout or _nowhere()
        self._err = err or sys.stderr or _nowhere()
        self._status = ""
        self._midline = False
        self._thinking = ""  # how what the model thinks ended

    def answer(self, text: str) -> None:
        """Print text of an answer as it comes."""
        self.clear_status()
        self._write(self._out, text)
        if text:
            self._midline = not text.endswith("\n")

    @property
    def shows_markdown(self) -> bool:
        """Whether answers go to a terminal that moves its cursor and shows what is not ASCII."""
        encoding = (self._out.encoding or "utf-8").lower().replace("-", "")
        terminal = os.environ.get("TERM", "") if os.name != "nt" else os.environ.get("WT_SESSION", "dumb")
        return self._out.isatty() and terminal != "dumb" and encoding.startswith("utf")

    def paint(self, text: str) -> None:
        """Write a view's text to the terminal as it is: it has its sequences in it, and no other control characters."""
        self.clear_status()
        self._out.write(text)
        self._out.flush()
        self._midline = not text.endswith("\n")

    def size(self) -> tuple[int, int]:
        """Return the columns and lines of the terminal that answers go to, as they are now."""
        import shutil

        try:
            columns, lines = os.get_terminal_size(self._out.fileno())
        except (OSError, ValueError):
            columns, lines = shutil.get_terminal_size()
        return columns or 80, lines or 24

    def think(self, text: str) -> None:
        """Print what the model thinks as it comes, where talk goes, even when quiet: it was asked for."""
        self._leave_line()
        self._write(self._err, text)
        self._thinking = text[-2:] if len(text) > 1 else (self._thinking + text)[-2:]

    def end_thoughts(self) -> None:
        """End the thoughts' last line, and leave a blank one behind it."""
        self._write(self._err, "\n" * (2 - len(self._thinking) + len(self._thinking.rstrip("\n"))))
        self._thinking = ""

    def aside(self, text: str) -> None:
        """Tell something of little weight: dimmed, only on a terminal, not when quiet."""
        if self._err.isatty() and not self.quiet:
            self._leave_line()
            dim, plain = ("", "") if os.environ.get("TERM") == "dumb" else ("\x1b[2m", "\x1b[m")
            self._err.write(f"{dim}{strip_control(text)}{plain}\n")
            self._err.flush()

    def end_answer(self) -> None:
        """End the answer's last line, if it is not ended."""
        self.clear_status()
        if self._midline:
            self.answer("\n")

    def data(self, value: Mapping[str, object]) -> None:
        """Print one JSON object on a line of its own."""
        import json

        self._write(self._out, json.dumps(value, ensure_ascii=self._out.isatty()) + "\n")

    def show(self, text: str) -> None:
        """Print lines that were asked for."""
        self.clear_status()
        self._write(self._out, text + "\n")

    def say(self, text: str) -> None:
        """Tell the user something, on stderr; not when quiet."""
        if not self.quiet:
            self._line(text)

    def notice(self, text: str) -> None:
        """Tell the user something about the answer that they must not miss, even when quiet."""
        self._line(text)

    def log(self, line: str) -> None:
        """Print a line of the engine's log, when verbose."""
        if self.verbose:
            self._line(line)

    def status(self, text: str) -> None:
        """Show what goes on, in a line that the next output replaces; only on a terminal, not when quiet."""
        if self.quiet or not self._err.isatty():
            return
        self._leave_line()
        self._status = strip_control(text).replace("\n", " ")[: _width() - 1]
        self._err.write(self._status)
        self._err.flush()

    @property
    def width(self) -> int:
        """Columns of the terminal, or 80."""
        return _width()

    def control(self, sequence: str) -> None:
        """Send a control sequence of ours to the terminal; nowhere, if there is none."""
        for stream in (self._out, self._err):
            if stream.isatty():
                stream.write(sequence)
                stream.flush()
                return

    def break_off(self) -> None:
        """Leave the line that Ctrl-C was typed in."""
        self.clear_status()
        if self._err.isatty():
            self._line("")

    def clear_status(self) -> None:
        """Take the status line away."""
        if self._status:
            self._err.write("\r" + " " * len(self._status) + "\r")
            self._err.flush()
            self._status = ""

    def error(self, error: LLMRunError) -> None:
        """Print an error with its hint, and the engine's last words if it died, and nobody knows better why."""
        if self._midline:
            self.end_answer()
        log = error.log if isinstance(error, WorkerDiedError) else ()
        for line in () if isinstance(error, LenderLostError) else log:
            self._line(f"engine: {line}")
        self._line(f"error: {one_line(error.message)}")
        if error.hint:
            self._line(f"hint: {one_line(error.hint)}")

    def _line(self, text: str) -> None:
        self._leave_line()
        self._write(self._err, (wrapped(text, _width()) if self._err.isatty() else text) + "\n")

    def _leave_line(self) -> None:
        """Go to a line of the terminal that no answer is in."""
        self.clear_status()
        if self._out.isatty() and self._err.isatty():
            self.interruptions += 1
            if self._midline:
                self._err.write("\n")
                self._midline = False

    def _write(self, stream: TextIO, text: str) -> None:
        stream.write(strip_control(text) if stream.isatty() else text)
        stream.flush()


def _nowhere() -> TextIO:
    """A stream for a program that was started with its own closed."""
    return Path(os.devnull).open("w")


def _width() -> int:
    import shutil

    return shutil.get_terminal_size().columns


@contextlib.contextmanager
def utf8_streams() -> Iterator[None]:
    """Make stdout and stderr take any text: UTF-8 in a file; a stand-in for what a terminal cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")
    yield


def bullet_list(items: Sequence[tuple[str, str]]) -> str:
    """Return rows of a name and a text, the texts aligned."""
    width = max((len(name) for name, _ in items), default=0)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in items)
