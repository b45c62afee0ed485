"""A model in several files: what names and metadata say of the parts, and the parts as one header.

Pure: must not know whether the files are there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from llmrun.errors import GGUFError
from llmrun.gguf.encode import encode_pair, encode_tensor, lay_out
from llmrun.gguf.header import GGUFHeader, TensorInfo, align

# llama.cpp's llama_split_path: "%s-%05d-of-%05d.gguf", counted from 1; five digits hold every uint16_t
_NAME = re.compile(r"(?P<prefix>.+)-(?P<no>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """Which part a file is: `no` counts from 0, `n_tensors` is of all parts together."""

    no: int
    count: int
    n_tensors: int


def split_info(header: GGUFHeader) -> SplitInfo | None:
    """Return what a header says of its parts, None where the file is a whole model.

    GGUFError where it names a number of parts and not which one it is, or contradicts itself.
    """
    count = header.uint_or_none("split.count") or 0  # a merged model says 0 (gguf-split.cpp)
    if count <= 1:
        return None
    info = SplitInfo(header.uint("split.no"), count, header.uint("split.tensors.count"))
    if info.no >= count:
        raise GGUFError(f"this says to be part {info.no + 1:,} of {count:,}", "fetch all parts again")
    return info


def split_names(name: str) -> tuple[str, ...] | None:
    """Return the names of all parts in order, from one of them: "m-00002-of-00003.gguf"; None for any other name."""
    match = _NAME.fullmatch(name)
    if match is None or not 1 <= int(match["no"]) <= int(match["count"]):
        return None
    count = int(match["count"])
    return tuple(f"{match['prefix']}-{no:05d}-of-{count:05d}.gguf" for no in range(1, count + 1))


def merge_splits(headers: Sequence[GGUFHeader]) -> GGUFHeader:
    """Return the model in one file: the first part's metadata without `split.*`, the tensors of all, laid out anew.

    `data_offset` is what it would be in one file, or one alignment more.
    GGUFError says which part is wrong where they are not the parts of one model in their order.
    """
    first = headers[0]
    total = _check_parts(headers)
    tensors = _collect(headers)
    if len(tensors) != total:
        raise _wrong(1, len(headers), f"announces {total:,} tensors in all parts, there are {len(tensors):,}")
    dropped = {key: entry for key, entry in first.metadata.items() if key.startswith("split.")}
    metadata = {key: entry for key, entry in first.metadata.items() if key not in dropped}
    placed = lay_out(tensors, first.alignment)
    size = first.data_offset - sum(len(encode_pair(key, entry)) for key, entry in dropped.items())
    size += sum(len(encode_tensor(tensor)) for tensor in placed[len(first.tensors) :])
    data_offset = align(size, first.alignment) if placed else size
    return replace(first, metadata=MappingProxyType(metadata), tensors=placed, data_offset=data_offset)


def _check_parts(headers: Sequence[GGUFHeader]) -> int:
    n = len(headers)
    n_tensors = 0
    architecture = headers[0].string_or_none("general.architecture")
    for no, header in enumerate(headers):
        info = split_info(header)
        if info is None:
            raise _wrong(no + 1, n, "is no part of a model: it has no split.count")
        if (info.no, info.count) != (no, n):
            raise _wrong(no + 1, n, f"says to be part {info.no + 1:,} of {info.count:,}")
        found = header.string_or_none("general.architecture")
        if found not in (None, architecture):
            raise _wrong(no + 1, n, f"is of architecture {found!r}, the first of {architecture!r}")
        n_tensors = info.n_tensors if no == 0 else n_tensors
    return n_tensors


def _collect(headers: Sequence[GGUFHeader]) -> list[TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for no, header in enumerate(headers):
        for tensor in header.tensors:
            if tensor.name in found:
                raise _wrong(no + 1, len(headers), f"has tensor {tensor.name!r}, which an earlier part has too")
            found[tensor.name] = tensor
    return list(found.values())


def _wrong(no: int, count: int, what: str) -> GGUFError:
    return GGUFError(f"part {no} of {count} {what}", "fetch all parts again, from one place")
