"""Text that is read while it is still being written: readers are generators, which yield where they need more of it.

Pure. Nothing is looked at twice, however the text is cut into pieces, so that a whole answer takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import TypeVar

from llmrun.worker.reasoning import CONTROL, first_of, held_length

BLANK = " \t\n\v\f\r"
_MAX_NESTING = 200  # brackets in brackets; what is nested deeper is no call that anybody could want

_T = TypeVar("_T")
Reading = Generator[None, None, _T]

# Between the texts of JSON: what may stand there, brackets aside. Whether it makes sense is for who parses the whole.
_BETWEEN = re.compile(r"[ \t\r\n:,0-9eE+\-.truefalsn]*")
_WITHIN_TEXT = re.compile(rf'(?:[^"\\\x00-\x1f{CONTROL}]|\\[^{CONTROL}])*')
_CLOSING = {"{": "}", "[": "]"}


class MalformedError(Exception):
    """What was written is no call after all."""


class Source:
    """What has been written and not been read; `has_ended` where nothing follows."""

    def __init__(self, *, has_ended: bool = False) -> None:
        self.text = ""
        self.has_ended = has_ended
        self._taken: list[str] = []

    def push(self, text: str) -> None:
        """Add what was written."""
        self.text += text

    def take(self, length: int) -> str:
        """Return the next characters, which count as read."""
        taken, self.text = self.text[:length], self.text[length:]
        self._taken.append(taken)
        return taken

    def taken(self) -> str:
        """Return all that was read since the last `settle`."""
        return "".join(self._taken)

    def settle(self) -> None:
        """Forget what was read: it has become a call."""
        self._taken.clear()

    def peek(self) -> Reading[str]:
        """Return the next character without reading it; "" at the end."""
        while not self.text and not self.has_ended:
            yield
        return self.text[:1]

    def skip(self, characters: str = BLANK) -> Reading[str]:
        """Read all that follows of these characters, and return it."""
        skipped = []
        while True:
            rest = self.text.lstrip(characters)
            skipped.append(self.take(len(self.text) - len(rest)))
            if rest or self.has_ended:
                return "".join(skipped)
            yield

    def ahead(self, marks: Sequence[str]) -> Reading[str]:
        """Return the longest of the marks that follows, without reading it; "" for none."""
        while not self.has_ended and any(len(self.text) < len(m) and m.startswith(self.text) for m in marks):
            yield
        return max((mark for mark in marks if self.text.startswith(mark)), key=len, default="")

    def mark(self, marks: Sequence[str]) -> Reading[str]:
        """Read the longest of the marks that follows, and return it; "" for none."""
        found = yield from self.ahead(marks)
        return self.take(len(found))

    def until(self, marks: Sequence[str], most: int | None = None) -> Reading[str]:
        """Read up to the first of the marks; raises MalformedError where none comes within `most` characters."""
        parts: list[str] = []
        length = 0
        while True:
            found = first_of(self.text, marks)
            held = 0 if found else max(held_length(self.text, mark) for mark in marks)
            certain = found[0] if found else len(self.text) - held
            if most is not None and length + certain > most:
                self.take(most - length)
                raise MalformedError
            parts.append(self.take(certain))
            length += certain
            if found:
                return "".join(parts)
            if self.has_ended:
                raise MalformedError
            yield

    def json_object(self) -> Reading[str]:
        """Read an object of JSON up to its last bracket; raises MalformedError where it can be none."""
        if (yield from self.peek()) != "{":
            raise MalformedError
        parts: list[str] = []
        closing: list[str] = []
        while True:
            parts.append(self._take_matching(_BETWEEN))
            character = yield from self.peek()
            if character == '"':
                parts.append(self.take(1))
                parts.append((yield from self._text_of_json()))
            elif character and character in "{[" and len(closing) < _MAX_NESTING:
                closing.append(_CLOSING[character])
                parts.append(self.take(1))
            elif closing and character == closing[-1]:
                closing.pop()
                parts.append(self.take(1))
                if not closing:
                    return "".join(parts)
            elif not character or not _BETWEEN.fullmatch(character):  # else it came while we waited
                raise MalformedError

    def _text_of_json(self) -> Reading[str]:
        """Read the rest of a text, its last quotation mark included."""
        parts = []
        while True:
            parts.append(self._take_matching(_WITHIN_TEXT))
            if self.text.startswith('"'):
                return "".join(parts) + self.take(1)
            if self.has_ended or self.text not in ("", "\\"):
                raise MalformedError
            yield

    def _take_matching(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text)
        return self.take(found.end() if found else 0)
