"""A header as a small text to keep, some 100 KiB where the file has 16 MiB: what was not kept of it stays so. Pure."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

from llmrun.errors import GGUFError
from llmrun.gguf.header import Entry, GGUFHeader, SkippedArray, TensorInfo, ValueType
from llmrun.gguf.types import ggml_type

FORMAT = 1


def format_stored(header: GGUFHeader) -> bytes:
    """Write a header so that parse_stored reads the same."""
    content = {
        "format": FORMAT,
        "version": header.version,
        "alignment": header.alignment,
        "data_offset": header.data_offset,
        "metadata": {key: _plain(entry) for key, entry in header.metadata.items()},
        "tensors": [[tensor.name, tensor.shape, tensor.type.id, tensor.offset] for tensor in header.tensors],
    }
    return json.dumps(content, separators=(",", ":")).encode()


def parse_stored(data: bytes) -> GGUFHeader:
    """Read what format_stored wrote; raises ValueError for anything else."""
    try:
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        return GGUFHeader(
            content["version"],
            MappingProxyType({key: _entry(*plain) for key, plain in content["metadata"].items()}),
            tuple(TensorInfo(name, tuple(shape), ggml_type(kind), at) for name, shape, kind, at in content["tensors"]),
            content["alignment"],
            content["data_offset"],
        )
    except (KeyError, TypeError, AttributeError, RecursionError, GGUFError) as error:
        raise ValueError(f"no stored header: {error}") from error


def _plain(entry: Entry) -> list[Any]:
    """Return an entry as type, type of elements, value, and the length of an array that was not kept."""
    element = None if entry.element_type is None else int(entry.element_type)
    if isinstance(entry.value, SkippedArray):
        return [int(entry.type), element, None, entry.value.length]
    return [int(entry.type), element, entry.value]


def _entry(kind: int, element: int | None, value: Any, length: int | None = None) -> Entry:
    element_type = None if element is None else ValueType(element)
    if length is not None and element_type is not None:
        return Entry(ValueType(kind), SkippedArray(element_type, length), element_type)
    return Entry(ValueType(kind), tuple(value) if isinstance(value, list) else value, element_type)
