"""chat.exact: where guide can only estimate, the command that knows is named, once."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from llmrun.chat.exact import exact_command
from llmrun.chat.settings import AnswerSettings
from llmrun.chat.talk import Talk
from llmrun.cli.main import app
from llmrun.console import Console
from llmrun.engine.client import Engine
from tests.conftest import GREEDY, ONE_THREAD

PROGRAM: Any = typer.main.get_command(app)
ASKED = {
    "does qwen3 8b fit on my laptop": "llmrun plan qwen3:8b",
    "Can I run llama 3.1 8B here?": "llmrun plan llama3.1:8b",
    "gemma3:4b vram?": "llmrun plan gemma3:4b",
    "how much memory does a 7B model need at 8 bits": "llmrun estimate --params 7b --bits 8",
    "will a 13 billion model in q5 fit in 12 gb": "llmrun estimate --params 13b --bits 5",
    "how much vram for 1.5b": "llmrun estimate --params 1.5b --bits 4",
    "which model runs well on my machine?": "llmrun chat",
}


@pytest.mark.parametrize(("question", "command"), ASKED.items())
def test_numbers_that_matter_have_a_command_that_is_understood(question: str, command: str) -> None:
    assert exact_command(question) == command
    _, name, *words = shlex.split(command)
    known = PROGRAM.commands[name]
    assert known.make_context(name, words) is not None


@pytest.mark.parametrize(
    "question", ["what is qwen3:8b", "what does 7b mean", "is 16 gb enough", "hello", "what is a kv cache", "8b", ""]
)
def test_what_is_only_being_talked_about_has_none(question: str) -> None:
    assert exact_command(question) is None


class Terminal(io.StringIO):
    """What a person looks at."""

    def isatty(self) -> bool:
        return True


def test_the_chat_names_it_once_and_only_for_guide(guide_file: Path, start_engine: Callable[..., Engine]) -> None:
    def start() -> Engine:
        return start_engine(guide_file, ONE_THREAD)

    shown = Terminal()
    talk = Talk(start(), start, AnswerSettings(GREEDY, {}), Console(out=io.StringIO(), err=shown))
    talk.run(["does qwen3:8b fit on my laptop", "and qwen3:8b in ram, does it fit"])
    assert shown.getvalue().count("llmrun plan qwen3:8b") == 1
    assert isinstance(talk.engine, Engine)
    assert talk.engine.info is not None
    talk.engine.info = replace(talk.engine.info, name="another")
    talk.run(["does qwen3:4b fit on my laptop"])
    assert "qwen3:4b" not in shown.getvalue()
