"""A process that lives for one grammar of a stranger's: whatever it would do to the worker, it does here.

Reads an engine.grammar_check.Question as JSON from stdin. Writes {"gbnf"} to stdout where the
grammar is one that the model's vocabulary can be held to, {"error", "hint"} where it is none. It loads no weights.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from llmrun.engine.grammar_check import Question
from llmrun.engine.protocol import Generate, Grammar
from llmrun.engine.wire import unpack
from llmrun.errors import LLMRunError, UsageError
from llmrun.sampling import Sampling
from llmrun.structured.convert import gbnf_of
from llmrun.structured.gbnf import check_grammar
from llmrun.worker.chat_format import load_chat_template
from llmrun.worker.grammar import CANDIDATE, AnswerGrammar
from llmrun.worker.llama import load_words, start_backend
from llmrun.worker.prompt import PromptEncoder
from llmrun.worker.vocabulary import Vocabulary

# Conversion, compilation and a first few tokens take 0.01 to 0.4 s for what people write;
# what is hostile takes for ever.
_CPU_SECONDS = 3
_MEMORY = 1 << 30  # bytes beside the vocabulary's
_TRIAL_TOKENS = 64
_TRIAL_SECONDS = 1.0
_TRIAL_BREADTH = 512  # tokens of the vocabulary that are tried at each place


def main() -> None:
    """Answer the one question that stdin holds."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    question = unpack(sys.stdin.buffer.read(), Question)
    try:
        start_backend()
        model = load_words(Path(os.fsdecode(question.path.encode("latin-1"))))
        encoder = PromptEncoder(model.vocabulary, load_chat_template(model)) if question.tools else None
        _limit()
        answer = {"gbnf": _compile(_grammar_of(question, encoder), model.vocabulary)}
    except LLMRunError as error:
        answer = {"error": error.message} | ({} if error.hint is None else {"hint": error.hint})
    out.write(json.dumps(answer))
    out.close()
    os._exit(0)  # freeing takes its time, and nobody waits for it


def _limit() -> None:
    """Let the system end this process where it takes too much (not on Windows, where only time is bounded)."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + _CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + _MEMORY, mapped + _MEMORY))


def _grammar_of(question: Question, encoder: PromptEncoder | None) -> Grammar:
    """Return what is to be compiled: with tools what the worker itself makes of them; raises UsageError."""
    grammar = question.grammar
    if encoder is not None:
        tools, choice = question.tools, question.choice
        grammar = encoder.grammar(Generate((), Sampling(), grammar=grammar, tools=tools, tool_choice=choice))
    if grammar is None:
        raise UsageError("there is no grammar to compile")
    return grammar


def _compile(grammar: Grammar, vocabulary: Vocabulary) -> str:
    """Return the grammar as llama.cpp takes it; raises UsageError."""
    gbnf = gbnf_of(grammar.text) if grammar.kind == "json_schema" else grammar.text
    check_grammar(gbnf)
    _try(AnswerGrammar(Grammar("gbnf", gbnf), vocabulary), vocabulary)
    return gbnf


def _try(grammar: AnswerGrammar, vocabulary: Vocabulary) -> None:
    """Write a little by the grammar: one that reads its text in ever more ways is found out within a few tokens."""
    chance = np.random.default_rng(0)
    until = time.perf_counter() + _TRIAL_SECONDS
    for _ in range(_TRIAL_TOKENS):
        if time.perf_counter() > until:
            return
        some = chance.permutation(vocabulary.n_tokens)
        chosen = _first(grammar, vocabulary, some[:_TRIAL_BREADTH]) or _first(grammar, vocabulary, some)
        if chosen is None:
            return
        grammar.accept(chosen)


def _first(grammar: AnswerGrammar, vocabulary: Vocabulary, tokens: np.ndarray[Any, np.dtype[Any]]) -> int | None:
    """Return the first of some tokens that goes on with the text, None where none does."""
    candidates = np.zeros(len(tokens), CANDIDATE)
    candidates["id"] = tokens
    for token in grammar.filter(candidates)["id"].tolist():
        if token and not vocabulary.is_end(token) and grammar.allows(token):
            return int(token)
    return None


if __name__ == "__main__":
    try:
        main()
    except MemoryError:
        raise SystemExit(1) from None
