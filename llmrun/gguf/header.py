"""What a GGUF file says before its weights: metadata and the list of tensors, as values.

Knows the meaning of the fields; must not know how they lie in a file (`parse`, `encode`) or where a file comes from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from llmrun.errors import GGUFError

_T = TypeVar("_T")


class ValueType(IntEnum):
    """The types of metadata values, with GGUF's numbers (gguf.h, enum gguf_type)."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_INTEGERS = frozenset(ValueType) - {
    ValueType.FLOAT32,
    ValueType.FLOAT64,
    ValueType.BOOL,
    ValueType.STRING,
    ValueType.ARRAY,
}


@dataclass(frozen=True, slots=True)
class GGMLType:
    """One tensor's storage type: `block_size` elements lie in `type_size` bytes. `types` has them all."""

    id: int
    name: str
    block_size: int
    type_size: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `shape` in ggml's order (ne0, the length of a row, first), `offset` from the data's begin, bytes."""

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    offset: int

    @property
    def n_elements(self) -> int:
        """Number of weights; a tensor without dimensions has one."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of data, padding left out: ggml_nbytes of a contiguous tensor (ggml.c)."""
        return self.n_elements // self.type.block_size * self.type.type_size


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """An array too long to keep, the tokenizer's: only what it was made of is known, and how many."""

    type: ValueType
    length: int


Scalar = int | float | bool | str
Value = Scalar | tuple[Scalar, ...] | SkippedArray


@dataclass(frozen=True, slots=True)
class Entry:
    """A metadata value with the type it has in the file; `element_type` is an array's, else None.

    Text that is not UTF-8 has its bytes as lone surrogates (surrogateescape).
    """

    type: ValueType
    value: Value
    element_type: ValueType | None = None


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """All of a GGUF file but the weights. `alignment` and `data_offset` (the header's size, padded) are bytes.

    The accessors tell missing, mistyped and zero apart: what is missing is None where the name says so and else a
    GGUFError; what has another type is always a GGUFError.
    """

    version: int
    metadata: Mapping[str, Entry]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture: "llama", "qwen3"; GGUFError where the file names none."""
        return self.string("general.architecture")

    @property
    def n_elements(self) -> int:
        """Number of weights of all tensors."""
        return sum(tensor.n_elements for tensor in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors, padding left out."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def data_end(self) -> int:
        """Bytes from `data_offset` to the end of the last tensor: without these a file is incomplete."""
        return self.tensors[-1].offset + self.tensors[-1].size if self.tensors else 0

    @property
    def data_size(self) -> int:
        """Bytes of the data with the last tensor's padding."""
        return align(self.data_end, self.alignment)

    @property
    def file_size(self) -> int:
        """Bytes of the whole file, the last tensor's padding included (writers may leave that away)."""
        return self.data_offset + self.data_size

    def arch(self, key: str) -> str:
        """The architecture's own key: "block_count" becomes "llama.block_count"."""
        return f"{self.architecture}.{key}"

    def uint(self, key: str) -> int:
        """A whole number of any width, not negative."""
        return _present(key, self.uint_or_none(key))

    def uint_or_none(self, key: str) -> int | None:
        """A whole number of any width, not negative; None where the key is missing."""
        entry = self.metadata.get(key)
        if entry is None:
            return None
        if entry.type not in _INTEGERS or not isinstance(entry.value, int):
            raise _mistyped(key, entry, "a whole number")
        if entry.value < 0:
            raise GGUFError(f"metadata key {key} is {entry.value}, which must not be negative")
        return entry.value

    def float_or_none(self, key: str) -> float | None:
        """A floating point number; None where the key is missing."""
        entry = self.metadata.get(key)
        if entry is None:
            return None
        if not isinstance(entry.value, float):
            raise _mistyped(key, entry, "a floating point number")
        return entry.value

    def bool_or_none(self, key: str) -> bool | None:
        """A truth value; None where the key is missing."""
        entry = self.metadata.get(key)
        if entry is None:
            return None
        if not isinstance(entry.value, bool):
            raise _mistyped(key, entry, "true or false")
        return entry.value

    def string(self, key: str) -> str:
        """A text."""
        return _present(key, self.string_or_none(key))

    def string_or_none(self, key: str) -> str | None:
        """A text; None where the key is missing."""
        entry = self.metadata.get(key)
        if entry is None:
            return None
        if not isinstance(entry.value, str):
            raise _mistyped(key, entry, "text")
        return entry.value

    def uints_or_none(self, key: str) -> tuple[int, ...] | None:
        """An array of whole numbers, none negative; None where the key is missing. A single number is mistyped.

        An array of truth values is one of 0 and 1, as llama.cpp reads it (llama-model-loader.cpp, get_arr). GGUFError
        too where the array was too long to keep.
        """
        entry = self.metadata.get(key)
        if entry is None:
            return None
        kept = entry.value
        if isinstance(kept, SkippedArray) and kept.type in _INTEGERS:
            raise GGUFError(f"metadata key {key} has {kept.length:,} elements, more than are kept")
        if not isinstance(kept, tuple) or entry.element_type not in _INTEGERS | {ValueType.BOOL}:
            raise _mistyped(key, entry, "an array of whole numbers")
        numbers = tuple(int(number) for number in kept)
        if min(numbers, default=0) < 0:
            raise GGUFError(f"metadata key {key} contains {min(numbers)}, which must not be negative")
        return numbers

    def array_length_or_none(self, key: str) -> int | None:
        """The number of elements of an array of any type, kept or not; None where the key is missing."""
        entry = self.metadata.get(key)
        if entry is None:
            return None
        if isinstance(entry.value, SkippedArray):
            return entry.value.length
        if not isinstance(entry.value, tuple):
            raise _mistyped(key, entry, "an array")
        return len(entry.value)


def align(size: int, alignment: int) -> int:
    """The next multiple of `alignment`, bytes: GGML_PAD in ggml.h."""
    return (size + alignment - 1) // alignment * alignment


def _present(key: str, value: _T | None) -> _T:
    if value is None:
        raise GGUFError(f"metadata key {key} is missing", "the file is incomplete: look for another one of the model")
    return value


def _mistyped(key: str, entry: Entry, wanted: str) -> GGUFError:
    found = entry.type.name if entry.element_type is None else f"{entry.type.name} of {entry.element_type.name}"
    return GGUFError(f"metadata key {key} is of type {found}, expected {wanted}")
