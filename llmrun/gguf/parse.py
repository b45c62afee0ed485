"""A file's first bytes to its header: pure, and for bytes from anybody.

Whatever the bytes claim, every count and length is held against a limit and against the bytes that are there before
anything is made of it; memory stays a small multiple of the input. At least as strict as llama.cpp (gguf.cpp), so that
what is planned here is not refused there. Must not know where the bytes come from.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from llmrun.errors import GGUFError
from llmrun.gguf.header import Entry, GGUFHeader, SkippedArray, TensorInfo, ValueType, align
from llmrun.gguf.types import ggml_type

MAGIC = b"GGUF"  # gguf.md, "File Structure"
DEFAULT_ALIGNMENT = 32  # gguf.h, GGUF_DEFAULT_ALIGNMENT

# The largest tokenizers in use (262,144 tokens, 514,906 merges) make headers of 16 MiB: sixteen times that is none.
MAX_HEADER = 256 << 20
MAX_KEYS = 1 << 16  # real files have below 100
MAX_TENSORS = 1 << 17  # 256 experts in 61 layers, each a tensor of its own, would be 47,000
MAX_KEY = (1 << 16) - 1  # gguf.md: a key is at most 2^16-1 bytes long
MAX_NAME = 63  # ggml.h: GGML_MAX_NAME is 64, the closing zero included
MAX_DIMENSIONS = 4  # ggml.h, GGML_MAX_DIMS
MAX_ALIGNMENT = 1 << 20  # every tensor is padded to it; 32 is usual, 16 KiB is the largest page
# Arrays up to here are kept: llama.cpp has at most 512 layers (LLAMA_MAX_LAYERS), and guide 4,608 tokens, so that its
# header can be written again as it was. Longer ones, the tokenizers of others, are walked. The second limit is on all
# arrays of a file together: a byte can become a number of 40 bytes, thus 5 MiB.
MAX_KEPT = 8192
MAX_KEPT_TOGETHER = 1 << 17

_LARGEST = (1 << 63) - 1  # llama.cpp counts elements and bytes in int64_t
_SMALLEST_PAIR = 8 + 1 + 4 + 1  # length and one byte of key, type, one byte of value
_SMALLEST_TENSOR = 8 + 1 + 4 + 4 + 8  # length and one byte of name, no dimensions, type, offset

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
FORMATS = MappingProxyType(
    {
        ValueType.UINT8: "B",
        ValueType.INT8: "b",
        ValueType.UINT16: "H",
        ValueType.INT16: "h",
        ValueType.UINT32: "I",
        ValueType.INT32: "i",
        ValueType.FLOAT32: "f",
        ValueType.UINT64: "Q",
        ValueType.INT64: "q",
        ValueType.FLOAT64: "d",
    }
)
_SIZES = {kind: struct.calcsize("<" + code) for kind, code in FORMATS.items()} | {ValueType.BOOL: 1}


@dataclass(frozen=True, slots=True)
class MoreBytes:
    """The bytes given are the begin of a header that is at least `n_bytes` long; never fewer than were given."""

    n_bytes: int


def parse_header(data: bytes | bytearray | memoryview) -> GGUFHeader | MoreBytes:
    """Read the header that `data` begins with; what follows it is not looked at.

    MoreBytes where `data` ends before the header does, padding included. GGUFError where it is no header llama.cpp
    could read, or one beyond the limits above. A NaN's spare bits are not kept; every other value is.
    """
    with memoryview(data) as view:
        try:
            return _parse(_Cursor(view))
        except _ShortError as short:
            return MoreBytes(short.n_bytes)


class _ShortError(Exception):
    def __init__(self, n_bytes: int) -> None:
        super().__init__(n_bytes)
        self.n_bytes = n_bytes


class _Cursor:
    """A place in the bytes; `behind` is the least number of bytes that must follow what is being read."""

    __slots__ = ("behind", "kept", "position", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.position = 0
        self.behind = 0
        self.kept = 0  # elements of arrays, so far

    def take(self, size: int, what: str) -> int:
        """Step over `size` bytes; return where they begin."""
        start = self.position
        end = start + size
        if end > len(self.view):
            if end + self.behind > MAX_HEADER:
                raise _damaged(
                    f"{what} would make a header of {end + self.behind:,} bytes; at most {MAX_HEADER:,} are read"
                )
            raise _ShortError(end + self.behind)
        self.position = end
        return start

    def u32(self, what: str) -> int:
        number: int = _U32.unpack_from(self.view, self.take(4, what))[0]
        return number

    def u64(self, what: str) -> int:
        number: int = _U64.unpack_from(self.view, self.take(8, what))[0]
        return number

    def text(self, what: str, limit: int = MAX_HEADER) -> str:
        size = self.u64(what)
        if size > limit:
            raise _damaged(f"{what} is {size:,} bytes long; at most {limit:,} are allowed")
        start = self.take(size, what)
        return str(self.view[start : start + size], "utf-8", "surrogateescape")


def _parse(cursor: _Cursor) -> GGUFHeader:
    version = _parse_version(cursor)
    n_tensors = _parse_count(cursor, "tensors", MAX_TENSORS)
    n_keys = _parse_count(cursor, "metadata keys", MAX_KEYS)
    metadata: dict[str, Entry] = {}
    for left in range(n_keys - 1, -1, -1):
        cursor.behind = left * _SMALLEST_PAIR + n_tensors * _SMALLEST_TENSOR
        _parse_pair(cursor, metadata)
    alignment = parse_alignment(metadata.get("general.alignment"))
    tensors: dict[str, TensorInfo] = {}
    for left in range(n_tensors - 1, -1, -1):
        cursor.behind = left * _SMALLEST_TENSOR
        _parse_tensor(cursor, tensors)
    infos = tuple(tensors.values())
    check_layout(infos, alignment)
    if infos:  # without tensors a file may end where its metadata does (gguf.cpp)
        cursor.take(align(cursor.position, alignment) - cursor.position, "padding")
    return GGUFHeader(version, MappingProxyType(metadata), infos, alignment, cursor.position)


def _parse_version(cursor: _Cursor) -> int:
    start = bytes(cursor.view[: len(MAGIC)])
    if not MAGIC.startswith(start):
        raise GGUFError(
            f"not a GGUF file: it begins with {start!r} instead of {MAGIC!r}", "give the path of a .gguf file"
        )
    # nothing is asked for twice: the smallest header has magic, version and two counts
    cursor.behind = _U32.size + 2 * _U64.size
    cursor.take(len(MAGIC), "magic")
    cursor.behind -= _U32.size
    version = cursor.u32("version")
    if version in (2, 3):
        cursor.behind = _U64.size
        return version
    if version == 1:
        raise GGUFError("GGUF version 1, which llama.cpp no longer reads", "look for a newer file of the model")
    if version and version & 0xFFFF == 0:
        hint = "look for a little-endian file of the model; nearly all are"
        raise GGUFError("a big-endian GGUF file, which this machine's llama.cpp cannot read", hint)
    raise GGUFError(f"GGUF version {version}; versions 2 and 3 can be read", "update llmrun, or fetch the file again")


def _parse_count(cursor: _Cursor, what: str, limit: int) -> int:
    count = cursor.u64(f"the number of {what}")
    cursor.behind = 0
    if count > limit:
        raise _damaged(f"{count:,} {what}; at most {limit:,} are allowed")
    return count


def _parse_pair(cursor: _Cursor, metadata: dict[str, Entry]) -> None:
    cursor.behind += 4 + 1
    key = cursor.text("a metadata key", MAX_KEY)
    what = f"metadata key {_shown(key)}"
    if not key or "\0" in key:  # a zero would end it early in llama.cpp's C strings
        raise _damaged(f"{what} has a zero byte" if key else f"metadata key {len(metadata) + 1} is empty")
    if key in metadata:
        raise _damaged(f"{what} appears twice")
    cursor.behind -= 4
    kind = _parse_type(cursor, what)
    cursor.behind -= 1
    if kind is ValueType.ARRAY:
        metadata[key] = _parse_array(cursor, what)
    elif kind is ValueType.STRING:
        metadata[key] = Entry(kind, cursor.text(what))
    else:
        metadata[key] = Entry(kind, _parse_numbers(cursor, kind, 1, what)[0])


def _parse_type(cursor: _Cursor, what: str) -> ValueType:
    number = cursor.u32(what)
    if number >= len(ValueType):
        raise _damaged(f"{what} is of an unknown type, {number}")
    return ValueType(number)


def _parse_array(cursor: _Cursor, what: str) -> Entry:
    cursor.behind += _U64.size
    kind = _parse_type(cursor, what)
    cursor.behind -= _U64.size
    if kind is ValueType.ARRAY:
        raise _damaged(f"{what} is an array of arrays, which llama.cpp does not read")
    length = cursor.u64(what)
    if length > min(MAX_KEPT, MAX_KEPT_TOGETHER - cursor.kept):
        _skip_array(cursor, kind, length, what)
        return Entry(ValueType.ARRAY, SkippedArray(kind, length), kind)
    cursor.kept += length
    read = _parse_texts if kind is ValueType.STRING else _parse_numbers
    return Entry(ValueType.ARRAY, read(cursor, kind, length, what), kind)


def _parse_numbers(cursor: _Cursor, kind: ValueType, length: int, what: str) -> tuple[Any, ...]:
    size = length * _SIZES[kind]
    start = cursor.take(size, what)
    if kind is not ValueType.BOOL:
        return struct.unpack_from(f"<{length}{FORMATS[kind]}", cursor.view, start)
    raw = bytes(cursor.view[start : start + size])
    if strange := set(raw) - {0, 1}:  # gguf.md: anything else is invalid
        raise _damaged(f"{what} holds {min(strange)} where only true (1) or false (0) may be")
    return tuple(map(bool, raw))


def _parse_texts(cursor: _Cursor, kind: ValueType, length: int, what: str) -> tuple[str, ...]:
    del kind
    texts = []
    behind = cursor.behind
    for left in range(length - 1, -1, -1):
        cursor.behind = behind + left * _U64.size
        texts.append(cursor.text(what))
    return tuple(texts)


def _skip_array(cursor: _Cursor, kind: ValueType, length: int, what: str) -> None:
    if kind is not ValueType.STRING:
        cursor.take(length * _SIZES[kind], what)
        return
    view, start, end = cursor.view, cursor.position, cursor.position
    unpack = _U64.unpack_from
    _left = length
    try:
        for _left in range(length, 0, -1):  # 300,000 turns in a common header: nothing else belongs in here
            end += 8 + unpack(view, end)[0]
    except (struct.error, OverflowError):  # the bytes end, or a length is beyond what is an offset at all
        cursor.behind += (_left - 1) * _U64.size
        end += _U64.size
    cursor.take(end - start, what)


def _parse_tensor(cursor: _Cursor, tensors: dict[str, TensorInfo]) -> None:
    cursor.behind += 4 + 4 + 8
    name = cursor.text("a tensor's name", MAX_NAME)
    what = f"tensor {_shown(name)}"
    if not name or "\0" in name:
        raise _damaged(f"{what} has a zero byte" if name else f"tensor {len(tensors) + 1} has no name")
    if name in tensors:
        raise _damaged(f"{what} appears twice")
    cursor.behind -= 4
    n_dimensions = cursor.u32(what)
    if n_dimensions > MAX_DIMENSIONS:
        raise _damaged(f"{what} has {n_dimensions:,} dimensions; at most {MAX_DIMENSIONS} are allowed")
    start = cursor.take(n_dimensions * 8, what)
    shape: tuple[int, ...] = struct.unpack_from(f"<{n_dimensions}Q", cursor.view, start)
    cursor.behind -= 4
    number = cursor.u32(what)
    cursor.behind -= 8
    offset = cursor.u64(what)
    tensors[name] = TensorInfo(name, shape, ggml_type(number), offset)


def parse_alignment(entry: Entry | None) -> int:
    """The alignment that the metadata's general.alignment states, bytes; GGUFError where it cannot be one."""
    if entry is None:
        return DEFAULT_ALIGNMENT
    if entry.type is not ValueType.UINT32 or not isinstance(entry.value, int):
        raise _damaged(f"general.alignment is of type {entry.type.name}, expected UINT32")
    if entry.value.bit_count() != 1 or entry.value > MAX_ALIGNMENT:
        raise _damaged(f"general.alignment is {entry.value:,}; it must be a power of two up to {MAX_ALIGNMENT:,}")
    return entry.value


