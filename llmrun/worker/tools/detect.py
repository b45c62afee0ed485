"""In which format a model asks for tools, as its chat template shows: it is given a tool and a call of it, to render.

Pure: the renderer is handed in. What a template says of the format in words counts for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llmrun.message import Message, ToolCall
from llmrun.worker.tools.format import (
    HERMES,
    LLAMA3,
    MISTRAL_ID,
    MISTRAL_LIST,
    MISTRAL_NAMED,
    QWEN_XML,
    CallShape,
    ToolFormat,
)

_NAME, _OTHER = "llmrun_tool", "llmrun_other"
_KEY, _VALUE, _DESCRIPTION, _RESULT = "llmrun_key", "llmrun-value", "llmrun-description", "llmrun-result"
_ID, _OTHER_ID = "llmruncal", "llmruncbl"
_SCHEMA = {"type": "object", "properties": {_KEY: {"type": "string", "description": _DESCRIPTION}}, "required": [_KEY]}
_TOOLS = [
    {"type": "function", "function": {"name": name, "description": _DESCRIPTION, "parameters": _SCHEMA}}
    for name in (_NAME, _OTHER)
]
_ARGUMENTS = f'{{"{_KEY}": "{_VALUE}"}}'
_CALL = ToolCall(_ID, _NAME, _ARGUMENTS)
_QUESTION = Message("user", "llmrun-user")
_ASKED = (_QUESTION, Message("assistant", "", calls=(_CALL,)))
_ASKED_TWICE = (
    _QUESTION,
    Message("assistant", "", calls=(_CALL, ToolCall(_OTHER_ID, _OTHER, _ARGUMENTS))),
    Message("tool", _RESULT, call_id=_ID, name=_NAME),
    Message("tool", _RESULT, call_id=_OTHER_ID, name=_OTHER),
)
_ANSWERED = (*_ASKED, Message("tool", _RESULT, call_id=_ID, name=_NAME))

_OBJECT = rf'\{{\s*"{_KEY}"\s*:\s*"{_VALUE}"\s*\}}'
_NAMED = rf'\{{\s*"name"\s*:\s*"{_NAME}"\s*,\s*'
_FORMATS = (
    (HERMES, rf'<tool_call>\s*{_NAMED}"arguments"\s*:\s*{_OBJECT}\s*\}}\s*</tool_call>'),
    (
        QWEN_XML,
        rf"<tool_call>\s*<function={_NAME}>\s*<parameter={_KEY}>\s*{_VALUE}\s*</parameter>\s*</function>\s*</tool_call>",
    ),
    (MISTRAL_LIST, rf'\[TOOL_CALLS\]\s*\[\s*{_NAMED}"arguments"\s*:\s*{_OBJECT}'),
    (MISTRAL_NAMED, rf"\[TOOL_CALLS\]\s*{_NAME}\s*\[ARGS\]\s*{_OBJECT}"),
    (MISTRAL_ID, rf"\[TOOL_CALLS\]\s*{_NAME}\s*\[CALL_ID\]\s*{_ID}\s*\[ARGS\]\s*{_OBJECT}"),
)
# Without a mark, and so only where the model's turn begins with it
_BARE = ((LLAMA3, rf'\s*(?:<\|python_tag\|>)?\s*{_NAMED}"parameters"\s*:\s*{_OBJECT}\s*\}}'),)


class Render(Protocol):
    """A chat template that is tried."""

    def __call__(
        self,
        messages: Sequence[Message],
        shape: CallShape,
        *,
        tools: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
    ) -> str | None:
        """Return the text, None where the template refuses or fails."""


def find_tools(source: str, render: Render) -> tuple[ToolFormat, CallShape] | None:
    """Find the format, and how calls are to be given; None where the template shows no format that is known."""
    if "tool" not in source:
        return None
    asked = render(_ASKED[:1], CallShape(), tools=_TOOLS, add_generation_prompt=True)
    if asked is None or not all(text in asked for text in (_NAME, _DESCRIPTION, _KEY)):
        return None
    for shape in (CallShape(), CallShape(text_arguments=True)):
        text = render(_ANSWERED, shape, tools=_TOOLS, add_generation_prompt=False)
        if text is None or _RESULT not in text:
            continue
        found = _format_of(text, asked)
        if found is not None:
            return found, _finished(shape, found, render)
    return None


def find_shape(source: str, render: Render) -> CallShape:
    """Find how a template is to be given the calls of earlier messages whose format nobody knows."""
    if "tool" in source:
        for shape in (CallShape(), CallShape(text_arguments=True)):
            text = render(_ANSWERED, shape, tools=(), add_generation_prompt=True)
            if text is not None and all(shown in text for shown in (_NAME, _VALUE, _RESULT)):
                return shape
    return CallShape(in_words=True)


def _format_of(text: str, asked: str) -> ToolFormat | None:
    for found, pattern in _FORMATS:
        if re.search(pattern, text):
            return found
    begun = asked.rstrip()  # a template may end its prompt with blanks that it does not put before an answer
    if text.startswith(begun):
        return next((found for found, pattern in _BARE if re.match(pattern, text[len(begun) :])), None)
    return None


def _finished(shape: CallShape, found: ToolFormat, render: Render) -> CallShape:
    text = render(_ASKED_TWICE, shape, tools=_TOOLS, add_generation_prompt=False)
    calls = text and re.findall(rf"(?:{_NAME}|{_OTHER})(?=\W(?:(?!{_NAME}|{_OTHER}).)*{_VALUE})", text, re.DOTALL)
    return CallShape(shape.text_arguments, one_call=not calls or len(calls) < 2, short_ids=found.name == "mistral")
