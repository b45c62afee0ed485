"""A grammar of a stranger's, compiled in a process of its own before the worker sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmrun.engine.protocol import Grammar
from llmrun.engine.wire import pack
from llmrun.errors import EngineError, UsageError
from llmrun.message import Tool, ToolChoice

_SECONDS = 30.0  # of everything, on a busy machine; its processor time is bounded within
_MAX_ANSWER = 64 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Question:
    """What the process is asked. path: of the model whose vocabulary and template count, as of protocol.Load."""

    path: str
    grammar: Grammar | None
    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = field(default_factory=ToolChoice)


def compile_grammar(path: Path, grammar: Grammar) -> Grammar:
    """Return a grammar or a schema as GBNF that the worker can take without harm; takes about a second.

    path: the file of the model whose vocabulary it is for. Raises UsageError where it cannot be had, or takes more time
    or memory than any that people write.
    """
    text = _compile(Question(_on_the_wire(path), grammar), is_grammar=grammar.kind == "gbnf")
    return Grammar("gbnf", text, is_json=grammar.kind == "json_schema")


def check_calls(path: Path, tools: Sequence[Tool], choice: ToolChoice, instead: Grammar | None) -> None:
    """Raise as compile_grammar does where the worker would take harm from the grammar that it makes for calls of tools.

    instead: the schema of what may be answered in the place of a call.
    """
    _compile(Question(_on_the_wire(path), instead, tuple(tools), choice), is_grammar=False)


def _on_the_wire(path: Path) -> str:
    return os.fsencode(path).decode("latin-1")


def _compile(question: Question, *, is_grammar: bool) -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "llmrun.worker.grammar_check"],
            input=pack(question),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"GGML_NO_BACKTRACE": "1"},
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _too_much(is_grammar=is_grammar) from error
    except OSError as error:
        raise EngineError(f"the grammar could not be checked: {error.strerror}", "close other programs") from error
    if done.returncode != 0 or not done.stdout or len(done.stdout) > _MAX_ANSWER:
        raise _too_much(is_grammar=is_grammar)
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise UsageError(answer["error"], answer.get("hint"))
    return str(answer["gbnf"])


def _too_much(*, is_grammar: bool) -> UsageError:
    what = "grammar" if is_grammar else "schema"
    return UsageError(f"the {what} takes too much time or memory to compile", "make it simpler")
