"""What the runtime and the drivers take beside the model: measured, each figure with its origin. Pure.

Measured 2026-11 on Linux x86-64 (Python 3.11, llama-cpp-python 0.3.36, glibc 2.36): resident memory of the worker,
anonymous and mapped apart, as /proc/PID/smaps_rollup shows it. `scripts/accuracy system` measures it again beside the
plan, with the whole context read.
"""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1 << 20
# The worker before it loads: 24 MiB anonymous, 20.5 MiB of libraries; with a model of one layer that has answered, 27
# to 28.5 and 23.1 to 23.3: the chat template's renderer, rows of activations in the CPU's work buffer.
_ANONYMOUS = 29 * _MIB
_LIBRARIES = 24 * _MIB
# A tensor's own record and its part in graphs and the scheduler's tables: dense models of 310 to 1,410 tensors 8 KiB
# each, one with experts 7 to 12.
_TENSOR = 9 << 10
_TENSORS = 300  # where the number is not told
# llama.cpp's vocabulary: 32,000 to 152,000 tokens 161 bytes each, 76,000 to 515,000 merges 109 to 120 beside them, by
# how full the hash tables happen to be. Pieces of more than 15 bytes take more; few tokens have them.
_TOKEN = 163
_MERGE = 118
# A KV cache's cell: position 4, extension 12, shift 4, sequences as a bit set 32; once it is used, a node of 48 in the
# set of used cells and one in that of its sequence's positions (llama.cpp 0c1e57098, src/llama-kv-cells.h).
_CELL = 52 + 2 * 48
# The conversation in the worker, as text and as tokens, this one and the one before: 60 to 110 bytes a token.
_CONVERSATION = 112
# Each thread's part of the CPU's work buffer: a slot of 512 KiB for quantized matrices, in the same place at other
# times up to 295 KiB for attention, 590 with latent heads (ggml-cpu/tiled/tiled.cpp, TILED_WS_SLOT; ggml-cpu.c,
# ggml_graph_plan). With its stack, 32 threads took 0.51 MiB each.
_THREAD = 528 << 10

# What a driver takes on its device beyond what was in use when free memory was read, which is after the driver's own
# context exists: kernels loaded on first use and their workspace. CUDA: 81 to 94 MiB with quantized weights, 182 to 186
# in F16 and with experts (an H200, driver 580; tests/golden/measured). The others from general knowledge, not measured.
_DRIVERS = {"CUDA": 192 * _MIB, "ROCm": 256 * _MIB, "Vulkan": 64 * _MIB, "SYCL": 256 * _MIB, "MTL": 32 * _MIB}


@dataclass(frozen=True, slots=True)
class Overhead:
    """Bytes of a process; mapped: those that are pages of libraries."""

    total: int
    mapped: int


def host_overhead(
    n_tokens: int, n_merges: int, n_cells: int, n_threads: int = 1, n_tensors: int = _TENSORS
) -> Overhead:
    """Return what the worker takes beside the model's buffers, with so much vocabulary and a full context."""
    vocabulary = n_tokens * _TOKEN + n_merges * _MERGE
    context = n_cells * (_CELL + _CONVERSATION)
    anonymous = _ANONYMOUS + n_tensors * _TENSOR + vocabulary + context + (n_threads - 1) * _THREAD
    return Overhead(anonymous + _LIBRARIES, _LIBRARIES)


def process_overhead() -> Overhead:
    """Return what of `host_overhead` a second model in the same process does not take again.

    Its context has a work buffer of its own for every thread, of which the first one's is not counted there.
    """
    return Overhead(_ANONYMOUS + _LIBRARIES - _THREAD, _LIBRARIES)


def device_overhead(backend: str) -> int:
    """Return what a backend's driver takes on its device."""
    return _DRIVERS.get(backend, 0)
