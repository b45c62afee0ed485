"""Responses as OpenAI's clients expect them: the events of a stream, of which the last holds the whole. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from llmrun.engine.protocol import Chunk, FinishReason, Usage
from llmrun.message import ToolCall
from llmrun.server.answering import Piece
from llmrun.server.families import Problem
from llmrun.server.openai.answer import Head, format_timings, new_id
from llmrun.server.openai.response_request import ResponseRequest

Event = dict[str, Any]


def echo_of(body: ResponseRequest) -> dict[str, Any]:
    """Return what of a request its response repeats."""
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "store": False,
        "temperature": body.temperature,
        "text": {"format": {"type": "text"}} if _is_plain(body) else msgspec.to_builtins(body.text),
        "tool_choice": msgspec.to_builtins(body.tool_choice) or "auto",
        "tools": msgspec.to_builtins(body.tools or []),
        "top_p": body.top_p,
        "truncation": "disabled",
        "user": body.user,
    }


def _is_plain(body: ResponseRequest) -> bool:
    return body.text is None or body.text.format is None


@dataclass(slots=True)
class _Open:
    """A part of the output that is being written: thoughts or the message, its place and what it has so far."""

    kind: Literal["reasoning", "message"]
    id: str
    index: int
    text: str = ""

    @property
    def what(self) -> str:
        return "reasoning_text" if self.kind == "reasoning" else "output_text"

    @property
    def logprobs(self) -> dict[str, Any]:
        return {} if self.kind == "reasoning" else {"logprobs": []}

    def part(self) -> dict[str, Any]:
        extra = {} if self.kind == "reasoning" else {"annotations": list[Any](), "logprobs": list[Any]()}
        return {"type": self.what, "text": self.text, **extra}

    def item(self, status: str) -> dict[str, Any]:
        extra: dict[str, Any] = {"summary": []} if self.kind == "reasoning" else {"role": "assistant"}
        content = [] if status == "in_progress" else [self.part()]
        return {"id": self.id, "type": self.kind, "status": status, "content": content, **extra}


@dataclass(slots=True)
class ResponseStream:
    """The events of one response; remembers what was written. echo: what of the request is repeated."""

    head: Head
    echo: dict[str, Any]
    ends_with: bytes = b""
    _output: list[dict[str, Any]] = field(default_factory=list)
    _open: _Open | None = None
    _finish: FinishReason | None = None
    _usage: Usage | None = None
    _sequence: int = 0

    def format(self, piece: Piece) -> list[Event]:
        """Return the events for a part of the answer."""
        chunk, events = piece.chunk, self._begin() if self._sequence == 0 else []
        if chunk.text:
            events += self._write("reasoning" if chunk.thought else "message", chunk.text)
        for call in chunk.calls:
            events += [*self._close(), *self._call(call)]
        if chunk.finish_reason is not None:
            events += self._last(chunk)
        return events

    def end(self) -> list[Event]:
        """Return the last event, with the whole response; the answer must have ended."""
        return [self._event(f"response.{self._status}", response=self._response(self._status))]

    def fail(self, problem: Problem) -> Event:
        """Return the event that ends a response in which something went wrong."""
        code = "server_error" if problem.status >= 500 else "invalid_prompt"
        response = self._response("failed") | {"error": {"code": code, "message": problem.message}}
        return self._event("response.failed", response=response)

    @property
    def _status(self) -> Literal["completed", "incomplete"]:
        return "completed" if self._finish == "stop" else "incomplete"

    def _begin(self) -> list[Event]:
        response = self._response("in_progress")
        return [self._event(f"response.{what}", response=response) for what in ("created", "in_progress")]

    def _write(self, kind: Literal["reasoning", "message"], text: str) -> list[Event]:
        events = []
        if self._open is None or self._open.kind != kind:
            events = [*self._close(), *self._start(kind)]
        assert self._open is not None
        self._open.text += text
        return [*events, self._in_part(f"{self._open.what}.delta", delta=text, **self._open.logprobs)]

    def _start(self, kind: Literal["reasoning", "message"]) -> list[Event]:
        self._open = _Open(kind, new_id("rs" if kind == "reasoning" else "msg"), len(self._output))
        item = self._open.item("in_progress")
        return [
            self._event("response.output_item.added", output_index=self._open.index, item=item),
            self._in_part("content_part.added", part=self._open.part()),
        ]

    def _close(self) -> list[Event]:
        """Return the events that end what is being written, if anything is."""
        if self._open is None:
            return []
        done, item = self._open, self._open.item("completed" if self._finish in (None, "stop") else "incomplete")
        events = [
            self._in_part(f"{done.what}.done", text=done.text, **done.logprobs),
            self._in_part("content_part.done", part=done.part()),
            self._event("response.output_item.done", output_index=done.index, item=item),
        ]
        self._output.append(item)
        self._open = None
        return events

    def _call(self, call: ToolCall) -> list[Event]:
        index, named = len(self._output), {"call_id": call.id, "name": call.name}
        item = {
            "id": new_id("fc"),
            "type": "function_call",
            **named,
            "arguments": call.arguments,
            "status": "completed",
        }
        at = {"item_id": item["id"], "output_index": index}
        begun = item | {"arguments": "", "status": "in_progress"}
        self._output.append(item)
        what = "response.function_call_arguments"
        return [
            self._event("response.output_item.added", output_index=index, item=begun),
            self._event(f"{what}.delta", **at, delta=call.arguments),
            self._event(f"{what}.done", **at, name=call.name, arguments=call.arguments),
            self._event("response.output_item.done", output_index=index, item=item),
        ]

    def _last(self, chunk: Chunk) -> list[Event]:
        self._finish, self._usage = chunk.finish_reason, chunk.usage
        events = self._close()
        if not any(item["type"] != "reasoning" for item in self._output):  # an empty answer is an answer
            events += [*self._start("message"), *self._close()]
        return events

    def _in_part(self, name: str, **fields: Any) -> Event:
        assert self._open is not None
        where = {"item_id": self._open.id, "output_index": self._open.index, "content_index": 0}
        return self._event(f"response.{name}", **where, **fields)

    def _event(self, kind: str, **fields: Any) -> Event:
        self._sequence += 1
        return {"type": kind, "sequence_number": self._sequence - 1, **fields}

    def _response(self, status: str) -> dict[str, Any]:
        return {
            "id": self.head.id,
            "object": "response",
            "created_at": self.head.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self.head.model,
            "output": list(self._output),
            **self.echo,
            **({"usage": None} if self._usage is None else _figures(self._usage)),
        }


def _figures(usage: Usage) -> dict[str, Any]:
    counts = {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.thought_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    return {"usage": counts, "timings": format_timings(usage)}
