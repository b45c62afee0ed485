"""Models that ask for tools, in the formats of real ones: with the chat templates of those, and one thing to say."""

from __future__ import annotations

import functools
from pathlib import Path

from llmrun.message import Tool
from tests.engine_source import extract_folder
from tests.thinking_models import write_script

QWEN25 = "Qwen-Qwen2.5-7B-Instruct"
QWEN3 = "Qwen-Qwen3-0.6B"
CODER = "Qwen3-Coder"
HERMES3 = "NousResearch-Hermes-3-Llama-3.1-8B-tool_use"
LLAMA31 = "meta-llama-Llama-3.1-8B-Instruct"
LLAMA32 = "meta-llama-Llama-3.2-3B-Instruct"
LLAMA33 = "meta-llama-Llama-3.3-70B-Instruct"
NEMO = "mistralai-Mistral-Nemo-Instruct-2407"
SMALL = "Mistral-Small-3.2-24B-Instruct-2506"
DEVSTRAL = "unsloth-mistral-Devstral-Small-2507"

WEATHER = Tool(
    "get_weather",
    "The weather of a city.",
    '{"type": "object", "properties": {"city": {"type": "string", "description": "its name"},'
    ' "days": {"type": "integer"}}, "required": ["city"]}',
)
CLOCK = Tool("get_time", "The time.", '{"type": "object", "properties": {}}')

# Templates whose prompt does not end with a newline begin the script otherwise: this follows the generation prompt
_NEWLINE = "{%- if add_generation_prompt %}{{- '\\n' }}{%- endif %}"


@functools.cache
def template_of(name: str) -> str:
    """The template of a model as llama.cpp ships it."""
    return (extract_folder("models") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def write_tool_model(path: Path, name: str, script: list[str], controls: tuple[str, ...] = ()) -> Path:
    """Write a model with the template of another that writes a script, whose pieces must all be different."""
    source = template_of(name)
    return write_script(path, source if "<|im_start|>" in source else source + _NEWLINE, script, controls)
