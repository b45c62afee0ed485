"""A request for chat completions: the body, and what is asked by it. Pure, but for images that are put somewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from llmrun.engine.protocol import Grammar
from llmrun.errors import UsageError
from llmrun.message import Message, Tool, ToolCall, ToolChoice
from llmrun.server.ask import Ask
from llmrun.server.image_folder import parse_data_url
from llmrun.server.openai import parameters as p

KeepImage = Callable[[bytes], str]


class TextPart(msgspec.Struct, tag_field="type", tag="text"):
    """A part of a message that is text."""

    text: str


class RefusalPart(msgspec.Struct, tag_field="type", tag="refusal"):
    """What an assistant said in the place of an answer."""

    refusal: str


class ImageURL(msgspec.Struct):
    """Where an image is: in the URL itself, as nothing is fetched."""

    url: str
    detail: str | None = None


class ImagePart(msgspec.Struct, tag_field="type", tag="image_url"):
    """A part of a message that is an image."""

    image_url: ImageURL | str


class CalledFunction(msgspec.Struct):
    """What an assistant called; arguments: a JSON object, as text."""

    name: str
    arguments: str = "{}"


class AssistantCall(msgspec.Struct):
    """A call that an assistant asked for."""

    function: CalledFunction
    id: str = ""
    type: Literal["function"] = "function"


class ChatMessage(msgspec.Struct, kw_only=True):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart | ImagePart | RefusalPart] | None = None
    name: str | None = None
    tool_calls: list[AssistantCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None


class Function(msgspec.Struct):
    """A function that a model may ask for; parameters: the JSON schema of its arguments."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(msgspec.Struct):
    """A tool, of the only kind there is."""

    function: Function
    type: Literal["function"] = "function"


class NamedFunction(msgspec.Struct):
    """A function by its name."""

    name: str


class NamedTool(msgspec.Struct):
    """The tool that must be called."""

    function: NamedFunction
    type: Literal["function"] = "function"


class TextFormat(msgspec.Struct, tag_field="type", tag="text"):
    """An answer of any form."""


class ObjectFormat(msgspec.Struct, tag_field="type", tag="json_object"):
    """An answer that is a JSON object; schema: as some servers have it here."""

    schema: dict[str, Any] | None = None


class NamedSchema(msgspec.Struct, kw_only=True):
    """A schema with a name; strict: answers satisfy it either way."""

    schema: dict[str, Any] | bool
    name: str = ""
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema"):
    """An answer that satisfies a JSON schema."""

    json_schema: NamedSchema


class ChatRequest(p.Parameters, kw_only=True):
    """The body of a request for chat completions."""

    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1)]
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=p.MAX_LOGPROBS)] | None = None
    response_format: TextFormat | ObjectFormat | SchemaFormat | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: Any = None
    functions: Any = None
    function_call: Any = None
    web_search_options: Any = None
    verbosity: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    prediction: Any = None


def parse_chat(body: ChatRequest, keep_image: KeepImage) -> Ask:
    """Return what is asked; raises UsageError for what cannot be done. keep_image: gives an image a path."""
    p.check_parameters(body)
    _check_chat(body)
    return Ask(
        body.model or "",
        tuple(_message(message, keep_image) for message in body.messages),
        sampling=p.parse_sampling(body),
        penalties=p.parse_penalties(body),
        max_tokens=p.parse_length(body.max_completion_tokens, body.max_tokens),
        stop=p.parse_stop(body),
        grammar=_grammar(body),
        tools=_tools(body),
        tool_choice=_tool_choice(body),
        think=_think(body),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        n=body.n or 1,
    )


def _check_chat(body: ChatRequest) -> None:
    if body.top_logprobs and not body.logprobs:
        raise UsageError("top_logprobs is there and logprobs is not true", "set logprobs to true")
    if body.functions or body.function_call:
        raise UsageError("functions and function_call are not supported", "use tools and tool_choice")
    if body.audio or set(body.modalities or ()) - {"text"}:
        raise UsageError("answers are text alone", "leave audio and modalities out")
    if body.web_search_options is not None:
        raise UsageError("nothing is searched on the web here", "leave web_search_options out")
    if body.verbosity not in (None, "medium"):
        raise UsageError("verbosity is not supported", "ask for shorter or longer answers in a message")


def _message(message: ChatMessage, keep_image: KeepImage) -> Message:
    parts = [TextPart(message.content)] if isinstance(message.content, str) else message.content or []
    texts = [_said(part) for part in parts if not isinstance(part, ImagePart)]
    images = [part.image_url for part in parts if isinstance(part, ImagePart)]
    if images and message.role != "user":
        raise UsageError(f"an image is in a message of role {message.role}: they go with messages of role user")
    urls = [image if isinstance(image, str) else image.url for image in images]
    calls = tuple(_call(call) for call in message.tool_calls or ())
    if message.role == "tool" and not message.tool_call_id:
        raise UsageError("a message of role tool has no tool_call_id: it is the result of no call")
    return Message(
        {"developer": "system", "function": "tool"}.get(message.role, message.role),
        "\n".join(texts) or message.refusal or "",
        thoughts=message.reasoning_content or "",
        images=tuple(keep_image(parse_data_url(url)) for url in urls),
        calls=calls,
        call_id=message.tool_call_id or "",
        name=message.name or "",
    )


def _call(call: AssistantCall) -> ToolCall:
    return ToolCall(call.id, call.function.name, call.function.arguments or "{}")


def _grammar(body: ChatRequest) -> Grammar | None:
    """Return what answers are held to; raises UsageError for two of them, which no answer could be held to."""
    given, form = p.parse_gbnf(body), body.response_format
    if form is None or isinstance(form, TextFormat):
        return given
    if given is not None:
        raise UsageError("grammar and response_format are both there", "leave one of them out")
    if isinstance(form, SchemaFormat):
        return p.schema_grammar(form.json_schema.schema)
    return p.schema_grammar({"type": "object"} if form.schema is None else form.schema)


def _tool_choice(body: ChatRequest) -> ToolChoice:
    """Return whether a tool must be called; without a word for it, any number of them may be."""
    parallel = body.parallel_tool_calls is not False
    if isinstance(body.tool_choice, NamedTool):
        return ToolChoice(required=True, name=body.tool_choice.function.name, parallel=parallel)
    return ToolChoice(required=body.tool_choice == "required", parallel=parallel)


def _tools(body: ChatRequest) -> tuple[Tool, ...]:
    """Return the tools that may be asked for."""
    if body.tool_choice == "none":
        return ()
    functions = [tool.function for tool in body.tools or ()]
    return tuple(
        Tool(function.name, function.description or "", p.as_text(function.parameters or {"type": "object"}))
        for function in functions
    )


def _think(body: ChatRequest) -> str | None:
    """Return the wish for reasoning, as --think has it; raises UsageError for one that is not understood."""
    told = dict(body.chat_template_kwargs or {})
    switch = told.pop("enable_thinking", None)
    effort = body.reasoning_effort or told.pop("reasoning_effort", None)
    if told:
        raise UsageError(
            f"chat_template_kwargs has {sorted(told)[0][:40]!r}",
            "enable_thinking and reasoning_effort are what templates are told",
        )
    if switch is not None and not isinstance(switch, bool):
        raise UsageError("enable_thinking is neither true nor false")
    word = p.think_of(effort)
    return "off" if switch is False else word or ("on" if switch else None)


def _said(part: TextPart | RefusalPart) -> str:
    return part.text if isinstance(part, TextPart) else part.refusal
