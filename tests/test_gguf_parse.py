"""gguf.parse: the same as the gguf package reads, for what is well formed; one GGUFError for all that is not."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import GGUFError
from llmrun.gguf.encode import build_header, encode_header
from llmrun.gguf.header import Entry, GGUFHeader, SkippedArray, ValueType
from llmrun.gguf.parse import MAX_HEADER, MAX_KEPT, MAX_KEPT_TOGETHER, MAX_KEYS, MAX_TENSORS, MoreBytes, parse_header
from llmrun.gguf.source import read_header
from llmrun.gguf.types import GGML_TYPES
from scripts.fuzzing.headers import every_type_header
from scripts.synthetic import RECURRENT, SLIDING, SMALL, TINY, Shape, write_model

MODELS = sorted((Path(__file__).parents[1] / "models").glob("*.gguf"))
SHAPES = {
    "tiny": TINY,
    "small": SMALL,
    "sliding": SLIDING,
    "recurrent": RECURRENT,
    "vocabulary": replace(TINY, n_vocab=6000),
}
V = ValueType


def parsed(data: bytes) -> GGUFHeader:
    found = parse_header(data)
    assert isinstance(found, GGUFHeader)
    return found


def as_the_package_reads(path: Path) -> dict[str, object]:
    """Everything the gguf package says of a file, in our words."""
    reader = gguf.GGUFReader(path)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    return {
        "metadata": {
            key: (tuple(int(kind) for kind in field.types), _contents(field)) for key, field in fields.items()
        },
        "tensors": [
            (t.name, tuple(t.shape.tolist()), int(t.tensor_type), t.n_elements, t.n_bytes, t.data_offset)
            for t in reader.tensors
        ],
        "alignment": int(reader.alignment),
        "data_offset": reader.data_offset,
    }


def _contents(field: Any) -> object:
    value = field.contents()
    if isinstance(value, list):
        return len(value) if len(value) > MAX_KEPT else tuple(value)
    return value


def as_we_read(path: Path) -> dict[str, object]:
    """The same from our own header."""
    header = read_header(path)
    return {
        "metadata": {key: (_types(entry), _value(entry)) for key, entry in header.metadata.items()},
        "tensors": [
            (t.name, t.shape, t.type.id, t.n_elements, t.size, header.data_offset + t.offset) for t in header.tensors
        ],
        "alignment": header.alignment,
        "data_offset": header.data_offset,
    }


def _types(entry: Entry) -> tuple[int, ...]:
    has_elements = entry.element_type is not None and entry.value != ()
    return (int(entry.type), int(entry.element_type or 0)) if has_elements else (int(entry.type),)


def _value(entry: Entry) -> object:
    return entry.value.length if isinstance(entry.value, SkippedArray) else entry.value


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_the_embedded_models_read_as_the_gguf_package_reads_them(path: Path) -> None:
    assert as_we_read(path) == as_the_package_reads(path)


@pytest.mark.parametrize("mix", ["F16", "Q8_0", "Q4_K_M"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_synthetic_models_read_as_the_gguf_package_reads_them(tmp_path: Path, shape: Shape, mix: str) -> None:
    path = write_model(tmp_path / "m.gguf", shape, mix="F16" if shape is RECURRENT else mix)
    assert as_we_read(path) == as_the_package_reads(path)


def test_every_type_of_value_and_of_tensor_reads_as_the_gguf_package_reads_it(tmp_path: Path) -> None:
    """Left out is what the package cannot read: text that is no UTF-8, and the types whose size it has wrong or not."""
    whole = every_type_header()
    text = Entry(V.ARRAY, ("", "text", "ü→😀"), V.STRING)
    metadata = {key: entry for key, entry in whole.metadata.items() if key != "one.string.3"} | {"many.string": text}
    sizes = {int(kind): tuple(size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    known = [t for t in whole.tensors if sizes.get(t.type.id) == (t.type.block_size, t.type.type_size)]
    assert len(known) >= len(whole.tensors) - 2
    header = build_header(3, metadata, known)
    path = tmp_path / "m.gguf"
    path.write_bytes(encode_header(header) + bytes(header.data_size))
    assert as_we_read(path) == as_the_package_reads(path)


def test_a_file_of_version_2_reads_the_same(tmp_path: Path) -> None:
    data = bytearray(encode_header(every_type_header()))
    data[4] = 2
    assert parsed(bytes(data)) == replace(every_type_header(), version=2)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_follows_the_header_is_not_looked_at(kind: Any) -> None:
    data = encode_header(every_type_header())
    assert parse_header(kind(data + b"\xff" * 100)) == parsed(data)


def test_the_given_bytes_may_grow_whatever_came_of_them() -> None:
    """No view of them is left, in an error's traceback neither."""
    data = bytearray(encode_header(every_type_header()))
    assert isinstance(parse_header(data), GGUFHeader)
    data[:] = data[:1000]
    assert isinstance(parse_header(data), MoreBytes)
    data += b"\xff" * 5000
    with pytest.raises(GGUFError) as caught:
        parse_header(data)
    data += b"more"
    assert caught.tb is not None


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


