"""The hidden states that a model ends a token with, kept for its own layers that guess what comes after it.

llama.cpp gives them out by functions of src/llama-ext.h, which have no C names; llama-cpp-python finds them by those
that compilers make of C++ names. Where they are not found nothing can be guessed so, and nothing else is changed.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmrun.errors import EngineError
from llmrun.memory.mtp import KEPT_ROWS
from llmrun.worker.batch import Part

Rows = np.ndarray[Any, np.dtype[np.float32]]


def extension() -> Any:
    """Return the bindings of llama-ext.h; raises EngineError where this build of llama.cpp has none."""
    try:
        return importlib.import_module("llama_cpp.llama_cpp_ext")
    except (ImportError, AttributeError) as error:  # AttributeError: as the module itself says of a missing name
        raise EngineError(
            "this build of llama.cpp does not give out what a model's MTP layers guess with", "leave --draft mtp out"
        ) from error


class KeptRows:
    """The rows of one sequence: at least the last KEPT_ROWS of those that were read one after another.

    first: the position of the first. tokens: what was read there, as the rows lie.
    """

    def __init__(self, width: int) -> None:
        self._rows: Rows = np.empty((2 * KEPT_ROWS, width), np.float32)
        self.first = 0
        self.tokens: list[int] = []

    @property
    def end(self) -> int:
        """The position behind the last row."""
        return self.first + len(self.tokens)

    def take(self, position: int, tokens: Sequence[int], rows: Rows) -> None:
        """Keep rows from a position on; what was kept from there on before was forgotten by the model."""
        if not self.first <= position <= self.end:
            self.first, self.tokens = position, []
        del self.tokens[position - self.first :]
        if len(tokens) > KEPT_ROWS:
            self.first, self.tokens = position + len(tokens) - KEPT_ROWS, []
            tokens, rows = tokens[-KEPT_ROWS:], rows[-KEPT_ROWS:]
        n = len(self.tokens)
        if n + len(tokens) > len(self._rows):
            surplus = n - KEPT_ROWS
            self._rows[:KEPT_ROWS] = self._rows[surplus:n].copy()
            del self.tokens[:surplus]
            self.first, n = self.first + surplus, KEPT_ROWS
        self._rows[n : n + len(tokens)] = rows
        self.tokens += tokens

    def between(self, start: int, end: int) -> Rows:
        """Return the rows of these positions, which must be there."""
        return self._rows[start - self.first : end - self.first]

    def begin(self, past: Sequence[int]) -> int:
        """Return from which position on the rows are those of a conversation, up to its end; that where none are."""
        n, end = len(past), min(len(past), self.end)
        is_there = self.first < n == end and self.tokens[: n - self.first] == list(past[self.first :])
        return self.first if is_there else n


class HiddenRows:
    """The rows of all sequences of a context, which gives them out from here on."""

    def __init__(self, pointer: Any, n_seq: int, width: int) -> None:
        """width: numbers of a row. Raises EngineError as `extension` does."""
        self._pointer, self._width = pointer, width
        self._get = extension().llama_get_embeddings_nextn
        self.of = [KeptRows(width) for _ in range(n_seq)]
        extension().llama_set_embeddings_nextn(pointer, True, False)

    def take(self, parts: Sequence[Part]) -> None:
        """Keep what the last batch made of the tokens of these parts."""
        n_rows = sum(len(part.tokens) for part in parts)
        rows: Rows = np.ctypeslib.as_array(self._get(self._pointer), (n_rows, self._width))
        start = 0
        for part in parts:
            end = start + len(part.tokens)
            self.of[part.seq].take(part.position, part.tokens, rows[start:end])
            start = end
