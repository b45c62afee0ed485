"""Text to tokens and back, through the model's own tokenizer."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llama_cpp import llama_cpp as lib

_ROOM = 256  # bytes a token's text is first given; longer ones (rows of "=" have hundreds) are asked for again


@dataclass(frozen=True, slots=True)
class Infill:
    """The tokens around a gap: before what comes before it, before what comes after it, before what fills it."""

    prefix: int
    suffix: int
    middle: int


class Vocabulary:
    """The tokenizer of a model. `owner` is what the pointer lives in, and is kept alive."""

    def __init__(self, pointer: Any, owner: object) -> None:
        self.pointer = pointer
        self._owner = owner
        self.n_tokens = int(lib.llama_vocab_n_tokens(pointer))
        self.adds_bos = bool(lib.llama_vocab_get_add_bos(pointer))
        self.adds_eos = bool(lib.llama_vocab_get_add_eos(pointer))
        self.bos = int(lib.llama_vocab_bos(pointer))
        self.eos = int(lib.llama_vocab_eos(pointer))
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Return the token ids of a text, without any added at its ends.

        With parse_special, the text of a control token becomes that token; without it stays text.
        """
        data = text.encode("utf-8", "replace")
        room = len(data) + 16
        while True:
            ids = (lib.llama_token * room)()
            n = lib.llama_tokenize(self.pointer, data, len(data), ids, room, False, parse_special)
            if n >= 0:
                return list(ids[:n])
            room = -n

    def piece(self, token: int) -> bytes:
        """Return the bytes a token stands for in an answer; control tokens stand for none."""
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = self._read_piece(token)
        return found

    def _read_piece(self, token: int) -> bytes:
        room = _ROOM
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = lib.llama_token_to_piece(self.pointer, token, buffer, room, 0, False)
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    def is_end(self, token: int) -> bool:
        """Tell whether the model ends its turn with this token."""
        found = self._ends.get(token)
        if found is None:
            found = self._ends[token] = bool(lib.llama_vocab_is_eog(self.pointer, token))
        return found

    def text(self, token: int) -> str:
        """Return a token's own text, control tokens included; "" for a token that there is not (id −1)."""
        if token < 0:
            return ""
        return (lib.llama_vocab_get_text(self.pointer, token) or b"").decode("utf-8", "replace")

    @cached_property
    def control_texts(self) -> tuple[str, ...]:
        """Texts that parse_special would turn into control tokens, longest first. Slow the first time."""
        special = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        tokens = (t for t in range(self.n_tokens) if lib.llama_vocab_get_attr(self.pointer, t) & special)
        return tuple(sorted({self.text(t) for t in tokens} - {""}, key=len, reverse=True))

    @cached_property
    def infill(self) -> Infill | None:
        """The tokens with which a gap is filled, None where the model has none."""
        ask = (lib.llama_vocab_fim_pre, lib.llama_vocab_fim_suf, lib.llama_vocab_fim_mid)
        prefix, suffix, middle = (int(function(self.pointer)) for function in ask)
        return Infill(prefix, suffix, middle) if min(prefix, suffix, middle) >= 0 else None
