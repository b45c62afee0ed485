"""What the two sides say to each other where many answers are written at once: each by the number of its request.

Every request but a Withdraw ends with one last word: a Chunk with a finish reason, TokenCounts, Embedded or Failed.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmrun.engine.protocol import Chunk, CountTokens, Failed, Generate, PrefillProgress, TokenCounts


@dataclass(frozen=True, slots=True)
class Submit:
    """Answer a request beside the others. owner: what was read for one is reused for no other."""

    id: int
    owner: str
    request: Generate


@dataclass(frozen=True, slots=True)
class Count:
    """Count tokens, whether or not answers are being written."""

    id: int
    request: CountTokens


@dataclass(frozen=True, slots=True)
class Embed:
    """Turn a text into a vector.

    tokens: in its place, the model's own; truncate: leave out what the context cannot hold.
    """

    id: int
    text: str
    tokens: tuple[int, ...] = ()
    truncate: bool = False


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vector of a text, of length one: numbers of 32 bits, little-endian. n_tokens: what was read."""

    vector: bytes
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Nobody waits for this request any more: its last chunk, "cancelled", follows within one token."""

    id: int


@dataclass(frozen=True, slots=True)
class Said:
    """Something about the request of this number."""

    id: int
    event: Chunk | PrefillProgress | TokenCounts | Embedded | Failed

    @property
    def is_last(self) -> bool:
        """Whether nothing follows about this request."""
        event = self.event
        if isinstance(event, Chunk):
            return event.finish_reason is not None
        return not isinstance(event, PrefillProgress)


Shared = Submit | Count | Embed | Withdraw
