"""What a model writes as its answer, split as it comes into text and calls of tools. Pure."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llmrun.message import ToolCall
from llmrun.worker.reasoning import CONTROL, Span, first_of, held_length, mark_controls
from llmrun.worker.tools.format import ToolFormat
from llmrun.worker.tools.reading import Context
from llmrun.worker.tools.source import BLANK, MalformedError, Source

_MAX_BLANKS = 64  # before a call that are left out; a model may write blanks for ever


def new_id() -> str:
    """Return an id for a call."""
    return f"call_{secrets.token_hex(12)}"


class CallFinder:
    """Takes the text of an answer as it is written and gives out what is certain to be text, and calls when complete.

    tools: the schemas of their arguments, by name. controls: the marks that are control tokens of this vocabulary,
    which come with CONTROL before them. What begins as a call and is none comes out as the text that it is. has_ended:
    a call came that none may follow, and nothing more comes out.
    """

    def __init__(
        self,
        wanted: ToolFormat,
        tools: Mapping[str, Any],
        controls: Sequence[str] = (),
        *,
        parallel: bool = True,
        make_id: Callable[[], str] = new_id,
    ) -> None:
        self.has_ended = False
        self._format = wanted
        self._context = Context(tools, controls, make_id)
        self._starts = [mark_controls(mark, controls) for mark in wanted.starts]
        self._held = {*self._starts, *(CONTROL + mark for mark in controls)}
        pattern = "|".join(map(re.escape, sorted(controls, key=len, reverse=True)))
        self._stray = re.compile(f"{CONTROL}(?:{pattern})?")
        self._parallel = parallel
        self._text = ""  # what is not certain yet
        self._opening = ""  # of a call: what becomes text where it is none
        self._source: Source | None = None
        self._reader: Iterator[ToolCall | None] = iter(())
        self._may_be_bare = wanted.bare
        self._trim = False
        self._has_given = False
        self._is_last = False

    def push(self, text: str) -> list[Span]:
        """Take text and return what is certain now."""
        if self.has_ended:
            return []
        self._text += text
        spans: list[Span] = []
        while self._step(spans):
            pass
        return spans

    def finish(self) -> list[Span]:
        """Return what was held back, now that nothing follows."""
        self._is_last = True
        return self.push("")

    def _step(self, spans: list[Span]) -> bool:
        """Go on by one call, or as far as is certain; returns False where that needs more text."""
        if self._source is None:
            return self._look(spans)
        self._source.push(self._text)
        self._source.has_ended = self._is_last
        self._text = ""
        return self._read(self._source, spans)

    def _look(self, spans: list[Span]) -> bool:
        """Find where a call begins; returns False where none does yet."""
        if self._may_be_bare:
            rest = self._text.lstrip(BLANK)
            n_blanks = len(self._text) - len(rest)
            if not rest and n_blanks <= _MAX_BLANKS and not self._is_last:
                return False
            self._may_be_bare = False
            if rest.startswith("{") and n_blanks <= _MAX_BLANKS:
                return self._begin("", n_blanks)
        found = first_of(self._text, self._starts)
        if found is None:
            held = 0 if self._is_last else max(held_length(self._text, mark) for mark in self._held)
            end = len(self._text) - held
            end = end if self._is_last else self._before_blanks(end)
            text, self._text = self._text[:end], self._text[end:]
            self._give(spans, self._stray.sub("", text))
            return False
        at, mark = found
        end = self._before_blanks(at)
        self._give(spans, self._stray.sub("", self._text[:end]))
        self._text = self._text[end:]
        return self._begin(mark, at - end + len(mark))

    def _before_blanks(self, end: int) -> int:
        text = self._text[max(0, end - _MAX_BLANKS) : end]
        return end - (len(text) - len(text.rstrip(BLANK)))

    def _begin(self, mark: str, length: int) -> bool:
        """Read on as a call, behind the opening of this length."""
        self._may_be_bare = False
        self._opening, self._text = self._text[:length], self._text[length:]
        self._source = Source()
        self._reader = self._format.read(self._source, mark, self._context)
        return True

    def _read(self, source: Source, spans: list[Span]) -> bool:
        """Read calls; returns False where that needs more text."""
        try:
            for found in self._reader:
                if found is None:
                    return False
                spans.append(Span("", thought=False, call=found))
                self._opening = ""
                self._trim = True
                source.settle()
                if not self._parallel:
                    self.has_ended = True
                    return False
            if self._opening:
                raise MalformedError  # there was nothing between its marks
        except MalformedError:
            self._give(spans, (self._opening + source.taken()).replace(CONTROL, ""))
        self._source, self._text = None, source.text
        return True

    def _give(self, spans: list[Span], text: str) -> None:
        """Give out text; behind a call it is a new paragraph."""
        if self._trim:
            text = text.lstrip(BLANK)
        if not text:
            return
        if self._trim and self._has_given:
            text = "\n\n" + text
        self._trim = False
        self._has_given = True
        spans.append(Span(text, thought=False))
