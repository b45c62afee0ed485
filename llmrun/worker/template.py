"""Chat templates: which one a model's conversations are rendered with, and the rendering.

The chain is the GGUF's own template, llama.cpp's built-in one, ChatML; whichever is used has passed a self-test on
ordinary conversations. The C function behind the built-in ones is handed in: this module imports no engine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from llmrun.errors import GGUFError
from llmrun.message import Message
from llmrun.thinking import Thinking, Variables
from llmrun.worker import template_jinja, template_quirks
from llmrun.worker.reasoning import Format
from llmrun.worker.template_jinja import TEMPLATE_FAILURES, Clock, TemplateRefusalError
from llmrun.worker.template_quirks import Capabilities, Fields
from llmrun.worker.template_thinking import HARMONY, USUAL, Said, find_format, find_thinking
from llmrun.worker.tools.detect import find_shape, find_tools
from llmrun.worker.tools.fields import shape_messages
from llmrun.worker.tools.format import CallShape, ToolFormat

if TYPE_CHECKING:
    from jinja2 import Template

MAX_TEMPLATE_BYTES = 256 * 1024

# Built-in templates (llama_chat_builtin_templates) of architectures with another name, where one format is the rule.
BUILTIN_BY_ARCHITECTURE = {
    "bailingmoe": "bailing",
    "bailingmoe2": "bailing2",
    "chatglm": "chatglm4",
    "cohere2": "command-r",
    "exaone": "exaone3",
    "gemma2": "gemma",
    "gemma3": "gemma",
    "gemma3n": "gemma",
    "glm4": "chatglm4",
    "granitehybrid": "granite-4.0",
    "granitemoe": "granite",
    "grok": "grok-2",
    "hunyuan_vl": "hunyuan-vl",
    "phimoe": "phi3",
    "rwkv6": "rwkv-world",
    "rwkv7": "rwkv-world",
}
_CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

_MARK = "llmrun-self-test"
_PROBE = (Message("user", _MARK),)
_SYSTEM_PROBE = (Message("system", _MARK), Message("user", "Hello"))
_SELF_TEST = (
    _PROBE,
    (Message("system", "Be brief."), *_PROBE),
    (Message("user", "Hello"), Message("assistant", "Hi!"), *_PROBE),
)


class BuiltinTemplates(Protocol):
    """llama_chat_apply_template: `template` is a built-in one's name, or a template whose format it recognizes."""

    def __call__(self, template: str, messages: Sequence[Message], add_generation_prompt: bool) -> str | None:
        """The text, or None where llama.cpp knows no such template."""


