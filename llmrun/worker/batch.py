"""Rows for llama_decode: tokens of one sequence, or of many at once."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens of one sequence that follow each other, the first at `position`.

    want_logits: for the last one. every_row: for all of them.
    """

    seq: int
    tokens: Sequence[int]
    position: int
    want_logits: bool = True
    every_row: bool = False


class Batch:
    """A llama_batch of at most n_rows rows, over memory that numpy owns: a row costs no call of its own."""

    def __init__(self, n_rows: int, n_hidden: int = 0) -> None:
        """n_hidden: numbers that each row has beside its token, as `hidden`; 0 is none."""
        self.hidden = np.zeros((n_rows, n_hidden), np.float32)
        self._token = np.zeros(n_rows, np.int32)
        self._pos = np.zeros(n_rows, np.int32)
        self._n_seq = np.ones(n_rows, np.int32)  # each row is of one sequence
        self._seq = np.zeros(n_rows, np.int32)
        self._seq_pointers = self._seq.ctypes.data + self._seq.itemsize * np.arange(n_rows, dtype=np.uintp)
        self._logits = np.zeros(n_rows, np.int8)
        self._one_after_another = np.arange(n_rows, dtype=np.int32)
        self.struct = lib.llama_batch(
            0,
            _pointer(self._token, lib.llama_token),
            _pointer(self.hidden, ctypes.c_float) if n_hidden else None,
            _pointer(self._pos, lib.llama_pos),
            _pointer(self._n_seq, ctypes.c_int32),
            _pointer(self._seq_pointers, ctypes.POINTER(lib.llama_seq_id)),
            _pointer(self._logits, ctypes.c_int8),
        )

    def fill(self, parts: Sequence[Part], *, all_outputs: bool = False) -> None:
        """Make these the rows, in their order. all_outputs: something is wanted of each of them."""
        start = 0
        for part in parts:
            end = start + len(part.tokens)
            self._token[start:end] = part.tokens
            self._pos[start:end] = self._one_after_another[: end - start]
            self._pos[start:end] += part.position
            self._seq[start:end] = part.seq
            self._logits[start:end] = all_outputs or part.every_row
            self._logits[end - 1] = part.want_logits
            start = end
        self.struct.n_tokens = start


def _pointer(array: np.ndarray[Any, np.dtype[Any]], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