def check_layout(tensors: tuple[TensorInfo, ...], alignment: int) -> None:
    """Raise GGUFError unless tensors can exist and lie one behind the other, each aligned, as llama.cpp wants them."""
    expected = 0
    for tensor in tensors:
        _check_shape(tensor)
        if tensor.offset != expected:
            raise _damaged(
                f"tensor {_shown(tensor.name)} begins at byte {tensor.offset:,} of the data, expected {expected:,}"
            )
        expected = align(expected + tensor.size, alignment)
        if expected > _LARGEST - MAX_HEADER:  # the data's offset still comes on top
            raise _damaged(f"tensor {_shown(tensor.name)} would end beyond {_LARGEST:,} bytes")


def _check_shape(tensor: TensorInfo) -> None:
    n_elements = 1
    for length in tensor.shape:
        n_elements *= max(length, 1)  # a length of 0 must not hide that the others overflow
    if n_elements > _LARGEST:
        raise _damaged(f"tensor {_shown(tensor.name)} of shape {tensor.shape} has more than 2^63-1 elements")
    row = tensor.shape[0] if tensor.shape else 1
    if row % tensor.type.block_size:
        kind = f"{tensor.type.name}, which has blocks of {tensor.type.block_size}"
        raise _damaged(f"tensor {_shown(tensor.name)} has rows of {row:,} elements in {kind}")


def _shown(name: str) -> str:
    """A name as an error may show it: short, control characters and what is no text at all escaped."""
    return repr(name if len(name) <= 100 else name[:100] + "…")[1:-1]


def _damaged(message: str) -> GGUFError:
    return GGUFError(message, "the file is damaged: fetch it again")
