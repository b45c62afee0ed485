"""A grammar of a stranger's, compiled in a process of its own before the worker sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from llmrun.engine.protocol import Grammar
from llmrun.errors import EngineError, UsageError

_SECONDS = 30.0  # of everything, on a busy machine; its processor time is bounded within
_MAX_ANSWER = 64 << 20  # bytes


def compile_grammar(path: Path, grammar: Grammar) -> Grammar:
    """Return a grammar or a schema as GBNF that the worker can take without harm; takes about a second.

    path: the file of the model whose vocabulary it is for. Raises UsageError where it cannot be had, or takes more time
    or memory than any that people write.
    """
    wire_path = os.fsencode(path).decode("latin-1")
    question = json.dumps({"path": wire_path, "kind": grammar.kind, "text": grammar.text})
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "llmrun.worker.grammar_check"],
            input=question.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"GGML_NO_BACKTRACE": "1"},
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _too_much(grammar) from error
    except OSError as error:
        raise EngineError(f"the grammar could not be checked: {error.strerror}", "close other programs") from error
    if done.returncode != 0 or not done.stdout or len(done.stdout) > _MAX_ANSWER:
        raise _too_much(grammar)
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise UsageError(answer["error"], answer.get("hint"))
    return Grammar("gbnf", answer["gbnf"], is_json=grammar.kind == "json_schema")


def _too_much(grammar: Grammar) -> UsageError:
    what = "grammar" if grammar.kind == "gbnf" else "schema"
    return UsageError(f"the {what} takes too much time or memory to compile", "make it simpler")
