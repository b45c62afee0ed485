"""Completions of plain text as clients expect them, whole or in chunks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmrun.engine.protocol import Usage
from llmrun.server.answering import Piece
from llmrun.server.families import Problem, openai_error
from llmrun.server.openai.answer import DONE, Head, Whole, format_finish, format_usage, with_figures
from llmrun.server.openai.logprobs import drawn_of, format_text_logprobs


@dataclass(frozen=True, slots=True)
class TextShape:
    """What of an answer was asked for. n: answers to each prompt. echoes: what comes before those to each of them.

    usage: a stream ends with it.
    """

    n: int = 1
    logprobs: bool = False
    echoes: tuple[str, ...] = ()
    usage: bool = False

    def echo(self, index: int) -> str:
        """Return what comes before an answer, counted from 0 over all prompts."""
        return self.echoes[index // self.n] if self.echoes else ""


def format_text(head: Head, answers: Sequence[Whole], shape: TextShape) -> dict[str, Any]:
    """Return a completion of answers that have ended."""
    choices = []
    for index, whole in enumerate(answers):
        logprobs = format_text_logprobs(drawn_of(whole.chunks), 0) if shape.logprobs else None
        choices.append(_choice(index, shape.echo(index) + whole.text(), logprobs, whole.finish))
    usages = [whole.usage for whole in answers]
    return with_figures(head.of("text_completion", choices), usages, shape.n)


@dataclass(slots=True)
class TextStream:
    """The chunks of a stream, of many answers at once: remembers how far each of them is."""

    head: Head
    shape: TextShape
    ends_with: bytes = DONE
    _lengths: dict[int, int] = field(default_factory=dict)
    _usages: dict[int, Usage] = field(default_factory=dict)

    def format(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the chunks for a part of an answer."""
        index, chunk = piece.index, piece.chunk
        text = chunk.text if index in self._lengths else self.shape.echo(index) + chunk.text
        drawn = chunk.drawn if self.shape.logprobs else ()
        offset = self._lengths.setdefault(index, 0)
        self._lengths[index] += sum(len(one.chosen.piece.decode("utf-8", "backslashreplace")) for one in drawn)
        if not text and not drawn and chunk.finish_reason is None:
            return []
        finish = None if chunk.finish_reason is None else format_finish(chunk.finish_reason)
        logprobs = format_text_logprobs(drawn, offset) if drawn else None
        event = self.head.of("text_completion", [_choice(index, text, logprobs, finish)])
        if chunk.usage is not None:
            self._usages[index] = chunk.usage
        return [event | {"usage": None} if self.shape.usage else event]

    def end(self) -> list[dict[str, Any]]:
        """Return what follows when all answers have ended: what they took, if that was asked for."""
        if not self.shape.usage:
            return []
        usages = [self._usages[index] for index in sorted(self._usages)]
        return [self.head.of("text_completion", []) | {"usage": format_usage(usages, self.shape.n)}]

    def fail(self, problem: Problem) -> dict[str, Any]:
        """Return the chunk that comes where something went wrong."""
        return openai_error(problem)


def _choice(index: int, text: str, logprobs: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}