def array(kind: int, length: int, content: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, length) + content


def tensor(name: bytes, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return struct.pack(f"<Q{len(name)}sI{len(dims)}QIQ", len(name), name, len(dims), *dims, kind, offset)


def file(pairs: tuple[bytes, ...] = (), tensors: tuple[bytes, ...] = (), padding: int = 64) -> bytes:
    counts = struct.pack("<QQ", len(tensors), len(pairs))
    return b"GGUF\3\0\0\0" + counts + b"".join(pairs) + b"".join(tensors) + bytes(padding)


LONG = b"".join(struct.pack("<Q", n % 7) + b"x" * (n % 7) for n in range(MAX_KEPT + 1))


def test_long_arrays_are_walked_and_not_kept() -> None:
    numbers = pair(b"n", 9, array(4, MAX_KEPT + 1, bytes(4 * MAX_KEPT + 4)))
    texts = pair(b"t", 9, array(8, MAX_KEPT + 1, LONG))
    kept = pair(b"k", 9, array(4, MAX_KEPT, bytes(4 * MAX_KEPT)))
    assert dict(parsed(file((numbers, texts, kept))).metadata) == {
        "n": Entry(V.ARRAY, SkippedArray(V.UINT32, MAX_KEPT + 1), V.UINT32),
        "t": Entry(V.ARRAY, SkippedArray(V.STRING, MAX_KEPT + 1), V.STRING),
        "k": Entry(V.ARRAY, (0,) * MAX_KEPT, V.UINT32),
    }


def test_of_many_arrays_only_so_much_is_kept_together() -> None:
    most = MAX_KEPT_TOGETHER // MAX_KEPT
    pairs = tuple(pair(b"%d" % n, 9, array(0, MAX_KEPT, bytes(MAX_KEPT))) for n in range(most + 3))
    kept = [isinstance(entry.value, tuple) for entry in parsed(file(pairs)).metadata.values()]
    assert kept == [True] * most + [False] * 3


WELL_FORMED = {
    "every type": encode_header(every_type_header()),
    "long arrays": file(
        (pair(b"t", 9, array(8, MAX_KEPT + 1, LONG)), pair(b"n", 4, bytes(4))), (tensor(b"a", (3,)),), 0
    ),
    "a short array": file((pair(b"t", 9, array(8, 3, bytes(24))),), (), 0),
    "nothing": file(padding=0),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_every_strict_prefix_of_a_header_asks_for_more_and_never_for_too_much(name: str) -> None:
    data = WELL_FORMED[name]
    data += bytes(-len(data) % 32 if name == "long arrays" else 0)
    size = parsed(data).data_offset
    assert size == len(data)
    for length in {*range(0, size, 1 if size < 10_000 else 37), *range(size - 200, size)}:
        if length >= 0:
            more = parse_header(memoryview(data)[:length])
            assert isinstance(more, MoreBytes)
            assert length < more.n_bytes <= size


def test_a_prefix_knows_how_much_must_still_come() -> None:
    """150,000 strings left are at least 8 bytes each; keys and tensors behind them count too."""
    start = file((pair(b"tokenizer.ggml.tokens", 9, array(8, 150_000)), b"", b""), (b"",) * 100, 0)
    assert parse_header(start) == MoreBytes(len(start) + 150_000 * 8 + 2 * 14 + 100 * 25)


HUGE = (2**31, 2**32, 2**53, 2**60, 2**62, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1)
GOOD = pair(b"k", 4, bytes(4))


LIES: dict[str, Callable[[int], bytes]] = {
    "tensors": lambda n: b"GGUF\3\0\0\0" + struct.pack("<QQ", n, 0),
    "keys": lambda n: b"GGUF\3\0\0\0" + struct.pack("<QQ", 0, n),
    "key": lambda n: file((struct.pack("<Q", n) + b"key",)),
    "text": lambda n: file((pair(b"k", 8, struct.pack("<Q", n) + b"text"),)),
    "bytes": lambda n: file((pair(b"k", 9, array(0, n)),)),
    "numbers": lambda n: file((pair(b"k", 9, array(10, n)),)),
    "texts": lambda n: file((pair(b"k", 9, array(8, n)),)),
    "text in a long array": lambda n: file((pair(b"k", 9, array(8, 5000, struct.pack("<Q", n))),)),
    "text in a short array": lambda n: file((pair(b"k", 9, array(8, 5, struct.pack("<Q", n))),)),
    "name": lambda n: file((), (struct.pack("<Q", n) + b"name",)),
    "dimensions": lambda n: file((), (tensor(b"a", (n, n, n, n)),)),
    "dimensions behind a zero": lambda n: file((), (tensor(b"a", (0, n, n, n)),)),
    "offset": lambda n: file((), (tensor(b"a", (32,), offset=n),)),
}


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_count_or_a_length_that_lies_is_refused_at_once(lie: Callable[[int], bytes], number: int) -> None:
    with pytest.raises(GGUFError) as caught:
        parse_header(lie(number))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGML" + bytes(40), "begins with b'GGML' instead of b'GGUF'"),
        (b"x", "begins with b'x' instead of"),
        (b"GGUF\0\0\0\0", "GGUF version 0"),
        (b"GGUF\1\0\0\0", "GGUF version 1, which llama.cpp no longer reads"),
        (b"GGUF\4\0\0\0", "GGUF version 4; versions 2 and 3"),
        (b"GGUF\0\0\0\3", "a big-endian GGUF file"),
        (b"GGUF\3\0\0\0" + struct.pack("<QQ", 0, MAX_KEYS + 1), "65,537 metadata keys; at most 65,536 are allowed"),
        (b"GGUF\3\0\0\0" + struct.pack("<QQ", MAX_TENSORS + 1, 0), "131,073 tensors; at most 131,072 are allowed"),
        (file((pair(b"", 4, bytes(4)),)), "metadata key 1 is empty"),
        (file((pair(b"a\0b", 4, bytes(4)),)), r"metadata key a\x00b has a zero byte"),
        (file((pair(b"\x1b[31m\xff", 13, bytes(4)),)), r"metadata key \x1b[31m\udcff is of an unknown type, 13"),
        (file((pair(b"k" * 65536, 4, bytes(4)),)), "a metadata key is 65,536 bytes long; at most 65,535 are allowed"),
        (file((GOOD, GOOD)), "metadata key k appears twice"),
        (file((pair(b"k", 7, b"\2"),)), "metadata key k holds 2 where only true (1) or false (0) may be"),
        (file((pair(b"k", 9, array(9, 1, array(9, 1, array(4, 0)))),)), "metadata key k is an array of arrays"),
        (file((pair(b"k", 9, array(13, 1)),)), "metadata key k is of an unknown type, 13"),
        (file((pair(b"general.alignment", 4, struct.pack("<I", 0)),)), "general.alignment is 0; it must be a power"),
        (file((pair(b"general.alignment", 4, struct.pack("<I", 48)),)), "general.alignment is 48; it must be a power"),
        (file((pair(b"general.alignment", 4, struct.pack("<I", 1 << 31)),)), "general.alignment is 2,147,483,648; it"),
        (file((pair(b"general.alignment", 10, struct.pack("<Q", 32)),)), "general.alignment is of type UINT64"),
        (file((), (tensor(b"", (1,)),)), "tensor 1 has no name"),
        (file((), (tensor(b"a\0b", (1,)),)), r"tensor a\x00b has a zero byte"),
        (file((), (tensor(b"a" * 64, (1,)),)), "a tensor's name is 64 bytes long; at most 63 are allowed"),
        (file((), (tensor(b"a", (1,)), tensor(b"a", (1,), 0, 32))), "tensor a appears twice"),
        (file((), (tensor(b"a", (1, 1, 1, 1, 1)),)), "tensor a has 5 dimensions; at most 4 are allowed"),
        (file((), (tensor(b"a", (2**32, 2**31)),)), "tensor a of shape (4294967296, 2147483648) has more than 2^63-1"),
        (file((), (tensor(b"a", (2**32, 2**32)),)), "has more than 2^63-1 elements"),
        (file((), (tensor(b"a", (2**62,)),)), "tensor a would end beyond"),
        (file((), (tensor(b"a", (100,), 8),)), "tensor a has rows of 100 elements in Q8_0, which has blocks of 32"),
        (file((), (tensor(b"a", (), 8),)), "tensor a has rows of 1 elements in Q8_0"),
        (file((), (tensor(b"a", (1,), 31),)), "tensors of type Q4_0_4_4 (31): support for it was removed"),
        (file((), (tensor(b"a", (1,), 99),)), "tensors of type 99, which is unknown"),
        (file((), (tensor(b"a", (1,), 0, 32),)), "tensor a begins at byte 32 of the data, expected 0"),
        (file((), (tensor(b"a", (1,)), tensor(b"b", (1,), 0, 4))), "tensor b begins at byte 4 of the data"),
        (file((pair(b"k", 8, struct.pack("<Q", MAX_HEADER)),)), "metadata key k would make a header of 268,435,"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_refused_with_its_reason(data: bytes, message: str) -> None:
    with pytest.raises(GGUFError) as caught:
        parse_header(data)
    assert message in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.hint


@pytest.mark.parametrize("number", [2**31, 2**63])
def test_two_tensors_whose_sizes_add_up_beyond_any_file_are_refused(number: int) -> None:
    size = 2**62
    data = file(
        (), (tensor(b"a", (size,), 24), tensor(b"b", (size,), 24, size), tensor(b"c", (number % 7,), 24, 2 * size))
    )
    with pytest.raises(GGUFError, match="tensor b would end beyond"):
        parse_header(data)


def test_a_header_without_tensors_needs_no_padding() -> None:
    assert parsed(file((GOOD,), padding=0)).data_offset == len(file((GOOD,), padding=0))


@given(st.binary(max_size=300))
def test_any_bytes_behind_a_magic_give_a_header_more_or_a_gguf_error(tail: bytes) -> None:
    data = b"GGUF\3\0\0\0" + tail
    try:
        found = parse_header(data)
    except GGUFError:
        return
    if isinstance(found, MoreBytes):
        assert len(data) < found.n_bytes <= MAX_HEADER
    else:
        assert found.data_offset <= len(data)


def test_the_table_of_types_is_all_a_tensor_can_be_of() -> None:
    accepted = []
    for number in range(50):
        try:
            parse_header(file((), (tensor(b"a", (256,), number),)))
            accepted.append(number)
        except GGUFError:
            continue
    assert accepted == sorted(GGML_TYPES)
