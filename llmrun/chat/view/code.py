"""Code as it is written: line by line, highlighted, each line settled when it is complete.

pygments reads from the begin of a text, so a begin is remembered: what came since a line where most likely nothing was
open. Its tokens take the terminal's own sixteen colours, which go with its background.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from llmrun.chat.view.leaf import Edge, Frame
from llmrun.chat.view.text import DIM, PLAIN, Row, Span, Style, chop, joined, text_width

if TYPE_CHECKING:
    from pygments.lexer import Lexer
    from pygments.token import _TokenType

_ENOUGH = 800  # characters of context from which a line that can begin one anew is looked for
_TOO_MUCH = 1500  # characters of context that are not read again, but for what is still open
_LONG_LINE = 2000  # characters of one line that are highlighted

_RED, _GREEN, _YELLOW, _BLUE, _MAGENTA, _CYAN = (31,), (32,), (33,), (34,), (35,), (36,)
_STYLES: dict[str, Style] = {
    "Comment": DIM,
    "Keyword": _MAGENTA,
    "Operator.Word": _MAGENTA,
    "Literal.String": _GREEN,
    "Literal.Number": _YELLOW,
    "Name.Function": _BLUE,
    "Name.Class": _BLUE,
    "Name.Decorator": _CYAN,
    "Name.Builtin": _CYAN,
    "Name.Tag": _BLUE,
    "Name.Attribute": _CYAN,
    "Generic.Deleted": _RED,
    "Generic.Inserted": _GREEN,
    "Generic.Heading": _BLUE,
    "Generic.Subheading": _BLUE,
}


@dataclass(slots=True)
class Code:
    """A block of code; changes as it grows. fence: the marks that end it, "" for code that is indented."""

    edge: Edge
    fence: str = ""
    info: str = ""
    indent: int = 0
    _lines: list[str] = field(default_factory=list)
    _context: str = ""
    _unended: tuple[int, Style] | None = None  # where in the context a string began that goes on, and its style
    _opened: bool = False  # whether its first row was given away
    _closed: bool = False
    _midline: bool = False

    def add_line(self, text: str) -> None:
        """Take in a line."""
        self._lines.append(text)
        self._midline = False

    def add(self, text: str) -> None:
        """Take in more of the last line."""
        if not self._midline or not self._lines:
            self._lines.append("")
        self._lines[-1] += text
        self._midline = True

    def end_line(self) -> None:
        """The last line is complete."""
        self._midline = False

    def close(self) -> None:
        """Its end was written."""
        self._closed = True

    def rows(self, frame: Frame) -> list[Row]:
        """Return the rows that are not settled."""
        end: list[Row] = [(("─" * min(4, self.edge.width(frame)), DIM),)] if self._closed else []
        return self.edge.dressed(self._body(self._highlighted(self._lines, frame), frame) + end, frame)

    def open_rows(self, frame: Frame) -> list[Row]:
        """Return the rows that are not settled, the last line's read by itself."""
        lines = self._highlighted(self._lines[:-1], frame)
        last = [self._alone(line, frame) for line in self._lines[-1:]]
        return self.edge.dressed(self._body([*lines, *last], frame), frame)

    def _body(self, lines: Iterable[Sequence[Span]], frame: Frame) -> list[Row]:
        width = self.edge.width(frame)
        head = "──── " + self.info if self.info else "────"
        rows = [] if self._opened or not self.fence else chop([(head, DIM)], width)
        return rows + [row for line in lines for row in chop(line, width)]

    def settle(self, frame: Frame) -> list[Row]:
        """Part with all complete lines, and with the full rows of one that is not."""
        begun = self._lines.pop() if self._midline and self._lines else None
        settled = self.edge.dressed(self._body(self._highlighted(self._lines, frame), frame), frame)
        self._read()
        if settled:
            self._opened, self.edge = True, self.edge.used()
        if begun is None:
            return settled
        width = self.edge.width(frame)
        if text_width(begun[: width * 4]) >= width * 3:
            *full, rest = chop([(begun, PLAIN)], width)
            settled += self.edge.dressed(full, frame)
            begun = "".join(text for text, _ in rest)
        self._lines = [begun]
        return settled

    def cut(self, frame: Frame) -> None:
        """Part with what is shown."""
        self.settle(frame)
        self._lines = []

    def copy(self) -> Code:
        """Return the same code."""
        return replace(self, _lines=list(self._lines))

    def _lexer(self) -> Lexer | None:
        return _lexer(self.info.split()[0].strip("{}.").lower()) if self.info.split() else None

    def _highlighted(self, lines: list[str], frame: Frame) -> list[list[Span]]:
        """Spans of complete lines, read after the context."""
        lexer = self._lexer() if frame.colour else None
        if lexer is None or not lines or max(map(len, lines)) > _LONG_LINE:
            return [[(line.expandtabs(4), PLAIN)] for line in lines]
        text = self._context + "".join(f"{line}\n" for line in lines)
        return list(_in_lines(_tokens(lexer, text)))[self._context.count("\n") :]

    def _alone(self, line: str, frame: Frame) -> list[Span]:
        """A line that is being written, read by itself; all of one colour where the context ends within a string."""
        lexer = self._lexer() if frame.colour else None
        if lexer is None or len(line) > _LONG_LINE:
            return [(line.expandtabs(4), PLAIN)]
        if self._unended is not None:
            return [(line.expandtabs(4), self._unended[1])]
        return next(_in_lines(_tokens(lexer, line + "\n")), [(line, PLAIN)])

    def _read(self) -> None:
        """Take the lines into the context, and of that as much as what comes needs to be read right."""
        lexer = self._lexer()
        if lexer is None or not self._lines:
            self._lines = []
            return
        self._context += "".join(f"{line}\n" for line in self._lines)
        self._lines = []
        self._unended = _unended(_tokens(lexer, self._context))
        if len(self._context) < _ENOUGH or (len(self._context) <= _TOO_MUCH and not self._context.endswith("\n\n")):
            return
        begin = self._unended[0] if self._unended else len(self._context)
        if len(self._context) - begin > 2 * _TOO_MUCH:
            begin, self._unended = len(self._context), None
        self._context = self._context[begin:]
        if self._unended:
            self._unended = 0, self._unended[1]


