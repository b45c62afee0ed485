"""Tools, calls and their results as chat templates want them: OpenAI's shape, with what a template is particular about.

Pure. What clients sent is checked here: the names of tools, that schemas and arguments are JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmrun.errors import UsageError
from llmrun.message import Message, Tool, ToolCall
from llmrun.worker.tools.format import CallShape
from llmrun.worker.tools.reading import MAX_NAME, NAME

_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_MAX_TEXT = 1 << 20  # characters of a schema, or of a call's arguments
_MAX_DEPTH = 100  # as of the bodies of requests, whose texts may be JSON again


def schemas_of(tools: Sequence[Tool]) -> dict[str, Any]:
    """Return the schemas of the tools' arguments by name, in their order; raises UsageError for what is no tool."""
    schemas: dict[str, Any] = {}
    for tool in tools:
        if not NAME.fullmatch(tool.name):
            rule = f"1 to {MAX_NAME} letters, digits and any of _ - . : /"
            raise UsageError(f"{tool.name[:MAX_NAME]!r} is no name for a tool", f"use {rule}")
        if tool.name in schemas:
            raise UsageError(f"there are two tools with the name {tool.name!r}", "give each a name of its own")
        schemas[tool.name] = _object(tool.parameters or "{}", f"the parameters of the tool {tool.name!r}")
    return schemas


def _object(text: str, what: str) -> dict[str, Any]:
    if len(text) > _MAX_TEXT:
        raise UsageError(f"{what} have {len(text):,} characters: at most {_MAX_TEXT:,} are taken")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        text.encode()
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} are no JSON: {str(error)[:100]}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{what} are no JSON object")
    if _is_deep(value):
        raise UsageError(f"{what} are nested more than {_MAX_DEPTH} deep", "send flatter JSON")
    return value


def _is_deep(value: Any) -> bool:
    """Tell whether a value is nested deeper than anything means to be; templates go down into it by recursion."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number there")


def tool_fields(tools: Sequence[Tool], schemas: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tools as templates see them. A schema always has properties, which some look into unasked."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": {"type": "object", "properties": {}} | schemas[tool.name],
            },
        }
        for tool in tools
    ]


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """Return a call's arguments; raises UsageError where they are no object of JSON."""
    return _object(call.arguments or "{}", f"the arguments of the call of {call.name!r}")


def call_fields(message: Message, shape: CallShape) -> dict[str, Any]:
    """Return what a message says of tools: its calls, or which call it is the result of."""
    fields: dict[str, Any] = {}
    if message.calls:
        fields["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {
                    "name": call.name,
                    "arguments": call.arguments or "{}" if shape.text_arguments else arguments_of(call),
                },
            }
            for call in message.calls
        ]
    if message.call_id:
        fields["tool_call_id"] = message.call_id
    if message.name:
        fields["name"] = message.name
    return fields


def shape_messages(messages: Sequence[Message], shape: CallShape) -> list[Message]:
    """Return the messages with calls and their results as a template takes them."""
    if not any(message.calls or message.role == "tool" for message in messages):
        return list(messages)
    shaped = _matched(messages)
    if shape.in_words:
        return _in_words(shaped)
    shaped = _one_by_one(shaped) if shape.one_call else shaped
    return [_with_short_ids(message) for message in shaped] if shape.short_ids else shaped


def _matched(messages: Sequence[Message]) -> list[Message]:
    """Let every call have an id, and every result the id and the name of its call, where clients leave them out."""
    matched: list[Message] = []
    open_calls: list[ToolCall] = []  # that have no result yet
    for message in messages:
        if message.calls:
            numbered = enumerate(message.calls, sum(len(before.calls) for before in matched))
            open_calls = [replace(call, id=call.id or f"call{number:05}") for number, call in numbered]
            matched.append(replace(message, calls=tuple(open_calls)))
            continue
        found = _call_of(message, open_calls) if message.role == "tool" else None
        if found is None:
            matched.append(message)
            continue
        open_calls.remove(found)
        matched.append(replace(message, call_id=message.call_id or found.id, name=message.name or found.name))
    return matched


def _call_of(result: Message, calls: Sequence[ToolCall]) -> ToolCall | None:
    """Return the call that a result is of: by id, by name, or the first that has none."""
    by_id = [call for call in calls if call.id == result.call_id]
    by_name = [call for call in calls if call.name == result.name]
    found = by_id if result.call_id else by_name or list(calls)
    return found[0] if found else None


def _in_words(messages: Sequence[Message]) -> list[Message]:
    """Tell calls and results in words: a result is the user's, and what the user says next stands in one message."""
    told: list[Message] = []
    was_result = False
    for message in messages:
        is_result = message.role == "tool"
        said = replace(message, role="user" if is_result else message.role, content=_told(message), calls=())
        if told and told[-1].role == said.role == "user" and (is_result or was_result):
            said = replace(said, content=f"{told.pop().content}\n\n{said.content}")
        told.append(said)
        was_result = is_result
    return told


def _told(message: Message) -> str:
    if message.role == "tool":
        return f"{message.name or 'The tool'} returned:\n{message.content}"
    calls = [{"name": call.name, "arguments": arguments_of(call)} for call in message.calls]
    lines = [json.dumps(call, ensure_ascii=False) for call in calls]
    return "\n".join([message.content, *lines] if message.content else lines)


def _one_by_one(messages: Sequence[Message]) -> list[Message]:
    """Let each of several calls be a message, followed by its result."""
    shaped: list[Message] = []
    waiting: list[Message] = []  # for their results
    for message in messages:
        if waiting and message.role == "tool":
            asked = next((m for m in waiting if m.calls[0].id == message.call_id), waiting[0])
            waiting.remove(asked)
            shaped += [asked, message]
            continue
        shaped += waiting
        waiting = []
        if len(message.calls) < 2:
            shaped.append(message)
            continue
        first, *others = message.calls
        alone = [replace(message, content="", thoughts="", images=(), calls=(call,)) for call in others]
        waiting = [replace(message, calls=(first,)), *alone]
    return shaped + waiting


def _with_short_ids(message: Message) -> Message:
    calls = tuple(replace(call, id=short_id(call.id)) for call in message.calls)
    is_result = message.role == "tool" or message.call_id
    return replace(message, calls=calls, call_id=short_id(message.call_id) if is_result else "")


def short_id(call_id: str) -> str:
    """Return an id as Mistral's templates take them, the same for the same id: nine letters and digits."""
    if _SHORT_ID.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:9]


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a value of JSON with all its texts changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [map_texts(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): map_texts(item, change) for key, item in value.items()}
    return value