Tools = Sequence[Mapping[str, object]] | None
_Render = Callable[[Sequence[Message], bool, Tools, Fields], str]


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The template in use. source_name: "gguf", "builtin:<name>" or "chatml"; notice: why it is not the file's own.

    format: the marks around thoughts; thinking: what can be set about them. tools: how the model asks for tools, None
    where that is not known.
    """

    source_name: str
    notice: str | None
    _render: _Render
    format: Format = USUAL
    thinking: Thinking = field(default_factory=Thinking)
    tools: ToolFormat | None = None
    _render_tools: _Render | None = None  # where the file has a template of its own for them

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Tools = None,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """The conversation as text for the tokenizer, BOS included where the template writes one.

        tools and variables (enable_thinking, reasoning_effort, ...) mean nothing to a built-in template. Raises
        GGUFError with the template's own words where it refuses; the process ends where it takes over RENDER_SECONDS.
        """
        render = self._render if not tools or self._render_tools is None else self._render_tools
        try:
            return render(messages, add_generation_prompt, tools, dict(variables or {}))
        except TemplateRefusalError as error:
            raise GGUFError(f"the model's chat template refuses this conversation: {error}") from error
        except TEMPLATE_FAILURES as error:
            raise GGUFError(f"the model's chat template fails on this conversation: {_why(error)}") from error


def load_template(
    source: str | None,
    *,
    bos_token: str,
    eos_token: str,
    architecture: str,
    builtin: BuiltinTemplates,
    clock: Clock = datetime.now,
    tool_source: str | None = None,
) -> ChatTemplate:
    """The first template of the chain that renders ordinary conversations; source is the GGUF's, None if it has none.

    tool_source: the GGUF's other one, for conversations with tools, which is used where the first knows none.
    Raises GGUFError for one over MAX_TEMPLATE_BYTES or past the limits of template_limits: such a file is not trusted
    with a fallback either.
    """
    if not source:
        name = BUILTIN_BY_ARCHITECTURE.get(architecture, architecture)
        return _load_fallback(name, name, "the model has no chat template", builtin, clock)
    _check_size(source)
    try:
        template = _compile(source, bos_token, eos_token, clock)
        _self_test(template.render)
    except (TemplateRefusalError, *TEMPLATE_FAILURES) as error:
        problem = f"the model's own chat template does not work ({_why(error)})"
        return _load_fallback(source, "detected", problem, builtin, clock)
    found = find_format(template.source, template.render_trial)
    thinking = find_thinking(template.source, found, template.render_trial)
    template, tools = _with_tools(template)
    chosen = ChatTemplate("gguf", None, template.render, found or USUAL, thinking, tools)
    if tools is not None or not tool_source:
        return chosen
    _check_size(tool_source)
    with contextlib.suppress(TemplateRefusalError, *TEMPLATE_FAILURES):  # then the model has no tools
        for_tools, tools = _with_tools(_compile(tool_source, bos_token, eos_token, clock))
        return replace(chosen, tools=tools, _render_tools=for_tools.render if tools else None)
    return chosen


def _check_size(source: str) -> None:
    size = len(source.encode("utf-8", "replace"))
    if size > MAX_TEMPLATE_BYTES:
        raise GGUFError(
            f"the model's chat template has {size:,} bytes, at most {MAX_TEMPLATE_BYTES:,} are allowed",
            "the file is broken or hostile: use another one",
        )


def _with_tools(template: _JinjaTemplate) -> tuple[_JinjaTemplate, ToolFormat | None]:
    """The template with what is found out of how it takes tools, and the format of its calls."""
    found = find_tools(template.source, template.render_tool_trial)
    tools, shape = found or (None, find_shape(template.source, template.render_tool_trial))
    return replace(template, capabilities=replace(template.capabilities, calls=shape)), tools


def _load_fallback(template: str, name: str, problem: str, builtin: BuiltinTemplates, clock: Clock) -> ChatTemplate:
    """llama.cpp's built-in template where it has one for `template` (a name or a source), else ChatML."""

    def render(messages: Sequence[Message], add_generation_prompt: bool, tools: Tools, variables: Fields) -> str:
        del tools, variables
        text = builtin(template, shape_messages(messages, CallShape(in_words=True)), add_generation_prompt)
        if text is None:
            raise LookupError("llama.cpp has no built-in template for it")
        return text

    try:
        _self_test(render)
    except TEMPLATE_FAILURES:
        chatml, _ = _with_tools(_compile(_CHATML, "", "", clock))
        return ChatTemplate("chatml", f"{problem}; using ChatML, the most common format", chatml.render)
    notice = f"{problem}; using llama.cpp's built-in one ({name})"
    return ChatTemplate(f"builtin:{name}", notice, render, HARMONY if name == "gpt-oss" else USUAL)


