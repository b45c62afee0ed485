"""Chat completions as clients expect them, whole or in chunks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmrun.engine.protocol import Chunk, Usage
from llmrun.message import ToolCall
from llmrun.server.answering import Piece
from llmrun.server.families import Problem, openai_error
from llmrun.server.openai.answer import DONE, Head, Whole, format_finish, format_usage, with_figures
from llmrun.server.openai.logprobs import drawn_of, format_chat_logprobs


@dataclass(frozen=True, slots=True)
class ChatShape:
    """What of an answer was asked for. usage: a stream ends with it."""

    logprobs: bool = False
    usage: bool = False


def format_chat(head: Head, answers: Sequence[Whole], shape: ChatShape) -> dict[str, Any]:
    """Return a chat completion of answers that have ended."""
    choices = [_choice(index, whole, shape) for index, whole in enumerate(answers)]
    usages = [whole.usage for whole in answers]
    return with_figures(head.of("chat.completion", choices), usages, len(usages))


def _choice(index: int, whole: Whole, shape: ChatShape) -> dict[str, Any]:
    calls = [call for chunk in whole.chunks for call in chunk.calls]
    text, thoughts = whole.text(), whole.text(thought=True)
    message: dict[str, Any] = {"role": "assistant", "content": None if calls and not text else text, "refusal": None}
    if thoughts:
        message["reasoning_content"] = thoughts
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
    logprobs = format_chat_logprobs(drawn_of(whole.chunks)) if shape.logprobs else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": whole.finish}


@dataclass(slots=True)
class ChatStream:
    """The chunks of a stream, of n answers at once: remembers which of them have begun, called and ended."""

    head: Head
    shape: ChatShape
    n: int
    ends_with: bytes = DONE
    _begun: set[int] = field(default_factory=set)
    _called: dict[int, int] = field(default_factory=dict)
    _usages: dict[int, Usage] = field(default_factory=dict)

    def format(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the chunks for a part of an answer."""
        index, chunk = piece.index, piece.chunk
        events = [] if index in self._begun else [self._event(index, {"role": "assistant", "content": ""})]
        self._begun.add(index)
        delta = self._delta(index, chunk)
        drawn = drawn_of([chunk]) if self.shape.logprobs else ()
        if delta or drawn:
            logprobs = format_chat_logprobs(drawn) if drawn else None
            events.append(self._event(index, delta or {"content": ""}, logprobs=logprobs))
        if chunk.finish_reason is not None:
            events.append(self._last(index, chunk))
        return events

    def end(self) -> list[dict[str, Any]]:
        """Return what follows when all answers have ended: what they took, if that was asked for."""
        if not self.shape.usage:
            return []
        usages = [self._usages[index] for index in sorted(self._usages)]
        return [self.head.of("chat.completion.chunk", []) | {"usage": format_usage(usages, self.n)}]

    def fail(self, problem: Problem) -> dict[str, Any]:
        """Return the chunk that comes where something went wrong."""
        return openai_error(problem)

    def _delta(self, index: int, chunk: Chunk) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if chunk.text:
            delta["reasoning_content" if chunk.thought else "content"] = chunk.text
        before = self._called.get(index, 0)
        if chunk.calls:
            self._called[index] = before + len(chunk.calls)
            delta["tool_calls"] = [_call(call) | {"index": at} for at, call in enumerate(chunk.calls, before)]
        return delta

    def _last(self, index: int, chunk: Chunk) -> dict[str, Any]:
        assert chunk.finish_reason is not None
        assert chunk.usage is not None
        self._usages[index] = chunk.usage
        event = self._event(index, {}, format_finish(chunk.finish_reason, called=index in self._called))
        figures = with_figures({}, [chunk.usage])
        return event | ({"timings": figures["timings"]} if self.n == 1 else {})

    def _event(
        self, index: int, delta: dict[str, Any], finish: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        event = self.head.of("chat.completion.chunk", [choice])
        return event | {"usage": None} if self.shape.usage else event


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
