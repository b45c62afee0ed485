"""worker.reasoning and worker.template_thinking: what is thought and what is answer, for every format there is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.engine.protocol import Message
from llmrun.worker.reasoning import CONTROL, Channels, Format, Span, Splitter, Tags, mark_controls
from llmrun.worker.template_thinking import HARMONY, KIMI_K3, MUSE, SOLAR, USUAL
from tests.test_template_golden import load_recorded


class Case(TypedDict):
    """An answer in a model's format, and what llama.cpp makes of it (scripts/record_reasoning)."""

    template: str
    text: str
    thinking: bool
    content: str
    thoughts: str


CASES: list[Case] = json.loads((Path(__file__).parent / "golden" / "reasoning.json").read_text("utf-8"))

# What a model writes there and llama.cpp cuts off is an end of a turn to the engine: it never comes as text.
ENDS = ("<|eot|>", "<|role_end|>", "<turn|>", "<|im_end|>", "<|eom|>")

# (template, text): why it is something else here.
DIFFERENCES = {
    ("meetkai-functionary-medium-v3.2.jinja", "all\nHello, world!\nWhat's up?"): "a recipient of tools, which llmrun has not",
}


def split(splitter: Splitter, *pieces: str) -> tuple[str, str]:
    """Thoughts and answer of a text that comes in pieces."""
    spans = [span for piece in pieces for span in splitter.push(piece)] + splitter.finish()
    return joined(spans, thought=True), joined(spans, thought=False)


def joined(spans: Sequence[Span], *, thought: bool) -> str:
    return "".join(span.text for span in spans if span.thought == thought)


def prompt_of(case: Case) -> tuple[Format, str]:
    template = load_recorded(case["template"])
    variables = template.thinking.choices.get("off", {}) if not case["thinking"] else {}
    return template.format, template.render((Message("user", "Hey there!"),), variables=variables)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['template'][:20]}-{hash(case['text']) % 997}")
def test_thoughts_and_answers_are_llama_cpps(case: Case) -> None:
    """All of the answer at once, one character after the other, and with the marks as control tokens."""
    if (case["template"], case["text"]) in DIFFERENCES:
        pytest.skip(DIFFERENCES[case["template"], case["text"]])
    found, prompt = prompt_of(case)
    text = case["text"]
    for end in ENDS:
        text = text.removesuffix(end)
    expected = case["thoughts"].strip(), case["content"]
    assert split(found.splitter(prompt), text) == expected
    assert split(found.splitter(prompt), *text) == expected
    controls = sorted({mark for mark in found.marks if mark.startswith("<|") and mark.endswith("|>")})
    assert split(found.splitter(prompt, controls), mark_controls(text, controls)) == expected
