"""From texts that clients want as vectors to the vectors, whichever of the APIs they speak."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from llmrun.engine.sharing import Embedded
from llmrun.errors import UsageError
from llmrun.server.fleet import Fleet
from llmrun.server.tally import current_tally

MOST_TEXTS = 2048  # of one request, as OpenAI's API


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
        asked = [
            asyncio.create_task(
                served.engine.embed(text, truncate=truncate)
                if isinstance(text, str)
                else served.engine.embed("", text, truncate=truncate)
            )
            for text in texts
        ]
        try:
            vectors = Vectors(served.name, tuple(await asyncio.gather(*asked)))
        finally:
            for one in asked:  # where one failed, nobody waits for the others
                one.cancel()
        tally = current_tally()
        tally.model, tally.prompt_tokens = vectors.model, vectors.n_tokens
        return vectors


def numbers_of(vector: bytes) -> list[float]:
    """Return a vector as numbers."""
    return [number for (number,) in struct.iter_unpack("<f", vector)]


def base64_of(vector: bytes) -> str:
    """Return a vector as OpenAI's clients like to have it: numbers of 32 bits, little-endian, in Base64."""
    return base64.b64encode(vector).decode()
