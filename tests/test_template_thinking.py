"""worker.template_thinking: what templates say of thoughts, for all that llama.cpp ships."""

from __future__ import annotations

from typing import Any

import pytest

from llmrun.message import Message
from llmrun.thinking import Thinking
from llmrun.worker.reasoning import Format
from llmrun.worker.template_thinking import HARMONY, KIMI_K3, MUSE, SOLAR
from tests.test_template_golden import TEMPLATES, load_recorded

ON_OFF = {"on": {"enable_thinking": True}, "off": {"enable_thinking": False}}
CHANNELS: dict[str, Format] = {"openai-gpt-oss-120b": HARMONY, "muse-glimmer": MUSE, "Kimi-K3": KIMI_K3}
CHANNELS |= {"upstage-Solar-Open-100B": SOLAR}
# Template: what it does unasked, where its thoughts begin, what can be chosen. All others of llama.cpp's do not think.
FOUND: dict[str, tuple[str, str, Any]] = {
    "Apertus-8B-Instruct": ("off", "<|inner_prefix|>", ON_OFF),
    "Apriel-1.6-15b-Thinker-fixed": ("on", "Here are my reasoning steps:", {}),
    "Bielik-11B-v3.0-Instruct": ("on", "<think>", ON_OFF),
    "ByteDance-Seed-OSS": ("on", "<seed:think>", {"on": {"thinking_budget": -1}, "off": {"thinking_budget": 0}}),
    "Cohere2MoE": ("on", "<|START_THINKING|>", {"on": {}, "off": {"reasoning_effort": "none"}}),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("on", "<|START_THINKING|>", ON_OFF),
    "GLM-4.6": ("on", "<think>", ON_OFF),
    "GLM-4.7-Flash": ("on", "<think>", ON_OFF),
    "HuggingFaceTB-SmolLM3-3B": ("on", "<think>", ON_OFF),
    "Kimi-K2-Thinking": ("on", "<think>", {}),
    "Kimi-K3": (
        "on",
        "<|open|>",
        {"on": {"thinking": True}, "off": {"thinking": False}}
        | {level: {"thinking": True, "thinking_effort": level} for level in ("low", "high")},
    ),
    "LFM2.5-8B-A1B": ("on", "<think>", {}),
    "LFM2.5-Instruct": ("on", "<think>", {}),
    "MiniMax-M2": ("on", "<think>", {}),
    "MiniMax-M3": (
        "on",
        "<mm:think>",
        {"on": {"thinking_mode": "enabled"}, "off": {"thinking_mode": "disabled"}},
    ),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("on", "<think>", ON_OFF),
    "NVIDIA-Nemotron-Nano-v2": ("on", "<think>", {}),
    "Qwen-QwQ-32B": ("on", "<think>", ON_OFF),
    "Qwen-Qwen3-0.6B": ("on", "<think>", ON_OFF),
    "Qwen3.5-4B": ("on", "<think>", ON_OFF),
    "Reka-Edge": ("on", "<think>", ON_OFF),
    "Spark2.5": ("on", "<think>", ON_OFF),
    "StepFun3.5-Flash": ("on", "<think>", {}),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("on", "<think>", {}),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("on", "<think>", ON_OFF),
    "deepseek-ai-DeepSeek-V3.1": ("on", "<think>", ON_OFF),
    "deepseek-ai-DeepSeek-V3.2": ("on", "<think>", ON_OFF),
    "deepseek-ai-DeepSeek-V4": ("on", "<think>", ON_OFF),
    "deepseek-ai-DeepSeek-V4-Flash-0731": (
        "on",
        "<think>",
        ON_OFF | {"high": {"enable_thinking": True, "reasoning_effort": "high"}},
    ),
    "google-gemma-4-31B-it": ("on", "<|channel>thought", ON_OFF),
    "google-gemma-4-31B-it-interleaved": ("on", "<|channel>thought", ON_OFF),
    "ibm-granite-granite-3.3-2B-Instruct": ("off", "<think>", {"on": {"thinking": True}, "off": {"thinking": False}}),
    "inclusionai-ling-3.0-flash": ("on", "<think>", ON_OFF),
    "llama-cpp-deepseek-r1": ("on", "<think>", {}),
    "llama-cpp-rwkv-world": ("on", "<think>", ON_OFF),
    "mistralai-Ministral-3-14B-Reasoning-2512": ("on", "[THINK]", {}),
    "muse-glimmer": (
        "high",
        "<|eom|>",
        {level: {"reasoning_effort": level} for level in ("low", "medium", "high")}
        | {"on": {"reasoning_effort": "high"}},
    ),
    "openai-gpt-oss-120b": (
        "medium",
        "<|end|>",
        {level: {"reasoning_effort": level} for level in ("low", "medium", "high")}
        | {"on": {"reasoning_effort": "medium"}},
    ),
    "openbmb-MiniCPM5-1B": ("on", "<think>", ON_OFF),
    "poolside-Laguna-S-2.1": ("on", "<think>", ON_OFF),
    "poolside-Laguna-XS-2.1": ("on", "<think>", ON_OFF),
    "poolside-Laguna-XS.2": ("on", "<think>", ON_OFF),
    "tencent-Hy3": (
        "off",
        "<think:opensource>",
        {"off": {"reasoning_effort": "no_think"}, "on": {"reasoning_effort": "high"}}
        | {level: {"reasoning_effort": level} for level in ("low", "high")},
    ),
    "unsloth-Apriel-1.5": ("on", "Here are my reasoning steps:", {}),
    "upstage-Solar-Open-100B": (
        "high",
        "<|end|>",
        {"off": {"reasoning_effort": "minimal"}, "on": {"reasoning_effort": "high"}}
        | {level: {"reasoning_effort": level} for level in ("low", "high")},
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_template_can_set_is_found_by_trying_it(name: str) -> None:
    """For each of llama.cpp's: whether its model thinks, by which marks, what it does unasked, what can be chosen."""
    template = load_recorded(name)
    expected = FOUND.get(name.removesuffix(".jinja"))
    if expected is None:
        assert template.thinking == Thinking()
        return
    found = template.thinking
    assert found.can_think
    assert (found.default, template.format.marks[0], found.choices) == expected
    assert template.format == CHANNELS.get(name.removesuffix(".jinja"), template.format)


@pytest.mark.parametrize("name", [name for name, (_, _, choices) in FOUND.items() if choices])
def test_what_can_be_chosen_is_something_to_the_template(name: str) -> None:
    """On and off give different prompts, and so do the levels."""
    template = load_recorded(f"{name}.jinja")
    question = (Message("user", "Hello"),)
    texts = {word: template.render(question, variables=found) for word, found in template.thinking.choices.items()}
    assert len(set(texts.values())) >= min(2, len(texts))
    if "off" in texts:
        assert texts["on"] != texts["off"]


# Templates that show earlier thoughts to their model whatever is asked for, and those that do where that is asked for
WANTED = {
    "Bielik-11B-v3.0-Instruct",
    "ByteDance-Seed-OSS",
    "Cohere2MoE",
    "Kimi-K3",
    "MiniMax-M3",
    "Spark2.5",
    "inclusionai-ling-3.0-flash",
    "mistralai-Ministral-3-14B-Reasoning-2512",
    "muse-glimmer",
    "poolside-Laguna-S-2.1",
    "poolside-Laguna-XS-2.1",
    "poolside-Laguna-XS.2",
}
ASKED_FOR = {
    "GLM-4.7-Flash",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "deepseek-ai-DeepSeek-V4",
    "deepseek-ai-DeepSeek-V4-Flash-0731",
}


@pytest.mark.parametrize("name", FOUND)
def test_earlier_thoughts_are_shown_to_the_model_only_where_its_template_wants_that(name: str) -> None:
    """Not where it leaves the choice, unless preserve_reasoning is chosen."""
    template = load_recorded(f"{name}.jinja")
    said = Message("assistant", "Yes.", "llmrun-thought")
    conversation = (Message("user", "Is it?"), said, Message("user", "Why?"))
    assert ("llmrun-thought" in template.render(conversation)) == (name in WANTED)
    preserved = template.render(conversation, variables={"preserve_reasoning": True})
    assert ("llmrun-thought" in preserved) == (name in WANTED | ASKED_FOR)
