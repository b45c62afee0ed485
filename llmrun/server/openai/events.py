"""A stream of chunks as OpenAI's clients read it: server-sent events, [DONE] at the end, or an error in its place."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from llmrun.errors import LLMRunError
from llmrun.server.answering import Piece
from llmrun.server.bodies import sse
from llmrun.server.families import openai_error, problem_of

DONE = b"data: [DONE]\n\n"


class Chunks(Protocol):
    """What makes chunks of pieces."""

    def format(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the chunks for a part of an answer."""
        ...

    def end(self) -> list[dict[str, Any]]:
        """Return the chunks that come when all answers have ended."""
        ...


async def events_of(pieces: AsyncGenerator[Piece, None], chunks: Chunks) -> AsyncGenerator[bytes, None]:
    """Give the events; raises an error that comes before the first of them, sends a later one as the last event."""
    begun = False
    async with aclosing(pieces):
        try:
            async for piece in pieces:
                for event in chunks.format(piece):
                    yield sse(event)
                    begun = True
        except LLMRunError as error:
            if not begun:
                raise
            yield sse(openai_error(problem_of(error)))
            return
    for event in chunks.end():
        yield sse(event)
    yield DONE
