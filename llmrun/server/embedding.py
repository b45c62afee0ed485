"""From texts that clients want as vectors to the vectors, whichever of the APIs they speak."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from llmrun.engine.shared import SharedEngine
from llmrun.engine.sharing import Embedded
from llmrun.errors import ContextOverflowError, UsageError
from llmrun.server.fleet import Fleet
from llmrun.server.limits import most_characters
from llmrun.server.tally import current_tally

MOST_TEXTS = 2048  # of one request, as OpenAI's API
_AT_ONCE = 8  # of them with the engine, which takes texts in the order they come


@dataclass(frozen=True, slots=True)
class Vectors:
    """Texts as vectors, in their order; model: the name of what made them."""

    model: str
    found: tuple[Embedded, ...]

    @property
    def n_tokens(self) -> int:
        """How many tokens were read."""
        return sum(one.n_tokens for one in self.found)


async def embed(
    model: str,
    texts: Sequence[str | Sequence[int]],
    fleet: Fleet,
    keep_alive: float | None = None,
    *,
    truncate: bool = False,
) -> Vectors:
    """Return the vectors of texts, or of tokens in their place.

    truncate: leave out what is longer than the context, which else is an error. Raises UsageError,
    ContextOverflowError, and what loading the model raises.
    """
    if not texts or len(texts) > MOST_TEXTS:
        raise UsageError(f"{len(texts)} texts are to be embedded: 1 to {MOST_TEXTS} are taken at once")
    async with fleet.borrow(model, keep_alive) as served:
        bounded = _bounded(texts, served.engine.info.n_ctx, truncate=truncate)
        vectors = Vectors(served.name, await _embedded(bounded, served.engine, truncate=truncate))
        tally = current_tally()
        tally.model, tally.prompt_tokens = vectors.model, vectors.n_tokens
        return vectors


def _bounded(texts: Sequence[str | Sequence[int]], n_ctx: int, *, truncate: bool) -> list[str | Sequence[int]]:
    """Return texts that are worth tokenizing: no longer than any that a context holds; raises ContextOverflowError."""
    most = most_characters(n_ctx)
    for text in texts:
        if isinstance(text, str) and len(text) > most and not truncate:
            raise ContextOverflowError(
                f"a text has {len(text):,} characters, more than the context's {n_ctx:,} tokens hold",
                "divide it, or serve a longer --ctx",
            )
    return [text[:most] for text in texts]


async def _embedded(
    texts: Sequence[str | Sequence[int]], engine: SharedEngine, *, truncate: bool
) -> tuple[Embedded, ...]:
    """Return the vectors; no more texts are with the engine at once than keep it busy, so that others have a turn."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(text: str | Sequence[int]) -> Embedded:
        async with places:
            if isinstance(text, str):
                return await engine.embed(text, truncate=truncate)
            return await engine.embed("", text, truncate=truncate)

    asked = [asyncio.create_task(one(text)) for text in texts]
    try:
        return tuple(await asyncio.gather(*asked))
    finally:  # where one failed, or the client is gone, nobody waits for the others
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


def numbers_of(vector: bytes) -> list[float]:
    """Return a vector as numbers."""
    return [number for (number,) in struct.iter_unpack("<f", vector)]


def base64_of(vector: bytes) -> str:
    """Return a vector as OpenAI's clients like to have it: numbers of 32 bits, little-endian, in Base64."""
    return base64.b64encode(vector).decode()
