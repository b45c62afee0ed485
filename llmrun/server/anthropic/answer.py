"""Answers as Anthropic's API gives them: content blocks, and the events that build them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from llmrun.engine.protocol import Chunk, FinishReason, PrefillProgress, Usage
from llmrun.message import ToolCall

Event = dict[str, Any]

_STOPPED: dict[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "context": "model_context_window_exceeded",
    "cancelled": "end_turn",
}
_EMPTY = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}
_NOTHING = Usage(0, 0, 0, 0, 0.0, 0.0, 0)


@dataclass(slots=True)
class _Blocks:
    """The blocks of an answer, as events: what is open is the kind of the last one, None before the first."""

    index: int = -1
    open: str | None = None
    called: bool = False

    def take(self, chunk: Chunk) -> Iterator[Event]:
        """Give the events of a chunk."""
        if chunk.text:
            kind = "thinking" if chunk.thought else "text"
            if kind != self.open:
                yield from self._begin(kind, _EMPTY[kind])
            yield self._delta({"type": f"{kind}_delta", kind: chunk.text})
        for call in chunk.calls:
            yield from self._begin("tool_use", {"id": call.id, "name": call.name, "input": {}})
            yield self._delta({"type": "input_json_delta", "partial_json": _arguments(call)})
            yield from self.end()
            self.called = True

    def end(self) -> Iterator[Event]:
        """Give the end of the open block."""
        if self.open is None:
            return
        if (
            self.open == "thinking"
        ):  # by which Anthropic's own servers know their thoughts again; here nothing is signed
            yield self._delta({"type": "signature_delta", "signature": ""})
        yield {"type": "content_block_stop", "index": self.index}
        self.open = None

    def _begin(self, kind: str, content: dict[str, Any]) -> Iterator[Event]:
        yield from self.end()
        self.index += 1
        self.open = kind
        yield {"type": "content_block_start", "index": self.index, "content_block": {"type": kind} | content}

    def _delta(self, delta: dict[str, Any]) -> Event:
        return {"type": "content_block_delta", "index": self.index, "delta": delta}


@dataclass(slots=True)
class Writer:
    """Makes chunks of one answer into the events of a stream; id and model as the message has them."""

    id: str
    model: str
    begun: bool = False
    _blocks: _Blocks = field(default_factory=_Blocks)

    def wait(self) -> Iterator[Event]:
        """Give the events that only say that an answer will come."""
        yield from self._begin()
        yield {"type": "ping"}

    def take(self, chunk: Chunk, read: PrefillProgress | None = None) -> Iterator[Event]:
        """Give the events of a chunk. read: what the prompt took, if this is the first one."""
        if not self.begun:
            yield from self._begin(read)
            yield {"type": "ping"}
        yield from self._blocks.take(chunk)
        if chunk.finish_reason is None:
            return
        yield from self._blocks.end()
        reason, text = _stop_of(chunk, called=self._blocks.called)
        delta = {"stop_reason": reason, "stop_sequence": text}
        yield {"type": "message_delta", "delta": delta, "usage": usage_of(chunk.usage or _NOTHING)}
        yield {"type": "message_stop"}

    def _begin(self, read: PrefillProgress | None = None) -> Iterator[Event]:
        """Give the beginning, once; what the prompt took is told at the end too, for who waited for that long."""
        if not self.begun:
            self.begun = True
            usage = _NOTHING if read is None else Usage(read.total, read.cached, 0, 0, 0.0, 0.0, 0)
            message = _message(self.id, self.model, [], (None, None), usage)
            yield {"type": "message_start", "message": message}


def message_of(message_id: str, model: str, chunks: Iterable[Chunk]) -> dict[str, Any]:
    """Return a whole answer as a message; the last chunk has the finish reason."""
    content: list[dict[str, Any]] = []
    last = Chunk("")
    for chunk in chunks:
        last = chunk
        if chunk.text:
            kind = "thinking" if chunk.thought else "text"
            if not content or content[-1]["type"] != kind:
                content.append({"type": kind} | _EMPTY[kind])
            content[-1][kind] += chunk.text
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(_arguments(call))}
            for call in chunk.calls
        ]
    called = any(block["type"] == "tool_use" for block in content)
    return _message(message_id, model, content, _stop_of(last, called=called), last.usage or _NOTHING)


def usage_of(usage: Usage) -> dict[str, Any]:
    """Return what an answer took: what was in memory already is no input there, but read from a cache."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.thought_tokens},
    }


def _message(
    message_id: str, model: str, content: list[dict[str, Any]], stop: tuple[str | None, str | None], usage: Usage
) -> dict[str, Any]:
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": stop[0],
        "stop_sequence": stop[1],
        "usage": usage_of(usage),
    }


def _stop_of(chunk: Chunk, *, called: bool) -> tuple[str, str | None]:
    """Return why an answer ended, and which of stop_sequences it was, if any."""
    reason = chunk.finish_reason or "cancelled"
    if reason == "stop" and called:
        return "tool_use", None
    if reason == "stop" and chunk.stopped_by is not None:
        return "stop_sequence", chunk.stopped_by
    return _STOPPED[reason], None


def _arguments(call: ToolCall) -> str:
    """Return the arguments of a call as an object, as Anthropic's clients take them for."""
    return call.arguments or "{}"
