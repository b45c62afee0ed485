"""Mutated GGUF headers, and the laws that hold for whatever comes of them."""

from __future__ import annotations

import functools
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llmrun.errors import GGUFError
from llmrun.gguf.encode import build_header, encode_header, without_tokenizer
from llmrun.gguf.header import Entry, GGUFHeader, Scalar, TensorInfo, ValueType
from llmrun.gguf.parse import MAX_HEADER, MoreBytes, parse_header
from llmrun.gguf.source import read_header
from llmrun.gguf.types import GGML_TYPES

GUIDE = Path(__file__).parents[2] / "models" / "guide-Q8_0.gguf"

_V = ValueType
SAMPLES: dict[ValueType, tuple[Scalar, ...]] = {
    _V.UINT8: (0, 255),
    _V.INT8: (-128, 127),
    _V.UINT16: (0, 65535),
    _V.INT16: (-32768, 32767),
    _V.UINT32: (0, 2**32 - 1),
    _V.INT32: (-(2**31), 2**31 - 1),
    _V.FLOAT32: (0.0, -1.5, 2.0**-149, float("inf")),
    _V.BOOL: (False, True),
    _V.STRING: ("", "text", "ü→😀", "\udcff\udc80"),
    _V.UINT64: (0, 2**64 - 1),
    _V.INT64: (-(2**63), 2**63 - 1),
    _V.FLOAT64: (0.0, 1e308, -0.1),
}


def every_type_header() -> GGUFHeader:
    """A header with a value and an array of every type, and a tensor of every GGML type, one of no dimensions too."""
    metadata = {"general.architecture": Entry(_V.STRING, "llama"), "general.alignment": Entry(_V.UINT32, 64)}
    for kind, values in SAMPLES.items():
        name = kind.name.lower()
        metadata |= {f"one.{name}.{n}": Entry(kind, value) for n, value in enumerate(values)}
        metadata |= {f"many.{name}": Entry(_V.ARRAY, values, kind), f"none.{name}": Entry(_V.ARRAY, (), kind)}
    tensors = [TensorInfo(f"t.{k.name}", (k.block_size * 2, 3, 2), k, 0) for k in GGML_TYPES.values()]
    tensors += [TensorInfo("scalar", (), GGML_TYPES[0], 0), TensorInfo("empty", (4, 0), GGML_TYPES[0], 0)]
    return build_header(3, metadata, tensors)


@functools.cache
def seed_headers() -> tuple[bytes, ...]:
    """Headers to start from, most of them small: guide's, without its tokenizer and whole, and one of every type."""
    guide = read_header(GUIDE)
    small = encode_header(without_tokenizer(guide))
    return (small, encode_header(every_type_header())) * 20 + (encode_header(guide),)


_EDGES = (0, 1, 2, 4, 5, 8, 9, 13, 31, 39, 64, 255, 4096, 4097, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
_WIDE_EDGES = (*_EDGES, 2**32, 2**53, 2**60, 2**62, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1)


def _flip_bit(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set_byte(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 2, 9, 127, 128, 255))


def _set_number(data: bytearray, rng: random.Random) -> None:
    size = rng.choice((4, 8))
    at = rng.choice((4, 8, 16, *[rng.randrange(len(data))] * 9))  # the counts are worth more than their few bytes
    value = rng.choice(_EDGES if size == 4 else _WIDE_EDGES)
    data[at : at + size] = value.to_bytes(size, "little")


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _delete(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randint(1, 32)]


def _repeat(data: bytearray, rng: random.Random) -> None:
    at, size = rng.randrange(len(data)), rng.choice((1, 4, 8, 24, 64, 512))
    data[at:at] = data[at : at + size] * rng.randint(1, 3)


def _splice(data: bytearray, rng: random.Random) -> None:
    other = rng.choice(seed_headers())
    at = rng.randrange(len(other))
    data[rng.randrange(len(data)) :] = other[at:]


_WAYS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip_bit,
    _flip_bit,
    _flip_bit,
    _set_byte,
    _set_number,
    _set_number,
    _cut,
    _delete,
    _repeat,
    _splice,
)


def mutated(number: int, seed: int = 0) -> bytes:
    """Case `number` of a run: the same bytes every time."""
    rng = random.Random(f"{seed}:{number}")
    data = bytearray(rng.choice(seed_headers()))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if data:
            rng.choice(_WAYS)(data, rng)
    return bytes(data)


def attempt(data: bytes) -> GGUFHeader | MoreBytes | GGUFError:
    """What the parser makes of some bytes, an error too; nothing else may come out of it."""
    try:
        return parse_header(data)
    except GGUFError as error:
        return error


def outcome(data: bytes) -> str:
    """What becomes of some bytes: "header", "more" or "error"; AssertionError where a law is broken."""
    found = attempt(data)
    if isinstance(found, GGUFError):
        assert found.message.isprintable()
        assert found.hint
        return "error"
    if isinstance(found, GGUFHeader):
        _check_header(found, data)
        return "header"
    assert len(data) < found.n_bytes <= MAX_HEADER
    return "more"


def _check_header(header: GGUFHeader, data: bytes) -> None:
    assert header.data_offset <= len(data)
    assert header.data_offset + header.data_size < 2**63
    again = encode_header(header)
    assert len(again) == header.data_offset
    parsed = parse_header(again)
    assert isinstance(parsed, GGUFHeader)
    assert encode_header(parsed) == again  # and not `parsed == header`: a NaN is not itself
    cut = random.Random(data).randrange(header.data_offset)
    more = parse_header(data[:cut])
    assert not isinstance(more, GGUFHeader)
    assert cut < more.n_bytes <= header.data_offset


@dataclass(slots=True)
class Totals:
    """What a run has seen so far; `worst` is the most memory one case took, in bytes per byte of input."""

    outcomes: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0
    worst_case: int = 0


def allocation_ratio(data: bytes) -> float:
    """The peak of memory while parsing, in bytes per byte of input, of which 4 KiB are free. For a traced program."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    found = attempt(data)
    peak = tracemalloc.get_traced_memory()[1]
    del found
    return (peak - before) / max(len(data), 4096)


def fuzz(cases: int, seed: int = 0) -> Totals:
    """Try so many cases; the first that breaks a law raises, with its number."""
    totals = Totals()
    for number in range(cases):
        data = mutated(number, seed)
        try:
            totals.outcomes[outcome(data)] += 1
        except Exception as error:
            error.add_note(f"case {number} of seed {seed}, {len(data)} bytes")
            raise
    tracemalloc.start()  # by itself: it makes everything several times slower
    try:
        for number in range(cases):
            ratio = allocation_ratio(mutated(number, seed))
            if ratio > totals.worst:
                totals.worst, totals.worst_case = ratio, number
    finally:
        tracemalloc.stop()
    return totals