@lru_cache(maxsize=16)
def _lexer(name: str) -> Lexer | None:
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        return get_lexer_by_name(name, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


@lru_cache(maxsize=2)  # the lines that are drawn are those that become context
def _tokens(lexer: Lexer, text: str) -> tuple[tuple[_TokenType, str], ...]:
    return tuple(_pieces(lexer, text))


def _pieces(lexer: Lexer, text: str) -> Iterator[tuple[_TokenType, str]]:
    """The text in pieces, whatever the lexer makes of it: all of it, and nothing else."""
    at = 0
    for begin, kind, value in lexer.get_tokens_unprocessed(text):
        if begin != at:
            break
        yield kind, value
        at += len(value)
    if at < len(text):
        from pygments.token import Text

        yield Text, text[at:]


def _in_lines(tokens: Iterable[tuple[_TokenType, str]]) -> Iterator[list[Span]]:
    line: list[Span] = []
    for kind, value in tokens:
        first, *others = value.expandtabs(4).split("\n")
        style = _style(kind)
        line.append((first, style))
        for other in others:
            yield list(joined(line))
            line = [(other, style)]
    if any(text for text, _ in line):
        yield list(joined(line))


@lru_cache(maxsize=512)
def _style(kind: _TokenType) -> Style:
    names = str(kind).removeprefix("Token.").split(".")
    return next((s for n in range(len(names), 0, -1) if (s := _STYLES.get(".".join(names[:n]))) is not None), PLAIN)


def _unended(tokens: Iterable[tuple[_TokenType, str]]) -> tuple[int, Style] | None:
    """Where the string or comment began that goes on behind these tokens, and its style."""
    at, begin, style = 0, None, PLAIN
    for kind, value in tokens:
        if not str(kind).startswith(("Token.Literal.String", "Token.Comment.Multiline")):
            begin = None
        elif begin is None or _style(kind) != style:
            begin, style = at, _style(kind)
        at += len(value)
    return None if begin is None else (begin, style)
