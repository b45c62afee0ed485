"""What llama.cpp does to a template and its messages before and after rendering, so that our text agrees with its text.

Pure. Sources in llama.cpp: common/chat.cpp (common_chat_templates_init, common_chat_templates_apply_jinja, namespace
workaround), common/parsers/gpt-oss.cpp, ministral3.cpp and gemma4.cpp. What concerns tools is in worker.tools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from llmrun.message import Message
from llmrun.worker.tools.fields import call_fields, shape_messages
from llmrun.worker.tools.format import CallShape

Fields = dict[str, object]

_WHITESPACE = " \t\n\v\f\r"  # isspace() of C, which llama.cpp trims with

# Checks that stop ordinary conversations; llama.cpp switches them off word for word.
_DISABLED_CHECKS = (
    (
        "<|channel|>",
        '{%- if "<|channel|>analysis<|message|>" in message.content or '
        '"<|channel|>final<|message|>" in message.content %}',
    ),
    (
        "[TOOL_CALLS]",
        "{%- if (message['content'] is none or message['content'] == '' or "
        "message['content']|length == 0) and (message['tool_calls'] is not defined or "
        "message['tool_calls'] is none or message['tool_calls']|length == 0) %}",
    ),
)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a template can do: take a system message; take content only as a list of typed parts; make a model think.

    calls: how it wants calls of tools.
    """

    system_role: bool = True
    only_typed_content: bool = False
    thinking: bool = True
    calls: CallShape = field(default_factory=CallShape)


def patch_source(source: str) -> str:
    """The template's text with the checks disabled that llama.cpp disables."""
    for marker, check in _DISABLED_CHECKS:
        if marker in source:
            source = source.replace(check, "{%- if false %}")
    return source


def prepare_messages(source: str, capabilities: Capabilities, messages: Sequence[Message]) -> list[Fields]:
    """The messages in the form that this template wants."""
    if "You have access to the following functions in JSONSchema format" in source:  # StepFun: blanks make it loop
        messages = [replace(message, content=message.content.strip(_WHITESPACE)) for message in messages]
    if "<|channel|>" not in source:  # all but gpt-oss
        messages = [replace(message, role=_known_role(message.role)) for message in messages]
    if not capabilities.system_role:
        messages = merge_system(messages)
    typed_roles = _typed_roles(source, capabilities)
    prepared = []
    for message in shape_messages(messages, capabilities.calls):
        fields = to_fields(message, typed=typed_roles is None or message.role in typed_roles)
        prepared.append(_with_thoughts_moved(source, fields) | call_fields(message, capabilities.calls))
    return prepared


def merge_system(messages: Sequence[Message]) -> Sequence[Message]:
    """A system message at the start becomes the first lines of the message after it."""
    if not messages or messages[0].role != "system":
        return messages
    system, *rest = messages
    if not rest:
        return rest
    return [replace(rest[0], content=f"{system.content}\n{rest[0].content}"), *rest[1:]]


def to_fields(message: Message, *, typed: bool) -> Fields:
    """A message as templates see it, its content a string or one typed part."""
    content = [{"type": "text", "text": message.content}] if typed else message.content
    fields: Fields = {"role": message.role, "content": content}
    return fields | {"reasoning_content": message.thoughts} if message.thoughts else fields


def _with_thoughts_moved(source: str, fields: Fields) -> Fields:
    """The message with its thoughts where the few templates look for them that do not know reasoning_content."""
    thoughts = fields.get("reasoning_content")
    if thoughts is None:
        return fields
    if "<|channel|>" in source:  # gpt-oss
        return fields | {"thinking": thoughts}
    if _is_ministral3(source) and isinstance(fields["content"], list):
        content = [{"type": "thinking", "thinking": thoughts}, *fields["content"]]
        return {"role": fields["role"], "content": content}
    return fields


def finish_text(source: str, text: str, add_generation_prompt: bool) -> str:
    """Gemma 4's template sometimes forgets to open the model's turn."""
    is_gemma4 = "'<|tool_call>call:'" in source
    if is_gemma4 and add_generation_prompt and text.endswith("<turn|>\n"):
        return text + "<|turn>model\n"
    return text


def preserve_reasoning(messages: Sequence[Message]) -> bool:
    """Whether templates that leave it open show earlier thoughts to the model again: not as soon as there are some.

    llama.cpp's server always says true (common/arg.cpp), but thoughts soon fill a context as small as people's machines
    allow, and without them each turn reads only the last answer again. While there are none it is true here too: what
    stands for no thought is then written as it was in the prompt, and nothing of the KV cache is lost.
    """
    return not any(message.thoughts for message in messages)


def expand_variables(variables: Mapping[str, object]) -> Fields:
    """The variables, and the other names that templates know them by (common/jinja/caps.cpp, caps_apply_*)."""
    given = dict(variables)
    names: Fields = {}
    preserve = given.get("preserve_reasoning")
    if isinstance(preserve, bool):
        opposites = ("clear_thinking", "truncate_history_thinking", "drop_thinking")
        names |= {"preserve_thinking": preserve} | dict.fromkeys(opposites, not preserve)
    if "reasoning_effort" in given:
        names["reasoning_strength"] = given["reasoning_effort"]
    return names | given


def _known_role(role: str) -> str:
    return "system" if role == "developer" else role


def _typed_roles(source: str, capabilities: Capabilities) -> frozenset[str] | None:
    """Roles whose content must be typed; None is all of them."""
    if capabilities.only_typed_content:
        return None
    return frozenset({"system", "assistant"}) if _is_ministral3(source) else frozenset()


def _is_ministral3(source: str) -> bool:
    return all(mark in source for mark in ("[SYSTEM_PROMPT]", "[TOOL_CALLS]", "[ARGS]")) and "[CALL_ID]" not in source
