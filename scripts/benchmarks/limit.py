"""What a machine allows at the most: how many bytes a second its processors read from memory, and what a token needs.

The C library's memchr looks for a byte that is not there, in as many threads as asked for: nothing but reading, in
vectors, outside of Python's lock. It reaches what the best of loops reach, as no loop of numpy does (sums add, and
those of one thread are bound by that). It reads huge pages where there are some, as the engine reads its copies of
weights.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llmrun.gguf.source import read_model_header
from llmrun.planning.work import model_work

_SIZE = 512 << 20  # bytes that are read, in all: many times any cache
_TURNS = 5


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory that is there to be read, by so many threads; each page of it is its own."""

    n_threads: int
    parts: tuple[ctypes.Array[ctypes.c_char], ...]

    @classmethod
    def of(cls, n_threads: int, size: int = _SIZE) -> Memory:
        """Take so many bytes, and write to all of them: pages that nobody wrote to are one page of zeros."""
        parts = tuple(_take(size // n_threads) for _ in range(n_threads))
        for part in parts:
            ctypes.memset(part, 1, len(part))
        return cls(n_threads, parts)

    def bandwidth(self, turns: int = _TURNS) -> float:
        """Return the bytes a second of the best turn: what disturbs can only slow down."""
        library = ctypes.CDLL(None)
        look = library.memchr
        look.restype, look.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
        best = 0.0
        with ThreadPoolExecutor(self.n_threads) as pool:
            for _ in range(turns):
                started = time.perf_counter()
                found = list(pool.map(lambda part: look(part, 2, len(part)), self.parts))
                best = max(best, sum(map(len, self.parts)) / (time.perf_counter() - started))
                assert not any(found)
        return best


def _take(size: int) -> ctypes.Array[ctypes.c_char]:
    if sys.platform != "linux":
        return ctypes.create_string_buffer(size)
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory has rules of its own
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return (ctypes.c_char * size).from_buffer(memory)


def bytes_per_token(path: Path, n_past: int, kv_type: str = "f16") -> float:
    """Return the bytes that one token alone needs: all weights that it is multiplied by, and the cache it looks at."""
    work = model_work(read_model_header(path))
    weights = sum(product.size * product.share for product in work.products())
    heads = [layer.heads for layer in work.layers if layer.heads is not None]
    cells = sum(min(n_past, one.window or n_past) * one.cell_size(kv_type, kv_type) for one in heads)
    return weights + cells
