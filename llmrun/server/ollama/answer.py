"""Answers as Ollama's API gives them: a line for each piece, or one for all of it. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from llmrun.engine.protocol import Chunk, Drawn, FinishReason, TokenProb, Usage
from llmrun.message import ToolCall

LINES = "application/x-ndjson"

Line = dict[str, Any]

_STOPPED: dict[FinishReason, str] = {"stop": "stop", "length": "length", "context": "length", "cancelled": "stop"}
_LEAST = -9999.0  # for a token that cannot come: JSON has no infinity


@dataclass(frozen=True, slots=True)
class Shape:
    """How the lines of one answer look. model: as the client named it. kind: which of the two ways asked for it."""

    model: str
    kind: Literal["chat", "generate"]

    def line(self, now: datetime, text: str = "", thoughts: str = "", calls: Sequence[ToolCall] = ()) -> Line:
        """Return a line that is not the last; now: when it was made, UTC."""
        head: Line = {"model": self.model, "created_at": written_time(now)}
        more: Line = {"thinking": thoughts} if thoughts else {}
        if calls:
            more["tool_calls"] = [_call(call, index) for index, call in enumerate(calls)]
        if self.kind == "chat":
            return head | {"message": {"role": "assistant", "content": text} | more, "done": False}
        return head | {"response": text} | more | {"done": False}


@dataclass(frozen=True, slots=True)
class Times:
    """How long the whole answer took, and of that until its model was there; nanoseconds."""

    total: int
    load: int


def line_of(shape: Shape, chunk: Chunk, now: datetime) -> Line:
    """Return the line of a chunk."""
    text, thoughts = ("", chunk.text) if chunk.thought else (chunk.text, "")
    line = shape.line(now, text, thoughts, chunk.calls)
    return line | {"logprobs": logprobs_of(chunk.drawn)} if chunk.drawn and not chunk.thought else line


def whole_of(shape: Shape, chunks: Sequence[Chunk], now: datetime) -> Line:
    """Return all of an answer as one line, without the figures of its end."""
    text = "".join(chunk.text for chunk in chunks if not chunk.thought)
    thoughts = "".join(chunk.text for chunk in chunks if chunk.thought)
    line = shape.line(now, text, thoughts, [call for chunk in chunks for call in chunk.calls])
    drawn = [token for chunk in chunks if not chunk.thought for token in chunk.drawn]
    return line | {"logprobs": logprobs_of(drawn)} if drawn else line


def ended(line: Line, last: Chunk, times: Times) -> Line:
    """Return the last line: with why the answer ended, and what it took."""
    assert last.finish_reason is not None
    assert last.usage is not None
    return line | {"done": True, "done_reason": _STOPPED[last.finish_reason]} | figures_of(last.usage, times)


def empty(shape: Shape, now: datetime, reason: Literal["load", "unload"]) -> Line:
    """Return what is answered where nothing was asked."""
    return shape.line(now) | {"done": True, "done_reason": reason}


def figures_of(usage: Usage, times: Times) -> dict[str, int]:
    """Return what an answer took: durations in nanoseconds; tokens of the prompt that were in memory count too."""
    return {
        "total_duration": times.total,
        "load_duration": times.load,
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": round(usage.prompt_seconds * 1e9),
        "eval_count": usage.completion_tokens,
        "eval_duration": round(usage.completion_seconds * 1e9),
    }


def logprobs_of(drawn: Sequence[Drawn]) -> list[dict[str, Any]]:
    """Return tokens with their log probabilities."""
    return [_token(one.chosen) | ({"top_logprobs": [_token(t) for t in one.top]} if one.top else {}) for one in drawn]


def written_time(when: datetime) -> str:
    """Return a time as Ollama writes it: RFC 3339 in UTC."""
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return what time it is."""
    return datetime.now(UTC)


def _call(call: ToolCall, index: int) -> dict[str, Any]:
    function = {"index": index, "name": call.name, "arguments": json.loads(call.arguments or "{}")}
    return {"id": call.id, "function": function}


def _token(token: TokenProb) -> dict[str, Any]:
    text = token.piece.decode("utf-8", "backslashreplace")
    return {"token": text, "logprob": max(token.logprob, _LEAST), "bytes": list(token.piece)}
