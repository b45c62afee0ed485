"""What it costs to read a header, beside the gguf package on the same file in the same process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from llmrun.gguf.source import read_header
from scripts.benchmarks.table import Row
from scripts.synthetic import QWEN3_0_6B, Shape, tensors

TURNS = 3  # one of the gguf package's takes ten seconds
_TOKENS, _MERGES = QWEN3_0_6B.n_vocab, 151_387  # Qwen3's
_LARGE = Shape("qwen3", 20, 4096, 12288, 32, 8, 128, _TOKENS)  # 8.3 GiB in F16


def measure_header(folder: Path) -> list[Row]:
    """A vocabulary of 151,936 tokens and its merges; and a file of 8.3 GiB, most of it a hole."""
    vocabulary = _write(folder / "vocabulary.gguf", QWEN3_0_6B, _TOKENS, _MERGES)
    large = _write(folder / "large.gguf", _LARGE, 0, 0)
    return [
        _compare("header of 151,936 tokens, against gguf", vocabulary, 0.1),
        _compare("header of an 8.3 GiB file, against gguf", large, 0.5),
    ]


def _compare(name: str, path: Path, bar: float) -> Row:
    ours, theirs = [], []
    for _ in range(TURNS):
        ours.append(_seconds(read_header, path))
        theirs.append(_seconds(gguf.GGUFReader, path))
    return Row(name, "s", tuple(ours), tuple(theirs), bar, at_least=False)


def _seconds(read: Callable[[Path], object], path: Path) -> float:
    start = time.perf_counter()
    read(path)
    return time.perf_counter() - start


def _write(path: Path, shape: Shape, n_tokens: int, n_merges: int) -> Path:
    if path.exists():
        return path
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_block_count(shape.n_layer)
    if n_tokens:
        writer.add_token_list([f"token{index}" for index in range(n_tokens)])
        writer.add_token_types([1] * n_tokens)
        writer.add_token_merges([f"left{index} right{index}" for index in range(n_merges)])
    size = 0
    for name, dims in tensors(shape):
        n_bytes = 2 * int(np.prod(dims))
        writer.add_tensor_info(name, dims, np.dtype(np.float16), n_bytes)
        size += -(-n_bytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("ab") as file:
        file.truncate(file.tell() + 32 + size)
    return path
