"""An answer's grammar: llama.cpp's grammar sampler, kept from what would kill the process or let wrong text through."""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import functools
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib

from llmrun.engine.protocol import Grammar
from llmrun.errors import EngineError, UsageError
from llmrun.structured.convert import gbnf_of
from llmrun.structured.gbnf import ROOT, check_grammar
from llmrun.worker.vocabulary import Vocabulary

# llama.cpp's llama_token_data, as numpy sees it
CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
assert CANDIDATE.itemsize == ctypes.sizeof(lib.llama_token_data)

# An ambiguous grammar can double its readings with every character, and llama.cpp compares each with each. Where one
# token took this long (seconds) or all together this much (bytes), the answer is given up before it gets worse.
_MAX_SECONDS = 0.5
_MAX_GROWTH = 512 << 20
# What a step that cannot be interrupted may take at most: it ends the worker, and nothing else of the machine.
_MAX_STEP_SECONDS = 30.0
_MAX_STEP_BYTES = 2 << 30
_STATM = Path("/proc/self/statm")


class AnswerGrammar:
    """Says which tokens may come next. Raises UsageError for a grammar that cannot be had."""

    def __init__(self, grammar: Grammar, vocabulary: Vocabulary) -> None:
        text = gbnf_of(grammar.text) if grammar.kind == "json_schema" else grammar.text
        self._names_tokens = check_grammar(text).names_tokens
        self._vocabulary = vocabulary
        self._utf8 = codecs.getincrementaldecoder("utf-8")("strict")
        self._grown_from = _resident()
        with _bounded():
            self._sampler = lib.llama_sampler_init_grammar(vocabulary.pointer, text.encode(), ROOT.encode())
        if not self._sampler:  # its log has the reason; check_grammar should have known
            raise UsageError("llama.cpp cannot read the grammar", "llmrun -v shows what it says")

    def allows(self, token: int) -> bool:
        """Tell whether a token may come next; a control token only where it is meant, not the text of its name."""
        if not self._is_text(token) or not self._lets_through(token):
            return False
        if self._vocabulary.piece(token) or self._vocabulary.is_end(token):
            return True
        plain = self._vocabulary.tokenize(self._vocabulary.text(token), parse_special=False)
        return not plain or not self._lets_through(plain[0])

    def _lets_through(self, token: int) -> bool:
        return len(self.filter(np.array([(token, 0.0, 0.0)], CANDIDATE))) == 1

    def filter(self, candidates: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
        """Return the candidates that the grammar lets through; takes milliseconds for a whole vocabulary."""
        array = token_array(candidates)
        with _bounded():
            lib.llama_sampler_apply(self._sampler, ctypes.byref(array))
        kept: np.ndarray[Any, np.dtype[Any]] = candidates[np.isfinite(candidates["logit"])]
        return kept

    def _is_text(self, token: int) -> bool:
        """Tell whether a token stands for bytes that go on what is written as UTF-8, or ends it where it may end.

        llama.cpp's grammar takes control tokens for the text of their names, ends within a character, and knows no
        overlong forms.
        """
        state = self._utf8.getstate()
        if self._vocabulary.is_end(token):
            return not state[0]
        piece = self._vocabulary.piece(token)
        if not piece:
            return self._names_tokens
        try:
            self._utf8.decode(piece)
            begun = self._utf8.getstate()[0]
        except UnicodeDecodeError:
            return False
        finally:
            self._utf8.setstate(state)
        return not (begun[:1] == b"\xed" and begun[1:2] >= b"\xa0")  # half a surrogate, which Python sees too late

    def accept(self, token: int) -> None:
        """Go on with a token that `allows` let through; raises UsageError where the grammar grows without measure."""
        if self._vocabulary.is_end(token):
            return
        self._utf8.decode(self._vocabulary.piece(token))
        started = time.perf_counter()
        with _bounded():
            lib.llama_sampler_accept(self._sampler, token)
        if time.perf_counter() - started > _MAX_SECONDS or _resident() - self._grown_from > _MAX_GROWTH:
            raise UsageError(
                "the grammar can read what is written in too many ways", "let its alternatives begin differently"
            )

    def take(self, text: str) -> None:
        """Go on with text that is written already; raises EngineError where the grammar has no such text."""
        for token in self._vocabulary.tokenize(text, parse_special=False):
            if not self.allows(token):
                raise EngineError(
                    f"the model began its answer with {text!r}, in the token that ended its thought",
                    "ask again, or switch thinking off: --think off",
                )
            self.accept(token)

    def close(self) -> None:
        """Free it."""
        if self._sampler:
            lib.llama_sampler_free(self._sampler)
            self._sampler = None


def token_array(candidates: np.ndarray[Any, np.dtype[Any]]) -> Any:
    """Return candidates as llama.cpp's llama_token_data_array, over the same memory; they must outlive it."""
    data = candidates.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
    return lib.llama_token_data_array(data, len(candidates), -1, False)


def no_continuation() -> EngineError:
    """Return the error for a grammar that lets no token through."""
    return EngineError(
        "no token of this model goes on as the grammar wants", "its vocabulary may lack a character the grammar names"
    )


@functools.cache
def _page() -> int:
    import resource

    return resource.getpagesize()


def _resident() -> int:
    """Return the bytes of memory this process has; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * _page()
    except (OSError, IndexError, ValueError, ImportError):
        return 0


def _give_up() -> None:
    sys.stderr.write(f"the grammar took more than {_MAX_STEP_SECONDS:.0f} s for one token\n")
    sys.stderr.flush()
    os._exit(1)


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Let llama.cpp take no more than a step may, seconds everywhere and bytes where the system sees to it (Linux)."""
    watch = threading.Timer(_MAX_STEP_SECONDS, _give_up)
    watch.daemon = True
    watch.start()
    try:
        with _bounded_memory() if sys.platform == "linux" else contextlib.nullcontext():
            yield
    finally:
        watch.cancel()


@contextlib.contextmanager
def _bounded_memory() -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(_STATM.read_text().split()[0]) * _page() + _MAX_STEP_BYTES
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
