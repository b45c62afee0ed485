"""chat.answering: what an engine says, on its way to the screen."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from llmrun.chat.answering import stream_answer
from llmrun.console import AnswerStyle, Console
from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk, Generate, PrefillProgress, Usage
from llmrun.errors import EngineError, WorkerDiedError
from llmrun.sampling import Sampling

USAGE = Usage(3, 0, 3, 4, 0.1, 0.2, 1)
REQUEST = Generate((), Sampling())
THINKING = (Chunk("so, ", thought=True), Chunk("hm", thought=True), Chunk("**yes"), Chunk("**", "stop", USAGE))


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass(slots=True)
class Said:
    """An answer as an engine gives it: events, then perhaps an error."""

    events: tuple[PrefillProgress | Chunk, ...]
    error: BaseException | None = None
    n_said: int = 0

    def __iter__(self) -> Iterator[PrefillProgress | Chunk]:
        return self

    def __next__(self) -> PrefillProgress | Chunk:
        self.n_said += 1
        if self.n_said <= len(self.events):
            return self.events[self.n_said - 1]
        raise StopIteration if self.error is None else self.error

    def abandon(self) -> None:
        """Nothing is left of it."""

    def cancel(self) -> None:
        """Nothing goes on that could be stopped."""


class ScriptedEngine(Engine):
    """An engine without a process, that says what it was told to."""

    def __init__(self, said: Said) -> None:
        self.said = said

    def answer(self, request: Generate) -> Said:  # type: ignore[override]
        return self.said


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_thoughts_and_answer_are_told_apart() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(style=AnswerStyle(thoughts="show"), out=out, err=err)
    answered = stream_answer(ScriptedEngine(Said(THINKING)), REQUEST, console)
    assert (answered.thoughts, answered.text, answered.finish_reason) == ("so, hm", "**yes**", "stop")
    assert (out.getvalue(), err.getvalue()) == ("**yes**", "so, hm\n\n")


def test_what_is_not_to_be_shown_is_not() -> None:
    out, err = Terminal(), Terminal()
    answered = stream_answer(ScriptedEngine(Said(THINKING)), REQUEST, Console(out=out, err=err), show=False)
    assert (answered.thoughts, out.getvalue(), err.getvalue()) == ("so, hm", "", "")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), WorkerDiedError("gone")])
def test_an_answer_that_is_broken_off_leaves_a_line_of_its_own(error: BaseException) -> None:
    out = Terminal()
    with pytest.raises(type(error)):
        stream_answer(ScriptedEngine(Said((Chunk("some **bold"),), error)), REQUEST, Console(out=out, err=Terminal()))
    assert out.getvalue().endswith("\n")
    last_style = out.getvalue().rpartition("\x1b[")[2]
    assert last_style[0] in "mK"


def test_an_answer_without_an_end_is_an_error() -> None:
    console = Console(out=io.StringIO(), err=io.StringIO())
    with pytest.raises(EngineError, match="without saying why"):
        stream_answer(ScriptedEngine(Said((Chunk("a"),))), REQUEST, console)
