"""What all of OpenAI's answers have in common: heads, reasons to end, usage, timings. Pure."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmrun import __version__
from llmrun.engine.protocol import Chunk, FinishReason, Usage
from llmrun.server.answering import Piece

# An answer that was cut off is told as such, whatever cut it off
_FINISHED: dict[FinishReason, str] = {"stop": "stop", "length": "length", "context": "length", "cancelled": "length"}
DONE = b"data: [DONE]\n\n"  # the end of a stream of completions
FINGERPRINT = f"llmrun-{__version__}"


@dataclass(frozen=True, slots=True)
class Head:
    """What stands above every part of an answer. created: seconds since 1970."""

    id: str
    created: int
    model: str

    def of(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """Return an object of a kind with these choices."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }


def new_id(prefix: str) -> str:
    """Return an identifier that nothing else has."""
    return f"{prefix}-{uuid.uuid4().hex}"


@dataclass(slots=True)
class Whole:
    """All that has come of one answer so far, for those who want it in one piece. Changes with each chunk."""

    chunks: list[Chunk] = field(default_factory=list)

    def text(self, *, thought: bool = False) -> str:
        """Return the answer, or the thoughts before it."""
        return "".join(chunk.text for chunk in self.chunks if chunk.thought == thought)

    @property
    def usage(self) -> Usage:
        """What it took; it must have ended."""
        usage = self.chunks[-1].usage
        assert usage is not None
        return usage

    @property
    def finish(self) -> str:
        """Why it ended; it must have."""
        reason = self.chunks[-1].finish_reason
        assert reason is not None
        return format_finish(reason, called=any(chunk.calls for chunk in self.chunks))


async def wholes_of(pieces: AsyncIterator[Piece], n: int) -> list[Whole]:
    """Return n answers, each whole; raises LLMRunError as the pieces do."""
    wholes = [Whole() for _ in range(n)]
    async for piece in pieces:
        wholes[piece.index].chunks.append(piece.chunk)
    return wholes


def format_finish(reason: FinishReason, *, called: bool = False) -> str:
    """Return why an answer ended. called: whether it asked for a tool."""
    return "tool_calls" if called and reason == "stop" else _FINISHED[reason]


def format_usage(usages: Sequence[Usage], n: int = 1) -> dict[str, Any]:
    """Return what answers took together, n of them to each prompt: a prompt counts once, as at OpenAI."""
    prompts = usages[::n]
    prompt = sum(usage.prompt_tokens for usage in prompts)
    completion = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in prompts)},
        "completion_tokens_details": {"reasoning_tokens": sum(usage.thought_tokens for usage in usages)},
    }


def format_timings(usage: Usage) -> dict[str, Any]:
    """Return how fast it went, under the names that llama-server has (README of its tools/server)."""
    return {
        "cache_n": usage.cached_tokens,
        **_pace("prompt", usage.read_tokens, usage.prompt_seconds),
        **_pace("predicted", usage.completion_tokens, usage.completion_seconds),
    }


def with_figures(body: dict[str, Any], usages: Sequence[Usage], n: int = 1) -> dict[str, Any]:
    """Return an answer with its usage, and with timings where it is a single one."""
    timings = {"timings": format_timings(usages[0])} if len(usages) == 1 else {}
    return body | {"usage": format_usage(usages, n)} | timings


def _pace(what: str, tokens: int, seconds: float) -> dict[str, Any]:
    milliseconds = seconds * 1000
    return {
        f"{what}_n": tokens,
        f"{what}_ms": milliseconds,
        f"{what}_per_token_ms": milliseconds / tokens if tokens else 0.0,
        f"{what}_per_second": tokens / seconds if seconds > 0 else 0.0,
    }
