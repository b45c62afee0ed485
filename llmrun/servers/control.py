"""What llmrun's commands and its server say to each other beside the standard APIs, as frozen values and as JSON.

Under /llmrun/, for who holds the key of the server's note. An answer comes as lines, an event of the engine each, the
last of them Phase("idle") or Failed: what ends otherwise was broken off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from llmrun.engine.protocol import Chunk, Failed, Generate, ModelInfo, Phase, PrefillProgress
from llmrun.errors import EngineError
from llmrun.gguf.summary import ModelSummary
from llmrun.message import Message
from llmrun.planning.plan import Plan

STATUS, INFO, ANSWER, COUNT = "/llmrun/status", "/llmrun/info", "/llmrun/answer", "/llmrun/count"
CANCEL, RELEASE, STOP = "/llmrun/cancel", "/llmrun/release", "/llmrun/stop"

_T = TypeVar("_T")
Line = Chunk | PrefillProgress | Phase | Failed
_LINES: dict[str, type[Line]] = {kind.__name__: kind for kind in (Chunk, PrefillProgress, Phase, Failed)}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that a server holds in memory.

    name: what it was loaded as; names: all it is known by meanwhile. memory: bytes of all pools, as planned. n_ctx:
    tokens of each conversation. busy: of n_slots conversations, how many are being answered; waiting: more that will
    be. expires_in: seconds until it is unloaded if nobody asks, None is until the memory is needed.
    """

    name: str
    names: tuple[str, ...]
    quant: str
    memory: int
    n_ctx: int
    n_slots: int
    busy: int
    waiting: int
    expires_in: float | None
    pinned: bool


@dataclass(frozen=True, slots=True)
class Status:
    """What a server has in memory now."""

    loaded: tuple[LoadedModel, ...]


@dataclass(frozen=True, slots=True)
class ModelWish:
    """A request about one model, by the name that the server has for it."""

    model: str


@dataclass(frozen=True, slots=True)
class AnswerWish:
    """A request for an answer, just as an engine gets it. Paths of images in it are those of this machine.

    id: chosen by who asks, to cancel it by.
    """

    id: str
    model: str
    request: Generate


@dataclass(frozen=True, slots=True)
class CancelWish:
    """A request to end an answer: its last line follows within one token, where it is not over."""

    id: str


@dataclass(frozen=True, slots=True)
class CountWish:
    """A request to count the tokens of a conversation."""

    model: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that answers: as it really runs, what its file says, and the plan."""

    info: ModelInfo
    summary: ModelSummary
    plan: Plan


@dataclass(frozen=True, slots=True)
class Done:
    """It is done, or will be as soon as it can be."""


def encode(value: Any) -> bytes:
    """Write a value as JSON."""
    return msgspec.json.encode(value)


def decode(data: bytes, kind: type[_T]) -> _T:
    """Read a value; raises EngineError for what is none, as from a server of another version."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineError(f"the server said what this llmrun does not understand: {error}") from error


def encode_line(line: Line) -> bytes:
    """Write an event as a line."""
    return encode({"type": type(line).__name__, "body": line}) + b"\n"


def decode_line(data: bytes) -> Line:
    """Read an event; raises EngineError for what is none."""
    envelope: dict[str, Any] = decode(data, dict[str, Any])
    try:
        return msgspec.convert(envelope["body"], _LINES[envelope["type"]])
    except (msgspec.ValidationError, KeyError, TypeError) as error:
        raise EngineError(f"the server said what this llmrun does not understand: {error}") from error
