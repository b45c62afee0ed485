"""What the process that serves devices and the lender that started it say to each other: a line of JSON each. Pure."""

from __future__ import annotations

import msgspec

from llmrun.errors import EngineError

# The two questions there are; the second one costs nothing, and leaves Memory.free empty.
ASK_MEMORY, ASK_HELD = b"memory\n", b"held\n"


class Offered(msgspec.Struct, frozen=True):
    """A device as the server offers it; total: bytes that are lent at most."""

    id: str
    name: str
    backend: str
    kind: str
    total: int


class Listening(msgspec.Struct, frozen=True, tag="listening"):
    """The server answers. engine: its version; rpc: MAJOR.MINOR of the protocol."""

    engine: str
    rpc: str
    devices: tuple[Offered, ...]


class Memory(msgspec.Struct, frozen=True, tag="memory"):
    """Bytes of each device, in the order of Listening: what others have of it, and what they can have now."""

    held: tuple[int, ...]
    free: tuple[int, ...]


class NoServer(msgspec.Struct, frozen=True, tag="no_server"):
    """There will be none; usage: whether what was asked for makes no sense, and not that the engine failed."""

    message: str
    hint: str | None
    usage: bool


Word = Listening | Memory | NoServer


def encode_word(word: Word) -> bytes:
    """Return a word as a line."""
    return msgspec.json.encode(word) + b"\n"


def parse_word(line: bytes) -> Word:
    """Read a line; raises EngineError for one that is none of these."""
    try:
        word: Word = msgspec.json.decode(line, type=Word)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineError(f"the device server said what is not understood: {line[:80]!r}") from error
    return word
