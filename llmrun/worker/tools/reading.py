"""How models write that they want tools called: a reader for each format, from what follows its mark to the calls.

Pure. Sources: the chat templates of the models, and what they write where they do not keep to those: llama.cpp
(common/chat.cpp, common/chat-diff-analyzer.cpp, common/parsers/ministral3.cpp), mistral-common's instruct tokenizer,
Qwen3-Coder's qwen3coder_tool_parser.py.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from llmrun.errors import UsageError
from llmrun.message import ToolCall
from llmrun.structured.schema import Schemas
from llmrun.structured.values import type_of
from llmrun.worker.reasoning import mark_controls
from llmrun.worker.tools.source import BLANK, MalformedError, Reading, Source

MAX_NAME = 128  # characters of a tool's name
NAME = re.compile(rf"[A-Za-z0-9_.:/-]{{1,{MAX_NAME}}}")

_OBJECT = dict[str, msgspec.Raw]
_NAMES, _ARGUMENTS = ("name", "function"), ("arguments", "parameters")
# The keys a call of Llama's may begin with, so that other JSON is let through as soon as it begins
_FIRST_KEYS = frozenset((*_NAMES, *_ARGUMENTS, "type", "id"))
_FIRST_KEY = re.compile(r'\{[ \t\r\n]{0,64}(?:"([a-z]{0,16})("?))?')
_MAX_DEPTH = 10  # schemas in schemas that are looked through for their types
_LITERALS = {"true": True, "false": False, "none": None, "null": None}


@dataclass(frozen=True, slots=True)
class Context:
    """What a reader must know; tools: the schemas of their arguments by name; controls: marks that are control tokens.

    make_id: a new id for a call that the model gave none.
    """

    tools: Mapping[str, Any]
    controls: Sequence[str]
    make_id: Callable[[], str]

    def mark(self, text: str) -> str:
        """Return a mark as it comes from this vocabulary."""
        return mark_controls(text, self.controls)


# None where more must be written first; raises MalformedError where it is no call
Reader = Callable[[Source, str, Context], Iterator[ToolCall | None]]


def read_hermes(source: Source, mark: str, context: Context) -> Iterator[ToolCall | None]:
    """Read `{"name": …, "arguments": …}</tool_call>`; the models of Qwen and Hermes."""
    del mark
    yield from source.skip()
    while True:
        yield call_of((yield from source.json_object()), context)
        yield from source.skip()
        if (yield from source.peek()) != "{":
            break
    yield from source.mark([context.mark("</tool_call>")])


def read_llama(source: Source, mark: str, context: Context) -> Iterator[ToolCall | None]:
    """Read `{"name": …, "parameters": …}`, several with semicolons between; without a mark only if a tool is named."""
    while True:
        yield from source.skip()
        if not mark:
            yield from _check_first_key(source)
        call = call_of((yield from source.json_object()), context)
        if not mark and call.name not in context.tools:
            raise MalformedError
        yield call
        yield from source.skip(BLANK + ";,")
        mark = yield from source.mark([context.mark("<|python_tag|>")])
        if not mark and (yield from source.peek()) != "{":
            return


def _check_first_key(source: Source) -> Reading[None]:
    """Raise MalformedError as soon as an object does not begin as a call does."""
    while True:
        found = _FIRST_KEY.match(source.text)
        if found is not None and found[2]:
            if found[1] not in _FIRST_KEYS:
                raise MalformedError
            return
        if source.has_ended or (source.text and (found is None or found.end() < len(source.text))):
            raise MalformedError
        yield


def read_mistral(source: Source, mark: str, context: Context) -> Iterator[ToolCall | None]:
    """Read a list of `{"name": …, "arguments": …, "id": …}`, or `name[CALL_ID]id[ARGS]{…}`, as newer models write."""
    del mark
    yield from source.skip()
    first = yield from source.peek()
    if first == "{":
        yield call_of((yield from source.json_object()), context)
    elif first == "[":
        source.take(1)
        while True:
            yield from source.skip(BLANK + ",")
            if (yield from source.mark(["]"])):
                return
            yield call_of((yield from source.json_object()), context)
    else:
        yield (yield from _named_call(source, context))


def _named_call(source: Source, context: Context) -> Reading[ToolCall]:
    id_mark, arguments_mark = context.mark("[CALL_ID]"), context.mark("[ARGS]")
    name = yield from source.until([id_mark, arguments_mark, "{"], 2 * MAX_NAME)
    given = ""
    if (yield from source.mark([id_mark])):
        given = yield from source.until([arguments_mark, "{"], 2 * MAX_NAME)
    yield from source.mark([arguments_mark])
    yield from source.skip()
    arguments = yield from source.json_object()
    return ToolCall(given.strip(BLANK) or context.make_id(), _name(name.strip(BLANK)), _arguments(arguments.encode()))


def read_qwen_xml(source: Source, mark: str, context: Context) -> Iterator[ToolCall | None]:
    """Read `<function=name><parameter=key>value</parameter></function></tool_call>`; Qwen3-Coder, Qwen3.5."""
    function = context.mark("<function=")
    if mark != function:
        yield from source.skip()
        if not (yield from source.mark([function])):
            raise MalformedError
    name = _name((yield from source.until([">"], 2 * MAX_NAME)))
    source.take(1)
    arguments: dict[str, Any] = {}
    schema = context.tools.get(name)
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    while True:
        yield from source.skip()
        found = yield from source.mark(["<parameter=", "</function>"])
        if not found:
            raise MalformedError
        if found == "</function>":
            break
        key = yield from source.until([">"], 2 * MAX_NAME)
        source.take(1)
        value = yield from _parameter(source)
        arguments[key] = _typed(
            value, types_of(properties.get(key) if isinstance(properties, Mapping) else None, schema)
        )
    yield ToolCall(context.make_id(), name, json.dumps(arguments, ensure_ascii=False))
    yield from source.skip()
    yield from source.mark([context.mark("</tool_call>")])


def _parameter(source: Source) -> Reading[str]:
    """Read a value; its end mark within it is text, if neither a parameter nor the end of the call follows."""
    end, parts = "</parameter>", []
    while True:
        parts.append((yield from source.until([end])))
        source.take(len(end))
        blanks = yield from source.skip()
        if (yield from source.ahead(["<parameter=", "</function>"])):
            return "".join(parts).removeprefix("\n").removesuffix("\n")
        if source.has_ended and not source.text:
            raise MalformedError
        parts.append(end + blanks)


def _typed(text: str, types: set[str]) -> Any:
    """Return a value that was written without quotation marks as one of these types."""
    if not types or types == {"string"}:
        return text
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        value = _LITERALS.get(text.strip().lower(), text)  # Python's own, which the template writes too
    kind = type_of(value)
    fits = kind in types or (kind == "integer" and "number" in types)
    return value if fits or "string" not in types else text


def types_of(schema: Any, root: Any, depth: int = 0) -> set[str]:
    """Return the types that a schema allows, as far as it says; root: what its references lead into."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return set()
    said = schema.get("type", [])
    types = {said} if isinstance(said, str) else {kind for kind in _list(said) if isinstance(kind, str)}
    parts = [part for keyword in ("anyOf", "oneOf", "allOf") for part in _list(schema.get(keyword))]
    if "$ref" in schema:
        with contextlib.suppress(UsageError):  # it leads nowhere
            parts.append(Schemas(root).resolve(schema["$ref"], "#"))
    types |= {kind for part in parts for kind in types_of(part, root, depth + 1)}
    values = [schema["const"]] if "const" in schema else _list(schema.get("enum"))
    return types or {type_of(value) for value in values}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def call_of(text: str, context: Context) -> ToolCall:
    """Return the call that an object of JSON is; raises MalformedError for one that is none."""
    fields = _fields(text.encode("utf-8", "replace"))
    name = next((_text(fields[key]) for key in _NAMES if key in fields), None)
    arguments = next((bytes(fields[key]) for key in _ARGUMENTS if key in fields), b"null")
    given = _text(fields["id"]) if "id" in fields else None
    return ToolCall(given or context.make_id(), _name(name), _arguments(arguments))


def _fields(data: bytes) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(data, type=_OBJECT)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError from error


def _text(raw: msgspec.Raw) -> str | None:
    try:
        return msgspec.json.decode(raw, type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _name(name: str | None) -> str:
    if name is None or not NAME.fullmatch(name):
        raise MalformedError
    return name


def _arguments(data: bytes) -> str:
    """Return arguments as they were written: an object, one within a text, or none at all."""
    if data == b"null":
        return "{}"
    if data.startswith(b'"'):
        data = (_text(msgspec.Raw(data)) or "").strip(BLANK).encode()
    _fields(data)
    return data.decode()
