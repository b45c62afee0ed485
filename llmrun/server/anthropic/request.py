"""What a client of Anthropic's API sends, as checked values. Pure.

What is not named here is passed over, as what cannot change an answer: cache_control, metadata, service_tier and the
like; what would change it and cannot be had is named, and refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=1)]


class _Block(Struct, tag_field="type"):
    """A part of a message's content, told apart by its type."""


class TextBlock(_Block, tag="text"):
    """Text."""

    text: str


class Base64Source(_Block, tag="base64"):
    """The bytes of an image."""

    data: str
    media_type: str = ""


class UrlSource(_Block, tag="url"):
    """Where an image would have to be fetched from."""

    url: str = ""


class FileSource(_Block, tag="file"):
    """An image that was sent before."""

    file_id: str = ""


class ImageBlock(_Block, tag="image"):
    """An image."""

    source: Base64Source | UrlSource | FileSource


class PlainTextSource(_Block, tag="text"):
    """A document's text."""

    data: str


class DocumentBlock(_Block, tag="document"):
    """A document; only text is read."""

    source: PlainTextSource | Base64Source | UrlSource | FileSource
    title: str | None = None


class ToolUseBlock(_Block, tag="tool_use"):
    """A call that the model asked for."""

    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(_Block, tag="tool_result"):
    """What came of a call."""

    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock] = ""
    is_error: bool | None = None


class ThinkingBlock(_Block, tag="thinking"):
    """Thoughts of an earlier answer, as they were given out."""

    thinking: str
    signature: str = ""


class RedactedBlock(_Block, tag="redacted_thinking"):
    """Thoughts that another server gave out so that only itself can read them."""


Block = TextBlock | ImageBlock | DocumentBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedBlock


class Turn(Struct):
    """A message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class ToolSpec(Struct):
    """A tool; type: None and "custom" are the client's own, others would run on Anthropic's machines."""

    name: str
    input_schema: dict[str, Any] = {}
    description: str = ""
    type: str | None = None


class ToolChoiceSpec(Struct):
    """Whether tools are to be used; name: of the one, where type is "tool"."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class ThinkingSpec(Struct):
    """Whether the model is to think; budget_tokens: how much, which no model here can be told."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Count | None = None


class FormatSpec(Struct):
    """What the answer must look like."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputSpec(Struct):
    """How the answer is to be."""

    format: FormatSpec | None = None
    effort: str | None = None


class Conversation(Struct, kw_only=True):
    """What tokens are counted of."""

    messages: Annotated[list[Turn], Meta(min_length=1)]
    model: str
    system: str | list[TextBlock] | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: ToolChoiceSpec | None = None
    thinking: ThinkingSpec | None = None
    output_config: OutputSpec | None = None


class MessageRequest(Conversation, kw_only=True):
    """The body of a request for a message."""

    max_tokens: Count
    stream: bool = False
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
