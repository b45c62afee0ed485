"""gguf.parse against bytes from anybody: mutated headers, llama.cpp's own opinion of them, and memory."""

from __future__ import annotations

import itertools
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrun.errors import GGUFError
from llmrun.gguf.header import GGUFHeader
from scripts.fuzzing.headers import attempt, fuzz, mutated

ROOT = Path(__file__).parents[1]
CASES = 1500


def test_mutated_headers_give_a_header_more_or_a_gguf_error() -> None:
    """scripts/fuzz runs the same, for longer; what it checks of each is in its functions."""
    totals = fuzz(CASES, seed=1)
    assert totals.outcomes.total() == CASES
    assert min(totals.outcomes[name] for name in ("header", "more", "error")) > CASES // 20
    assert 0 < totals.worst < 12


def test_the_fuzzer_prints_what_it_saw() -> None:
    done = subprocess.run([ROOT / "scripts" / "fuzz", "60"], capture_output=True, text=True, check=True)
    names = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert names == ["cases", "headers", "asked for more", "errors", "worst allocation"]


# Where we are stricter than gguf.cpp, on purpose: names that end early in C, truth values that gguf.md calls invalid.
STRICTER = ("has a zero byte", "where only true (1) or false (0) may be", "has no name")


def test_what_is_accepted_here_llama_cpp_accepts_and_the_reverse_but_for_what_we_say(tmp_path: Path) -> None:
    cases = [mutated(number, seed=2) for number in range(600)]
    paths = [tmp_path / f"{number}.gguf" for number in range(len(cases))]
    for path, data in zip(paths, cases, strict=True):
        path.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-m", "scripts.fuzzing.llama", *map(str, paths)], capture_output=True, text=True, cwd=ROOT
    )
    theirs = [line == "yes" for line in done.stdout.splitlines()]
    assert len(theirs) == len(cases), done.stderr[-2000:]
    assert 50 < sum(theirs) < 550
    ours = [attempt(data) for data in cases]
    both = list(zip(ours, theirs, strict=True))
    assert [str(found)[:99] for found, accepted in both if isinstance(found, GGUFHeader) and not accepted] == []
    refused = [found for found, accepted in both if accepted and not isinstance(found, GGUFHeader)]
    assert [str(found) for found in refused if not str(found).endswith(STRICTER)] == []


NAMES = [bytes(name) for name in itertools.islice(itertools.product(range(97, 123), repeat=4), 100_000)]


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


def array(kind: int, length: int, content: bytes) -> bytes:
    return struct.pack("<IQ", kind, length) + content


def text(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def tensors(count: int, dims: tuple[int, ...]) -> bytes:
    rest = struct.pack(f"<I{len(dims)}QI", len(dims), *dims, 24)
    return b"".join(text(NAMES[n]) + rest + struct.pack("<Q", 32 * n) for n in range(count))


def start(n_tensors: int, n_pairs: int) -> bytes:
    return b"GGUF\3\0\0\0" + struct.pack("<QQ", n_tensors, n_pairs)


HOSTILE = {
    "as many keys as may be": start(0, 1 << 16) + b"".join(pair(name, 0, b"\1") for name in NAMES[: 1 << 16]),
    "keys that never come": start(0, 1 << 16) + pair(b"k", 0, b"\1"),
    "tensors": start(20_000, 0) + tensors(20_000, ()),
    "tensors of odd shapes": start(20_000, 0) + tensors(20_000, (3, 1, 5, 2)),
    "tensors that never come": start(1 << 17, 0) + tensors(1, ()),
    "small numbers": start(0, 999) + b"".join(pair(n, 9, array(1, 4096, b"\x80" * 4096)) for n in NAMES[:999]),
    "short numbers": start(0, 99) + b"".join(pair(n, 9, array(3, 4096, b"\x01\x7f" * 4096)) for n in NAMES[:99]),
    "texts": start(0, 99) + b"".join(pair(n, 9, array(8, 4096, text(b"ab") * 4096)) for n in NAMES[:99]),
    "empty arrays": start(0, 20_000) + b"".join(pair(name, 9, array(8, 0, b"")) for name in NAMES[:20_000]),
    "a long text of wide characters": start(0, 1) + pair(b"k", 8, text("😀".encode() + b"a" * (1 << 20))),
    "a long text that is none": start(0, 1) + pair(b"k", 8, text(b"\xff" * (1 << 20))),
    "a long key, twice": start(0, 2) + pair(b"\xff" * 65535, 0, b"\0") * 2,
    "a text of 200 MiB": start(0, 1) + pair(b"k", 8, struct.pack("<Q", 200 << 20)),
    "200 MiB of numbers": start(0, 1) + pair(b"k", 9, array(0, 200 << 20, b"")),
    "30 million texts": start(0, 1) + pair(b"k", 9, array(8, 30_000_000, b"")),
}


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("name", HOSTILE)
def test_memory_stays_a_small_multiple_of_the_bytes_whatever_they_claim(name: str, traced: None) -> None:
    """Twelve times the input, and the 5 MiB that kept numbers may take."""
    data = HOSTILE[name]
    before = tracemalloc.get_traced_memory()[0]
    found = attempt(data)
    peak = tracemalloc.get_traced_memory()[1] - before
    assert peak < 12 * len(data) + (5 << 20)
    assert found is not None


def test_an_error_about_a_huge_name_is_short() -> None:
    found = attempt(HOSTILE["a long key, twice"])
    assert isinstance(found, GGUFError)
    assert len(found.message) < 1000
