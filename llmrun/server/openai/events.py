"""Streams as OpenAI's clients read them: server-sent events, to an end or an error."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from llmrun.errors import LLMRunError
from llmrun.server.answering import Piece
from llmrun.server.bodies import sse
from llmrun.server.families import Problem, problem_of


class Chunks(Protocol):
    """What makes chunks of pieces. ends_with: what a stream has at its end that is no chunk."""

    ends_with: bytes

    def format(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the chunks for a part of an answer."""
        ...

    def end(self) -> list[dict[str, Any]]:
        """Return the chunks that come when all answers have ended."""
        ...

    def fail(self, problem: Problem) -> dict[str, Any]:
        """Return the chunk that comes where something went wrong."""
        ...


async def events_of(pieces: AsyncGenerator[Piece, None], chunks: Chunks) -> AsyncGenerator[bytes, None]:
    """Give the events; raises an error that comes before the first of them, sends a later one as the last event."""
    begun = False
    async with aclosing(pieces):
        try:
            async for piece in pieces:
                for event in chunks.format(piece):
                    yield _event(event)
                    begun = True
        except LLMRunError as error:
            if not begun:
                raise
            yield _event(chunks.fail(problem_of(error)))
            return
    for event in chunks.end():
        yield _event(event)
    if chunks.ends_with:
        yield chunks.ends_with


def _event(chunk: dict[str, Any]) -> bytes:
    """Return a chunk as an event, which has a name where the chunk has a type."""
    return sse(chunk, chunk.get("type"))
