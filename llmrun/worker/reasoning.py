"""What a model writes, split as it comes into thoughts and answer, by the marks that its format puts around them.

Pure: text in whatever pieces it comes, spans of text out; how it is cut into pieces changes nothing. What llama.cpp
does with a whole answer (common/chat-auto-parser-generator.cpp, common/parsers/) is done here while it is written.

Marks are control tokens in some vocabularies and ordinary text in others. A control token comes as its text with
CONTROL before it, so that a model that only writes about its marks is not taken at its word.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from llmrun.message import ToolCall

CONTROL = "\ufdef"  # a Unicode noncharacter: never assigned, so no honest text has it
_BLANK = " \t\n\v\f\r"  # isspace() of C, as llama.cpp has it
_MAX_HEADER = 200  # characters; what is longer is no header of a message

State = Literal["before", "thought", "after", "answer", "header"]


class Span(NamedTuple):
    """A piece of what was written, without marks; call: a tool that is to be called, in the place of text."""

    text: str
    thought: bool
    call: ToolCall | None = None


@dataclass(frozen=True, slots=True)
class Tags:
    """A thought between two marks before the answer: `<think>` … `</think>`.

    answer_start, answer_end: marks around the answer itself, where it has some. stray: marks that some models leave
    about, and that mean nothing there. A start that is a control token, or that can be strayed from, is one within
    the answer too.
    """

    start: str
    end: str
    answer_start: str = ""
    answer_end: str = ""
    stray: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """All its marks."""
        marks = (self.start, self.end, self.answer_start, self.answer_end, *self.stray)
        return tuple(mark for mark in marks if mark)

    @property
    def opening(self) -> str:
        """What begins a thought."""
        return self.start

    @property
    def closing(self) -> str:
        """What ends it."""
        return self.end

    def splitter(self, prompt: str, controls: Sequence[str] = ()) -> Splitter:
        """Return a splitter for what follows a prompt, which may have opened the thought or closed it already."""
        prompt = prompt.rstrip(_BLANK)
        state: State = "before"
        if prompt.endswith(self.start):
            state = "thought"
        elif prompt.endswith(self.end):
            state = "after"
        start, end, *around = (
            mark_controls(mark, controls) for mark in (self.start, self.end, self.answer_start, self.answer_end)
        )
        stray = tuple(mark_controls(mark, controls) for mark in self.stray)
        return _TagSplitter(Tags(start, end, around[0], around[1], stray), controls, state)


@dataclass(frozen=True, slots=True)
class Channels:
    """A turn of several messages, each with a header that says what it is: `<|channel|>final<|message|>` (gpt-oss).

    begins: marks that end a message and begin a header. decides: marks that end a header. answer, thought: patterns of
    whole headers, tried in this order; what follows another header is not for people. closing: what is between a
    thought and the answer. opening: nothing, as a header is more than a mark.
    """

    begins: tuple[str, ...]
    decides: tuple[str, ...]
    answer: str
    thought: str
    closing: str
    opening: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """All its marks."""
        return (*self.begins, *self.decides)

    def splitter(self, prompt: str, controls: Sequence[str] = ()) -> Splitter:
        """Return a splitter for what follows a prompt, whose last header may be open or decided already."""
        begins, decides = (tuple(mark_controls(m, controls) for m in marks) for marks in (self.begins, self.decides))
        made = _ChannelSplitter(replace(self, begins=begins, decides=decides), controls)
        last = max(prompt.rfind(mark) for mark in self.begins)
        if last >= 0:
            made.follow(mark_controls(prompt[last:], controls))
        return made


Format = Tags | Channels


def mark_controls(text: str, controls: Iterable[str]) -> str:
    """Return the text with CONTROL before each of `controls` in it."""
    pattern = _any_of(controls)
    return text if pattern is None else pattern.sub(lambda found: CONTROL + found[0], text)


class Splitter(ABC):
    """Takes text as it is written and gives out what is certain to be thought or answer."""

    def __init__(self, controls: Sequence[str], state: State) -> None:
        pattern = _any_of(controls)
        self._controls = None if pattern is None else re.compile(f"{CONTROL}(?:{pattern.pattern})")
        self._state: State = state
        self._text = ""  # what is not certain yet
        self._trim = state in ("thought", "after")  # blanks are left out until something else comes
        self._given: set[bool] = set()

    @property
    def is_answering(self) -> bool:
        """Whether what comes next belongs to the answer, as far as can be known."""
        return self._state in ("before", "answer")

    @property
    def is_thinking(self) -> bool:
        """Whether a thought, or a header that is not for people, is being written."""
        return self._state in ("thought", "header")

    def push(self, text: str) -> list[Span]:
        """Take text and return the spans that are certain now."""
        self._text += text
        spans: list[Span] = []
        while self._step(spans):
            pass
        return spans

    def finish(self) -> list[Span]:
        """Return what was held back, now that nothing follows."""
        spans: list[Span] = []
        self._end(spans)
        self._text = ""
        return spans

    @abstractmethod
    def _step(self, spans: list[Span]) -> bool:
        """Go on by one mark, or as far as is certain; returns False where that needs more text."""

    @abstractmethod
    def _end(self, spans: list[Span]) -> None:
        """Give out what is left."""

    def _enter(self, state: State, rest: str) -> bool:
        self._trim = state == "thought" or self._state != "before"
        self._state, self._text = state, rest
        return True

    def _give(self, spans: list[Span], text: str) -> None:
        """Give out text of the present state; a second thought, or a second part of an answer, is a new paragraph."""
        thought = self._state == "thought"
        if self._controls is not None and CONTROL in text:
            text = self._controls.sub("", text)
        if self._trim:
            text = text.lstrip(_BLANK)
        if not text:
            return
        if self._trim and thought in self._given:
            text = "\n\n" + text
        self._trim = False
        self._given.add(thought)
        spans.append(Span(text, thought))

    def _give_certain(self, spans: list[Span], marks: Sequence[str]) -> None:
        """Give out all that no mark can begin in; blanks at the end of a thought wait too."""
        text = self._text
        held = max((held_length(text, mark) for mark in marks), default=0)
        certain = text[: len(text) - held]
        if self._state == "thought":
            certain = certain.rstrip(_BLANK)
        if certain:
            self._text = text[len(certain) :]
            self._give(spans, certain)

    def _give_rest(self, spans: list[Span]) -> None:
        self._give(spans, self._text.rstrip(_BLANK) if self._state == "thought" else self._text)


class _TagSplitter(Splitter):
    def __init__(self, tags: Tags, controls: Sequence[str], state: State) -> None:
        super().__init__(controls, state)
        self._openings: dict[str, State | None] = dict.fromkeys(tags.stray)
        self._openings |= {tags.start: "thought", tags.end: "after"}
        self._ends = [tags.end]
        self._within_answer = [*tags.stray]
        if tags.stray or CONTROL in tags.start:
            self._within_answer.append(tags.start)
        if tags.answer_start:
            self._openings[tags.answer_start] = "answer"
            self._ends.append(tags.answer_start)
        if tags.answer_end:
            self._within_answer.append(tags.answer_end)
        self._start = tags.start

    def _step(self, spans: list[Span]) -> bool:
        match self._state:
            case "before" | "after":
                return self._open()
            case "thought":
                return self._think(spans)
            case _:
                return self._answer(spans)

    def _open(self) -> bool:
        text = self._text.lstrip(_BLANK)
        if any(len(mark) > len(text) and mark.startswith(text) for mark in self._openings):
            return False
        for mark in sorted(self._openings, key=len, reverse=True):
            if text.startswith(mark):
                return self._enter(self._openings[mark] or self._state, text[len(mark) :])
        return self._enter("answer", self._text if self._state == "before" else text)

    def _think(self, spans: list[Span]) -> bool:
        found = first_of(self._text, self._ends)
        if found is None:
            self._give_certain(spans, self._ends)
            return False
        at, mark = found
        self._give(spans, self._text[:at].rstrip(_BLANK))
        return self._enter(self._openings[mark] or "after", self._text[at + len(mark) :])

    def _answer(self, spans: list[Span]) -> bool:
        found = first_of(self._text, self._within_answer)
        if found is None:
            self._give_certain(spans, self._within_answer)
            return False
        at, mark = found
        self._give(spans, self._text[:at])
        self._text = self._text[at:]
        if mark == self._start:
            return self._enter("thought", self._text[len(mark) :])
        if (
            self._start in self._within_answer
            and len(self._text) < len(self._start)
            and self._start.startswith(self._text)
        ):
            return False  # it may become one
        self._text = self._text[len(mark) :]
        return True

    def _end(self, spans: list[Span]) -> None:
        if self._state in ("before", "after"):
            self._state = "answer"
        self._give_rest(spans)


class _ChannelSplitter(Splitter):
    def __init__(self, channels: Channels, controls: Sequence[str]) -> None:
        super().__init__(controls, "header")
        self._channels = channels
        self._hidden = False  # within a message that is not for people

    def follow(self, opening: str) -> None:
        """Take in how the prompt opens the model's turn, of which nothing is given out."""
        self.push(opening)
        self._text = ""

    def _step(self, spans: list[Span]) -> bool:
        if self._state == "header" and not self._hidden:
            return self._decide()
        found = first_of(self._text, self._channels.begins)
        if found is None:
            if not self._hidden:
                self._give_certain(spans, self._channels.begins)
            return False
        before, self._text = self._text[: found[0]], self._text[found[0] :]
        if not self._hidden:
            self._give(spans, before.rstrip(_BLANK) if self._state == "thought" else before)
        self._state, self._hidden = "header", False
        return True

    def _decide(self) -> bool:
        found = first_of(self._text, self._channels.decides)
        if found is None:
            if len(self._text) <= _MAX_HEADER:
                return False
            return self._enter("answer", self._text)  # the model does not keep to its format
        at = found[0] + len(found[1])
        header, rest = self._text[:at].replace(CONTROL, ""), self._text[at:]
        if re.fullmatch(self._channels.answer, header, re.DOTALL):
            return self._enter("answer", rest)
        if re.fullmatch(self._channels.thought, header, re.DOTALL):
            return self._enter("thought", rest)
        self._text, self._hidden = rest, True
        return True

    def _end(self, spans: list[Span]) -> None:
        if self._state == "header":
            if self._hidden or self._given or first_of(self._text, self._channels.begins):
                return
            self._state = "answer"
        self._give_rest(spans)


def first_of(text: str, marks: Iterable[str]) -> tuple[int, str] | None:
    """Return where the first of the marks begins, and which it is: the longest of those that begin there."""
    found = [(at, -len(mark), mark) for mark in marks if (at := text.find(mark)) >= 0]
    if not found:
        return None
    at, _, mark = min(found)
    return at, mark


def held_length(text: str, mark: str) -> int:
    """Return the length of the longest end of `text` that `mark` begins with and is longer than."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0


def _any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    longest_first = sorted(set(texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
