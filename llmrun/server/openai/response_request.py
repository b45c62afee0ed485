"""A request to OpenAI's responses: the body, and what is asked by it. Pure, but for images that are put somewhere.

Nothing is kept between requests: each brings its whole conversation.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from llmrun.engine.protocol import Grammar
from llmrun.errors import UsageError
from llmrun.message import Message, Tool, ToolCall, ToolChoice
from llmrun.server.ask import Ask
from llmrun.server.image_folder import parse_data_url
from llmrun.server.openai import parameters as p
from llmrun.server.openai.chat_request import KeepImage


class InputText(msgspec.Struct, tag_field="type", tag="input_text"):
    """A part of a message that is text."""

    text: str


class OutputText(msgspec.Struct, tag_field="type", tag="output_text"):
    """A part of an earlier answer."""

    text: str


class OutputRefusal(msgspec.Struct, tag_field="type", tag="refusal"):
    """What was said in the place of an answer."""

    refusal: str


class InputImage(msgspec.Struct, tag_field="type", tag="input_image"):
    """A part of a message that is an image, in the URL itself."""

    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None


Part = InputText | OutputText | OutputRefusal | InputImage


class InputMessage(msgspec.Struct):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class InputCall(msgspec.Struct):
    """A call that the model asked for earlier."""

    call_id: str
    name: str
    arguments: str


class CallOutput(msgspec.Struct):
    """What a call gave."""

    call_id: str
    output: str | list[Part]


class ReasoningText(msgspec.Struct):
    """A part of thoughts."""

    text: str


class InputReasoning(msgspec.Struct):
    """Thoughts before an earlier answer."""

    content: list[ReasoningText] | None = None


_ITEMS: dict[Any, Any] = {
    "message": InputMessage,
    "function_call": InputCall,
    "function_call_output": CallOutput,
    "reasoning": InputReasoning,
}


class FunctionTool(msgspec.Struct):
    """A function that the model may ask for; parameters: the JSON schema of its arguments."""

    type: Literal["function"]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedTool(msgspec.Struct):
    """The tool that must be called."""

    type: Literal["function"]
    name: str


class PlainForm(msgspec.Struct, tag_field="type", tag="text"):
    """An answer of any form."""


class ObjectForm(msgspec.Struct, tag_field="type", tag="json_object"):
    """An answer that is a JSON object."""


class SchemaForm(msgspec.Struct, tag_field="type", tag="json_schema"):
    """An answer that satisfies a JSON schema; strict: it does either way."""

    schema: dict[str, Any]
    name: str = ""
    description: str | None = None
    strict: bool | None = None


class TextSettings(msgspec.Struct):
    """What the text is to be like."""

    format: PlainForm | ObjectForm | SchemaForm | None = None
    verbosity: str | None = None


class Reasoning(msgspec.Struct):
    """How the model is to think."""

    effort: str | None = None


class ResponseRequest(p.Parameters, kw_only=True):
    """The body of a request for a response; input: a text, or the items of a conversation."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    text: TextSettings | None = None
    reasoning: Reasoning | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, Any] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None


def parse_response(body: ResponseRequest, keep_image: KeepImage) -> Ask:
    """Return what is asked; raises UsageError for what cannot be done. keep_image: gives an image a path."""
    p.check_parameters(body)
    _check_response(body)
    return Ask(
        body.model or "",
        _messages(body, keep_image),
        sampling=p.parse_sampling(body),
        penalties=p.parse_penalties(body),
        max_tokens=p.parse_length(body.max_output_tokens, body.max_tokens),
        stop=p.parse_stop(body),
        grammar=_grammar(body),
        tools=_tools(body),
        tool_choice=_tool_choice(body),
        think=p.think_of(body.reasoning.effort if body.reasoning else None),
    )


