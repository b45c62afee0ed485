"""Every chat template in llama.cpp's models/templates renders as llama.cpp's own renderer does.

tests/golden/templates.json is what llama-server's /apply-template said, recorded once by scripts/record_templates.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from llmrun.errors import GGUFError
from llmrun.message import Message
from llmrun.worker.template import ChatTemplate, load_template
from tests.engine_source import extract_folder

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "templates.json").read_text(encoding="utf-8"))
TEMPLATES: dict[str, dict[str, dict[str, str]]] = GOLDEN["templates"]

# (template, conversation): why the two engines differ. Empty, and meant to stay so.
DIFFERENCES: dict[tuple[str, str], str] = {}


def no_builtin(template: str, messages: Sequence[Message], add_generation_prompt: bool) -> str | None:
    """A llama.cpp without built-in templates, so that no fallback hides a failure."""
    return None


def load_recorded(name: str) -> ChatTemplate:
    """The template as it was when llama.cpp rendered it: same file, tokens and day."""
    return load_template(
        (extract_folder("models") / "templates" / name).read_text(encoding="utf-8"),
        bos_token=GOLDEN["bos_token"],
        eos_token=GOLDEN["eos_token"],
        architecture="llama",
        builtin=no_builtin,
        clock=lambda: datetime.fromisoformat(GOLDEN["now"]),
    )


def render(template: ChatTemplate, conversation: str) -> dict[str, str]:
    """What we make of a conversation, in the form of the golden file."""
    messages = [Message(**fields) for fields in GOLDEN["conversations"][conversation]]
    try:
        return {"text": template.render(messages)}
    except GGUFError as error:
        return {"refused": error.message.removeprefix("the model's chat template refuses this conversation: ")}


def test_every_template_of_the_engine_is_recorded_with_every_conversation() -> None:
    """The golden file covers all that llama.cpp ships: a new engine needs a new recording."""
    names = {file.name for file in (extract_folder("models") / "templates").glob("*.jinja")}
    assert set(TEMPLATES) == names
    assert all(set(texts) == set(GOLDEN["conversations"]) for texts in TEMPLATES.values())


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_text_is_llama_cpps_byte_for_byte(name: str) -> None:
    """Text, or the refusal in the template's own words; where the table lists a difference there must be one."""
    template = load_recorded(name)
    assert (template.source_name, template.notice) == ("gguf", None)
    rendered = {conversation: render(template, conversation) for conversation in TEMPLATES[name]}
    listed = {conversation for listed_name, conversation in DIFFERENCES if listed_name == name}
    differing = {conversation for conversation in rendered if rendered[conversation] != TEMPLATES[name][conversation]}
    for conversation in sorted(differing - listed):
        assert rendered[conversation] == TEMPLATES[name][conversation]
    assert differing == listed, "these agree now: take them out of DIFFERENCES"


def test_the_table_of_differences_names_what_is_recorded_and_why() -> None:
    """An entry of the table is a recorded template and conversation, with a reason."""
    assert all(conversation in TEMPLATES[name] and reason for (name, conversation), reason in DIFFERENCES.items())
