"""A header to the bytes of a file, `parse` turned round; and the small header that a dry run is asked with.

Pure. Must not know what a dry run is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from llmrun.errors import GGUFError
from llmrun.gguf.header import Entry, GGUFHeader, SkippedArray, TensorInfo, Value, ValueType, align
from llmrun.gguf.parse import FORMATS, MAGIC, check_layout, parse_alignment

_TOKENS = "tokenizer.ggml.tokens"
# llama-vocab.cpp, impl::load reads it with no vocabulary too: it is a dimension of a tensor of BERT's
_KEPT_KEY = "tokenizer.ggml.token_type_count"
_NO_VOCABULARY = Entry(ValueType.STRING, "no_vocab")  # the same function: so many empty tokens as vocab_size says


def encode_header(header: GGUFHeader) -> bytes:
    """Return the header as it begins a file, padded to where the data begins.

    ValueError for what cannot be written: an array whose elements were not kept, a number outside its type.
    """
    out = bytearray(MAGIC)
    out += struct.pack("<IQQ", header.version, len(header.tensors), len(header.metadata))
    for key, entry in header.metadata.items():
        out += encode_pair(key, entry)
    for tensor in header.tensors:
        out += encode_tensor(tensor)
    if header.tensors:
        out += bytes(align(len(out), header.alignment) - len(out))
    return bytes(out)


def encode_pair(key: str, entry: Entry) -> bytes:
    """Return one line of the metadata as bytes; ValueError for what cannot be written."""
    try:
        return _encode_text(key) + struct.pack("<I", entry.type) + _encode_entry(entry)
    except (struct.error, TypeError, OverflowError) as error:
        raise ValueError(f"metadata key {key} cannot be written as {entry.type.name}: {error}") from error


def encode_tensor(tensor: TensorInfo) -> bytes:
    """Return one line of the list of tensors as bytes."""
    n = len(tensor.shape)
    return _encode_text(tensor.name) + struct.pack(f"<I{n}QIQ", n, *tensor.shape, tensor.type.id, tensor.offset)


def _encode_text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def _encode_entry(entry: Entry) -> bytes:
    if isinstance(entry.value, SkippedArray):
        raise TypeError(f"its {entry.value.length:,} elements were not kept")
    if entry.type is not ValueType.ARRAY:
        return _encode_value(entry.type, entry.value)
    if entry.element_type is None or not isinstance(entry.value, tuple):
        raise TypeError("an array needs a tuple and the type of its elements")
    kind = entry.element_type
    return struct.pack("<IQ", kind, len(entry.value)) + b"".join(_encode_value(kind, value) for value in entry.value)


def _encode_value(kind: ValueType, value: Value) -> bytes:
    if kind is ValueType.STRING and isinstance(value, str):
        return _encode_text(value)
    if kind is ValueType.BOOL and isinstance(value, bool):
        return bytes([value])
    if kind not in FORMATS:
        raise TypeError(f"{value!r} is no {kind.name}")
    return struct.pack("<" + FORMATS[kind], value)


def lay_out(tensors: Iterable[TensorInfo], alignment: int) -> tuple[TensorInfo, ...]:
    """Return the tensors with the offsets they have one behind the other in one file; GGUFError where none can be."""
    placed, offset = [], 0
    for tensor in tensors:
        placed.append(replace(tensor, offset=offset))
        offset = align(offset + tensor.size, alignment)
    check_layout(tuple(placed), alignment)
    return tuple(placed)


def without_tokenizer(header: GGUFHeader) -> GGUFHeader:
    """Return the same model without its tokenizer, for questions about memory: some KiB in place of some MiB.

    What makes a file one of several (`split.*`) goes too, and every array that was not kept. llama.cpp loads it with
    as many empty tokens as the model has, and makes the same buffers. GGUFError where the number of tokens is unknown.
    """
    key = header.arch("vocab_size")
    n_tokens = _count_tokens(header, key)
    metadata = {name: entry for name, entry in header.metadata.items() if _is_needed(name, entry)}
    metadata |= {"tokenizer.ggml.model": _NO_VOCABULARY, key: Entry(ValueType.UINT32, n_tokens)}
    return build_header(header.version, metadata, header.tensors)


def without_arrays(header: GGUFHeader) -> GGUFHeader:
    """Return the same file without the arrays that were not kept."""
    metadata = {name: entry for name, entry in header.metadata.items() if not isinstance(entry.value, SkippedArray)}
    return build_header(header.version, metadata, header.tensors)


def build_header(version: int, metadata: Mapping[str, Entry], tensors: Iterable[TensorInfo]) -> GGUFHeader:
    """Return the header of a file with this content: alignment, offsets and data_offset follow from it.

    GGUFError where no file can have it, ValueError where it cannot be written.
    """
    alignment = parse_alignment(metadata.get("general.alignment"))
    placed = lay_out(tensors, alignment)
    header = GGUFHeader(version, MappingProxyType(dict(metadata)), placed, alignment, 0)
    return replace(header, data_offset=len(encode_header(header)))


def _is_needed(key: str, entry: Entry) -> bool:
    if isinstance(entry.value, SkippedArray) or key.startswith("split."):
        return False
    return not key.startswith("tokenizer.") or key == _KEPT_KEY


def _count_tokens(header: GGUFHeader, key: str) -> int:
    count = header.array_length_or_none(_TOKENS)
    if count is None:
        count = header.uint_or_none(key)
    if count is None:
        embedding = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
        count = embedding.shape[1] if embedding and len(embedding.shape) > 1 else None
    if count is None or count >= 1 << 32:  # llama.cpp reads it as uint32_t
        raise GGUFError(f"the number of tokens is {'unknown' if count is None else f'{count:,}'}")
    return count