def _check_response(body: ResponseRequest) -> None:
    for name in ("previous_response_id", "conversation", "prompt"):
        if getattr(body, name) is not None:
            raise UsageError(f"{name} is there, and nothing is kept between requests", "send the whole conversation")
    if body.background:
        raise UsageError("no response is made in the background", "leave background out, or stream")
    if (body.n or 1) > 1:
        raise UsageError("a response has one answer", "leave n out, or ask for chat completions")
    if body.text and body.text.verbosity not in (None, "medium"):
        raise UsageError("verbosity is not supported", "ask for shorter or longer answers in a message")


def _messages(body: ResponseRequest, keep_image: KeepImage) -> tuple[Message, ...]:
    """Return the conversation: thoughts and calls, which are items of their own, go into the assistant's messages."""
    messages = [Message("system", body.instructions)] if body.instructions else []
    items = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    thoughts = ""
    for at, given in enumerate(items):
        match _item(at, given):
            case InputReasoning(content):
                thoughts = "".join(part.text for part in content or ())
            case InputCall(call_id, name, arguments):
                call = ToolCall(call_id, name, arguments or "{}")
                said = messages.pop() if messages and messages[-1].role == "assistant" else Message("assistant", "")
                messages.append(_assistant(said.content, said.thoughts or thoughts, (*said.calls, call)))
                thoughts = ""
            case CallOutput(call_id, output):
                _images("tool", output, keep_image)  # none can be shown there
                messages.append(Message("tool", _said(output), call_id=call_id))
            case InputMessage("assistant", content):
                messages.append(_assistant(_said(content), thoughts, ()))
                thoughts = ""
            case InputMessage(role, content):
                role = "system" if role == "developer" else role
                messages.append(Message(role, _said(content), images=_images(role, content, keep_image)))
    return tuple(messages)


def _assistant(text: str, thoughts: str, calls: tuple[ToolCall, ...]) -> Message:
    return Message("assistant", text, thoughts=thoughts, calls=calls)


def _item(at: int, given: dict[str, Any]) -> Any:
    """Return an item of the input; raises UsageError for one of a kind that there is not here."""
    kind = given.get("type", "message")
    if not isinstance(kind, str) or kind not in _ITEMS:
        raise UsageError(f"input {at} is of type {str(kind)[:40]!r}", f"these are known: {', '.join(_ITEMS)}")
    try:
        return msgspec.convert(given, _ITEMS[kind])
    except msgspec.ValidationError as error:
        raise UsageError(f"input {at} is not as it should be: {error}") from error


def _said(content: str | list[Part]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(
        part.refusal if isinstance(part, OutputRefusal) else part.text
        for part in content
        if not isinstance(part, InputImage)
    )


def _images(role: str, content: str | list[Part], keep_image: KeepImage) -> tuple[str, ...]:
    parts = [] if isinstance(content, str) else [part for part in content if isinstance(part, InputImage)]
    if parts and role != "user":
        raise UsageError(f"an image is in a message of role {role}: they go with messages of role user")
    return tuple(keep_image(parse_data_url(part.image_url or "")) for part in parts)


def _grammar(body: ResponseRequest) -> Grammar | None:
    given, form = p.parse_gbnf(body), None if body.text is None else body.text.format
    if form is None or isinstance(form, PlainForm):
        return given
    if given is not None:
        raise UsageError("grammar and text.format are both there", "leave one of them out")
    return p.schema_grammar(form.schema if isinstance(form, SchemaForm) else {"type": "object"})


def _tools(body: ResponseRequest) -> tuple[Tool, ...]:
    tools = [] if body.tool_choice == "none" else body.tools or []
    return tuple(
        Tool(tool.name, tool.description or "", p.as_text(tool.parameters or {"type": "object"})) for tool in tools
    )


def _tool_choice(body: ResponseRequest) -> ToolChoice:
    parallel = body.parallel_tool_calls is not False
    if isinstance(body.tool_choice, NamedTool):
        return ToolChoice(required=True, name=body.tool_choice.name, parallel=parallel)
    return ToolChoice(required=body.tool_choice == "required", parallel=parallel)