@dataclass(frozen=True, slots=True)
class _JinjaTemplate:
    """A compiled template of a file, and what has been found out about it."""

    template: Template
    source: str
    bos_token: str
    eos_token: str
    clock: Clock
    capabilities: Capabilities

    def render(self, messages: Sequence[Message], add_generation_prompt: bool, tools: Tools, variables: Fields) -> str:
        """The text for a conversation, as llama.cpp makes it."""
        variables = {"preserve_reasoning": template_quirks.preserve_reasoning(messages)} | variables
        prepared = template_quirks.prepare_messages(self.source, self.capabilities, messages)
        text = self.render_fields(prepared, add_generation_prompt, tools, variables)
        return template_quirks.finish_text(self.source, text, add_generation_prompt)

    def render_fields(
        self,
        messages: Sequence[Fields],
        add_generation_prompt: bool = True,
        tools: Tools = None,
        variables: Fields | None = None,
    ) -> str:
        """The text for messages that are already in the template's form."""
        now = self.clock()
        context: Fields = {
            "messages": messages,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "enable_thinking": self.capabilities.thinking,
            "datetime": now.strftime("%b %d %Y"),
            "date_string": now.strftime("%d %b %Y"),
        }
        # Not defined rather than false or none: llama.cpp's way, and templates ask `is defined`.
        context |= {"tools": tools} if tools else {}
        context |= {"add_generation_prompt": True} if add_generation_prompt else {}
        context |= template_quirks.expand_variables(variables or {})
        input_length = len(self.source) + len(str(messages)) + len(str(tools or ""))
        return template_jinja.render_template(self.template, context, input_length)

    def render_tool_trial(
        self, messages: Sequence[Message], shape: CallShape, *, tools: Tools, add_generation_prompt: bool
    ) -> str | None:
        """The text for a conversation with tools that is only tried; None where the template refuses or fails."""
        tried = replace(self, capabilities=replace(self.capabilities, calls=shape))
        try:
            return tried.render(messages, add_generation_prompt, tools, {"preserve_reasoning": True})
        except (TemplateRefusalError, *TEMPLATE_FAILURES):
            return None

    def render_trial(self, question: str, said: Said | None, variables: Variables) -> str | None:
        """The text for a conversation that is only tried; None where the template refuses or fails."""
        messages = [Message("user", question)]
        messages += [] if said is None else [Message("assistant", said.answer, said.thought or "")]
        try:
            return self.render(messages, said is None, None, {"preserve_reasoning": True, **variables})
        except (TemplateRefusalError, *TEMPLATE_FAILURES):
            return None


def _compile(source: str, bos_token: str, eos_token: str, clock: Clock) -> _JinjaTemplate:
    """The template with its capabilities, found by trying, as llama.cpp's common/jinja/caps.cpp does."""
    source = template_quirks.patch_source(source)
    compiled = template_jinja.compile_template(source, clock)
    template = _JinjaTemplate(compiled, source, bos_token, eos_token, clock, Capabilities())
    only_typed = not _shows_mark(template, _PROBE, typed=False) and _shows_mark(template, _PROBE, typed=True)
    template = replace(template, capabilities=Capabilities(only_typed_content=only_typed))
    system_role = _shows_mark(template, _SYSTEM_PROBE, typed=only_typed)
    capabilities = Capabilities(system_role=system_role, only_typed_content=only_typed)
    template = replace(template, capabilities=capabilities)
    thinking = "enable_thinking" not in source or _can_think(template)
    return replace(template, capabilities=replace(capabilities, thinking=thinking))


def _shows_mark(template: _JinjaTemplate, messages: Sequence[Message], *, typed: bool) -> bool:
    """Whether the marked content of these messages reaches the text."""
    try:
        fields = [template_quirks.to_fields(message, typed=typed) for message in messages]
        return _MARK in template.render_fields(fields)
    except (TemplateRefusalError, *TEMPLATE_FAILURES):
        return False


def _can_think(template: _JinjaTemplate) -> bool:
    """Whether thinking is part of the model's turn: switching it changes how that begins, or thoughts stand in it.

    A template that only tells the model in words (Apertus) is left at its default, as llama.cpp does
    (common/chat-diff-analyzer.cpp, analyze_reasoning).
    """
    on, off = (template.render_trial(_MARK, None, {"enable_thinking": value}) for value in (True, False))
    if on is None or off is None:
        return False
    if on.rpartition(_MARK)[2] != off.rpartition(_MARK)[2]:
        return True
    return "Thoughts." in (template.render_trial(_MARK, Said("Hi!", "Thoughts."), {}) or "")


def _self_test(render: _Render) -> None:
    """Raises unless ordinary conversations can be rendered, with what the user said in the text."""
    for conversation in _SELF_TEST:
        if _MARK not in render(conversation, True, None, {}):
            raise ValueError("it leaves out what the user says")


def _why(error: BaseException) -> str:
    """A foreign error in a few words, for a sentence of ours."""
    text = " ".join(str(error).split())[:200]
    return text or type(error).__name__
