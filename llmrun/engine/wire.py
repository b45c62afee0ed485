"""Messages between the two processes as frames of bytes.

A frame is four bytes of length, big-endian, and that many bytes of JSON: {"type": name, "body": {...}}, with an "id"
too where it is something about one request of many. JSON and not pickle, because a worker that has read a hostile file
must not be able to run code in its parent. Pure: no pipe is touched here.
"""

from __future__ import annotations

from typing import TypeVar, get_args

import msgspec

from llmrun import errors
from llmrun.engine.protocol import Chunk, Command, Event, Failed, PrefillProgress, TokenCounts
from llmrun.engine.sharing import Embedded, Said, Shared

_T = TypeVar("_T")
MAX_FRAME_BYTES = 64 * 1024 * 1024
_LENGTH_BYTES = 4

_TYPES: dict[str, type] = {cls.__name__: cls for cls in get_args(Command) + get_args(Event) + get_args(Shared)} | {
    Embedded.__name__: Embedded
}
_Message = Command | Event | Shared | Said


def encode(message: _Message) -> bytes:
    """Make a whole frame of a message; raises UsageError for text that is none (lone surrogates) or far too long."""
    try:
        if isinstance(message, Said):
            event = message.event
            body = msgspec.json.encode({"type": type(event).__name__, "id": message.id, "body": event})
        else:
            body = msgspec.json.encode({"type": type(message).__name__, "body": message})
    except UnicodeEncodeError as error:
        raise errors.UsageError("a message holds bytes that are not text in UTF-8") from error
    if len(body) > MAX_FRAME_BYTES:
        raise errors.UsageError(f"a message of {len(body):,} bytes is too long: at most {MAX_FRAME_BYTES:,} are taken")
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def pack(value: object) -> bytes:
    """Write one of our values for a process that has no other message to read."""
    return msgspec.json.encode(value)


def unpack(data: bytes, kind: type[_T]) -> _T:
    """Read what pack wrote."""
    return msgspec.json.decode(data, type=kind)


class FrameDecoder:
    """Bytes in whatever pieces they come, messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[_Message]:
        """Take in bytes and return the messages they complete; raises EngineError for a frame that is none."""
        self._buffer += data
        messages: list[_Message] = []
        while len(self._buffer) >= _LENGTH_BYTES:
            length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if length > MAX_FRAME_BYTES:
                raise errors.EngineError(
                    f"the engine sent a frame of {length} bytes, more than the {MAX_FRAME_BYTES} allowed"
                )
            if len(self._buffer) < _LENGTH_BYTES + length:
                break
            messages.append(_decode(bytes(self._buffer[_LENGTH_BYTES : _LENGTH_BYTES + length])))
            del self._buffer[: _LENGTH_BYTES + length]
        return messages


def _decode(body: bytes) -> _Message:
    try:
        envelope = msgspec.json.decode(body)
        cls = _TYPES[envelope["type"]]
        message: _Message = msgspec.convert(envelope["body"], cls)
        if (number := envelope.get("id")) is not None:
            return _said(int(number), message)
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise errors.EngineError(f"the engine sent something that is no message: {error}") from error
    return message


def _said(number: int, event: _Message) -> Said:
    if not isinstance(event, Chunk | PrefillProgress | TokenCounts | Embedded | Failed):
        raise TypeError(f"{type(event).__name__} is nothing that is said of a request")
    return Said(number, event)


def failure_of(error: errors.LLMRunError) -> Failed:
    """Put an error of ours into a message; a file's name in it that is no text is written with escapes."""
    hint = None if error.hint is None else as_text(error.hint)
    refusal = error.refusal if isinstance(error, errors.InsufficientMemoryError) else None
    return Failed(type(error).__name__, as_text(error.message), hint, refusal)


def as_text(text: str) -> str:
    """Return a text that UTF-8 can hold: lone surrogates, as in names that are no text, become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def error_of(failure: Failed) -> errors.LLMRunError:
    """Take the error out of the message again; a kind that is not known becomes an EngineError."""
    cls = getattr(errors, failure.kind, errors.EngineError)
    if not (isinstance(cls, type) and issubclass(cls, errors.LLMRunError)):
        cls = errors.EngineError
    if issubclass(cls, errors.InsufficientMemoryError):
        return cls(failure.message, failure.hint, failure.refusal)
    return cls(failure.message, failure.hint)
