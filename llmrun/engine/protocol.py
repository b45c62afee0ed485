"""What the two sides of the process wall say to each other: frozen values, and their form on the wire.

A frame is four bytes of length, big-endian, and that many bytes of JSON: {"type": name, "body": {...}}. JSON and not
pickle, because a worker that has read a hostile file must not be able to run code in its parent. Pure: no pipe is
touched here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import msgspec

from llmrun import errors
from llmrun.memory.engine_memory import EngineMemory, ProjectorMemory
from llmrun.planning.rates import Needs, Rates
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings

MAX_FRAME_BYTES = 64 * 1024 * 1024
_LENGTH_BYTES = 4

FinishReason = Literal["stop", "length", "context", "cancelled"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; role is "system", "user" or "assistant".

    images: paths of the files of images that come before the text.
    """

    role: str
    content: str
    images: tuple[str, ...] = ()


# ---- to the worker


@dataclass(frozen=True, slots=True)
class Load:
    """Load the model at `path` and make a context for it.

    A path need not be text: its bytes (os.fsencode) are written as Latin-1.
    """

    path: str
    settings: RunSettings


@dataclass(frozen=True, slots=True)
class Generate:
    """Answer a conversation; max_tokens None is until the model ends or the context is full.

    room: tokens of the context that the prompt must leave for the answer.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    room: int = 1


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop what is going on; the answer ends with finish reason "cancelled"."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """Tell what a model would take; header is a whole GGUF header, size that of the file it would be part of.

    No weights are needed. The settings' load_mode does not matter. adapters: headers of the LoRA adapters that it would
    be run with, in the place of the settings' loras.
    """

    header: bytes
    size: int
    settings: RunSettings
    adapters: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class AskProjector:
    """Tell what a projector for images would take; header and size as of a DryRun. No weights are needed."""

    header: bytes
    size: int
    settings: RunSettings


@dataclass(frozen=True, slots=True)
class ListDevices:
    """Tell what devices there are; endpoints ("rpc:HOST:PORT") are devices of other machines to be looked at too."""

    endpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measure:
    """Measure what computing costs with the threads, batch size and devices of these settings; can be cancelled.

    needs: what is wanted; known: what need not be measured again. size: bytes of the largest models made for it.
    """

    needs: Needs
    known: Rates
    settings: RunSettings
    size: int | None = None


Work = Load | Generate | DryRun | AskProjector | ListDevices | Measure
Command = Work | Cancel

# ---- from the worker


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has imported the engine; import_seconds is what that took."""

    import_seconds: float


@dataclass(frozen=True, slots=True)
class Phase:
    """What the worker does from here on, so that its death can be explained."""

    name: Literal["idle", "load", "template", "prefill", "decode", "dry_run", "devices", "measure"]


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """The part of the weights that is in place, 0 to 1."""

    fraction: float


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A loaded model as it really runs.

    n_ctx: tokens, as allocated for a sequence. sampling: the file's own recommendations by GGUF key.
    template: what conversations are rendered with; notice: what a user should know about that, if anything.
    memory: the buffers as they were really allocated, None where the engine could not be read. vision: whether it can
    be shown images.
    """

    name: str
    architecture: str
    description: str
    size: int
    n_params: int
    n_ctx: int
    n_ctx_train: int
    template: str
    notice: str | None
    sampling: dict[str, float]
    load_seconds: float
    memory: EngineMemory | None
    vision: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model answers from here on."""

    info: ModelInfo


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """Tokens of the prompt in the KV cache, of all its tokens; the reused ones count as done from the start."""

    done: int
    total: int
    cached: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took.

    prompt_tokens is all of the conversation; of it cached_tokens were in memory and read_tokens were read, fewer than
    the rest where that was cancelled.
    """

    prompt_tokens: int
    cached_tokens: int
    read_tokens: int
    completion_tokens: int
    prompt_seconds: float
    completion_seconds: float
    seed: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text of the answer; the last one has a finish reason and the usage."""

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class DryRunResult:
    """What the model of a DryRun would take."""

    memory: EngineMemory


@dataclass(frozen=True, slots=True)
class ProjectorAsked:
    """What the projector of an AskProjector would take."""

    memory: ProjectorMemory


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device as ggml sees it; id is what RunSettings.devices calls it.

    kind: "CPU", "GPU", "IGPU" (shares the host's memory), "ACCEL" or "META". free, total: bytes as its driver says
    them; the CPU's are the machine's, whatever a container allows.
    """

    id: str
    name: str
    description: str
    backend: str
    kind: str
    free: int
    total: int


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The engine as it was built.

    version: of llama-cpp-python. folder: where its libraries lie. backends: ggml's registered ones ("CUDA", "CPU").
    system_info: llama_print_system_info, what the backends were compiled with. gpu_offload: llama.cpp's own word.
    """

    version: str
    folder: str
    backends: tuple[str, ...]
    system_info: str
    gpu_offload: bool


@dataclass(frozen=True, slots=True)
class DeviceList:
    """The devices of this machine in ggml's order, then those of the endpoints; and the engine that tells of them."""

    devices: tuple[DeviceInfo, ...]
    engine: EngineInfo | None = None


@dataclass(frozen=True, slots=True)
class MeasureProgress:
    """The part of a Measure that is done, 0 to 1."""

    fraction: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found beside what was known; None where it was cancelled."""

    rates: Rates | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The command failed with the error of class `kind` (see llmrun.errors); refusal: an InsufficientMemoryError's."""

    kind: str
    message: str
    hint: str | None = None
    refusal: errors.Refusal | None = None


Answered = DryRunResult | ProjectorAsked | DeviceList | Measured
Event = Ready | Phase | LoadProgress | Loaded | PrefillProgress | Chunk | MeasureProgress | Answered | Failed

_TYPES: dict[str, type] = {cls.__name__: cls for cls in get_args(Command) + get_args(Event)}


def encode(message: Command | Event) -> bytes:
    """Make a whole frame of a message; raises UsageError for text that is none (lone surrogates) or far too long."""
    try:
        body = msgspec.json.encode({"type": type(message).__name__, "body": message})
    except UnicodeEncodeError as error:
        raise errors.UsageError("a message holds bytes that are not text in UTF-8") from error
    if len(body) > MAX_FRAME_BYTES:
        raise errors.UsageError(f"a message of {len(body):,} bytes is too long: at most {MAX_FRAME_BYTES:,} are taken")
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class FrameDecoder:
    """Bytes in whatever pieces they come, messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Command | Event]:
        """Take in bytes and return the messages they complete; raises EngineError for a frame that is none."""
        self._buffer += data
        messages: list[Command | Event] = []
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


def _decode(body: bytes) -> Command | Event:
    try:
        envelope = msgspec.json.decode(body)
        cls = _TYPES[envelope["type"]]
        message: Command | Event = msgspec.convert(envelope["body"], cls)
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise errors.EngineError(f"the engine sent something that is no message: {error}") from error
    return message


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
