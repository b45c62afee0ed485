"""What the two sides of the process wall say to each other, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llmrun import errors
from llmrun.engine.states import PromptTokens, RestoreState, SaveState, StateRestored, StateSaved
from llmrun.hardware.link import Link
from llmrun.memory.engine_memory import EngineMemory, ProjectorMemory
from llmrun.message import Message, RawPrompt, Tool, ToolCall, ToolChoice
from llmrun.planning.rates import Needs, Rates
from llmrun.planning.timing import Compare, Compared
from llmrun.sampling import NO_PENALTIES, Penalties, Sampling
from llmrun.settings import RunSettings
from llmrun.thinking import Thinking, Variables

FinishReason = Literal["stop", "length", "context", "cancelled"]


# ---- to the worker


@dataclass(frozen=True, slots=True)
class Load:
    """Load the model at `path` and make a context for it.

    A path need not be text: its bytes (os.fsencode) are written as Latin-1. most_threads: up to how many may compute
    one token, and several, as the moment allows; None is always as many as the settings say.
    """

    path: str
    settings: RunSettings
    most_threads: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like: a grammar in GBNF with a rule `root`, or a JSON schema as text.

    is_json: whether a grammar was made of a schema, so that marks of thoughts within it are text.
    """

    kind: Literal["gbnf", "json_schema"]
    text: str
    is_json: bool = False


@dataclass(frozen=True, slots=True)
class Generate:
    """Answer a conversation; max_tokens None is until the model ends or the context is full.

    stop: texts that end the answer; thoughts are not looked through for them. variables: of the chat template, as
    Thinking.choices has them.
    room: tokens of the context that the prompt must leave for the answer. shift: what the context holds of later turns
    may be moved to where the prompt has them now (worker.overlap): quick where oldest turns were dropped, but the
    answer then is not to the letter that of an engine which read the prompt anew. grammar: the answer is as it wants,
    if it ends with finish reason "stop"; every other one may have cut it off. raw: in the place of the messages. tools:
    what the model may ask for, tool_choice: whether it must. logprobs: of how many tokens beside the drawn one the log
    probability is wanted, 0 is of that alone, None of none.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    room: int = 1
    shift: bool = False
    grammar: Grammar | None = None
    variables: Variables = field(default_factory=dict)
    raw: RawPrompt | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    logprobs: int | None = None
    penalties: Penalties = NO_PENALTIES


@dataclass(frozen=True, slots=True)
class CountTokens:
    """Tell how many tokens a conversation has, without reading it; tools: as of Generate."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class Tokenize:
    """Tell the tokens of a request's prompt, of which nothing is read."""

    request: Generate


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

    needs: what is wanted; known: what need not be measured again. size: bytes of the largest models made for it. link:
    to the lender of the devices, whose time does not count; None where they are this machine's.
    """

    needs: Needs
    known: Rates
    settings: RunSettings
    size: int | None = None
    link: Link | None = None


Work = (
    Load
    | Generate
    | CountTokens
    | Tokenize
    | SaveState
    | RestoreState
    | DryRun
    | AskProjector
    | ListDevices
    | Measure
    | Compare
)
Command = Work | Cancel

# ---- from the worker


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has imported the engine; import_seconds is what that took."""

    import_seconds: float


@dataclass(frozen=True, slots=True)
class Phase:
    """What the worker does from here on, so that its death can be explained."""

    name: Literal["idle", "load", "template", "prefill", "decode", "dry_run", "devices", "measure", "state"]


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """The part of the weights that is in place, 0 to 1."""

    fraction: float


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A loaded model as it really runs.

    n_ctx: tokens, as allocated for a sequence. sampling: the file's own recommendations by GGUF key.
    template: what conversations are rendered with; notice: what a user should know about that, if anything.
    memory: the buffers as they were really allocated, None where the engine could not be read. thinking: what it can do
    about reasoning, as its template shows. vision: whether it can be shown images. n_slots: conversations at once.
    tools: the format in which it asks for tools, None where we know of none. infill: whether it can fill a gap.
    draft_memory: as memory, of the model that guesses for it, or of its own layers for that, with the weights of both;
    None also where there is none.
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
    thinking: Thinking = field(default_factory=Thinking)
    vision: bool = False
    n_slots: int = 1
    tools: str | None = None
    infill: bool = False
    draft_memory: EngineMemory | None = None


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
    the rest where that was cancelled. thought_tokens: those of completion_tokens that came before the answer.
    drafted_tokens: guesses that were verified, several in one step; accepted_tokens: those of them that were right.
    """

    prompt_tokens: int
    cached_tokens: int
    read_tokens: int
    completion_tokens: int
    prompt_seconds: float
    completion_seconds: float
    seed: int
    thought_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenProb:
    """A token that was drawn, or could have been, and its log probability before any sampling; piece: its bytes."""

    token: int
    piece: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token of the answer with its log probability, and the most probable ones in its place, the best first."""

    chosen: TokenProb
    top: tuple[TokenProb, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text of the answer, or of the thoughts before it; the last one has a finish reason and the usage.

    thought: the text is reasoning, without the marks around it. calls: tools that the model asked for, whole. drawn:
    the tokens since the last chunk, where their probabilities were asked for. stopped_by: in the last one, which of
    Generate.stop ended the answer, None where none did.
    """

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    thought: bool = False
    calls: tuple[ToolCall, ...] = ()
    drawn: tuple[Drawn, ...] = ()
    stopped_by: str | None = None


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of a conversation: of all of it as the model reads it, and of what each message says, in their order.

    What the template adds (roles, marks, a system message of its own) is the rest.
    """

    total: int
    messages: tuple[int, ...]


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
    """The part of a Measure or Compare that is done, 0 to 1."""

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


Answered = (
    TokenCounts
    | PromptTokens
    | DryRunResult
    | ProjectorAsked
    | DeviceList
    | Measured
    | Compared
    | StateSaved
    | StateRestored
)
Event = Ready | Phase | LoadProgress | Loaded | PrefillProgress | Chunk | MeasureProgress | Answered | Failed
