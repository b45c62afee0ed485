"""What a client of Ollama's API sends, as checked values. Pure.

Null is as good as nothing, as it is there. What is not named is passed over, as Ollama does.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

Number = int | float
Penalty = Annotated[float, Meta(ge=-2, le=2)]


class Options(Struct, kw_only=True):
    """How tokens are drawn, how many, and where the answer ends.

    num_ctx and what else Ollama loads models by is not here: the plan has decided that, and a prompt that is too long
    for it is refused, never cut.
    """

    temperature: float | None = None
    top_k: Number | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: Number | None = None
    num_predict: Number | None = None
    stop: str | list[str] | None = None
    repeat_penalty: float | None = None
    repeat_last_n: Number | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    mirostat: Number | None = None
    typical_p: float | None = None
    tfs_z: float | None = None


class Function(Struct, kw_only=True):
    """A tool; parameters: the JSON schema of its arguments."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolSpec(Struct, kw_only=True):
    """A tool, as OpenAI wraps it."""

    function: Function
    type: str | None = None


class CalledFunction(Struct, kw_only=True):
    """What was called, with what."""

    name: str
    arguments: dict[str, Any] = {}


class CallSpec(Struct, kw_only=True):
    """A call that the model asked for."""

    function: CalledFunction
    id: str | None = None


class Turn(Struct, kw_only=True):
    """A message; images are in Base64."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[CallSpec] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Common(Struct, kw_only=True):
    """What both ways to ask for an answer have; format: "json" or a JSON schema."""

    model: str
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: Options | None = None
    keep_alive: Number | str | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


class ChatRequest(Common, kw_only=True):
    """The body of a request to go on with a conversation; without messages it loads the model."""

    messages: list[Turn] | None = None
    tools: list[ToolSpec] | None = None


class GenerateRequest(Common, kw_only=True):
    """The body of a request to answer or go on with a text; without one it loads the model."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class ModelRequest(Struct, kw_only=True):
    """A body that names a model; name: how older clients do."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    verbose: bool | None = None

    @property
    def wanted(self) -> str:
        """The name, "" where there is none."""
        return self.model or self.name or ""
