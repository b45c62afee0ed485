"""What of an engine's log says that memory was refused: which device, how many bytes, and what for. Pure.

The lines are llama.cpp's and ggml's own (0c1e57098); the function that prints each stands beside its expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

from llmrun.errors import Refusal

_Part = Literal["weights", "kv_cache", "compute"]
_NO_NAMES: Mapping[str, str] = MappingProxyType({})
_MIB = 1 << 20

# ggml-alloc.c, alloc_tensor_range (weights, caches) and ggml_gallocr_reserve_n_impl (compute): on every backend
_BUFFER = re.compile(
    r"(alloc_tensor_range|ggml_gallocr_reserve_n_impl): failed to allocate (\S+) buffer of size ([0-9]+)"
)
# llama-model.cpp, load_tensors; where the file is mapped for a device (Metal) it is the only line with its name
_UNABLE = re.compile(r"unable to allocate (\S+) buffer")
# llama-context.cpp, output_reserve: on the host
_OUTPUT = re.compile(r"failed to allocate output buffer of size ([0-9.]+) MiB")
# ggml-metal-device.m, ggml_metal_buffer_init and ggml_metal_buffer_map
_METAL = re.compile(r"failed to allocate buffer, size = *([0-9.]+) MiB")
# ggml-cuda.cu, ggml_backend_cuda_buffer_type_alloc_buffer; the name of the device comes in a line after it
_CUDA = re.compile(r"allocating ([0-9.]+) MiB on device ([0-9]+): cudaMalloc failed")
# ggml-cuda.cu, ggml_cuda_error: while something is computed, and the end of the process; GGML_CUDA_NAME is one of three
_CUDA_ABORT = re.compile(r"(CUDA|ROCm|MUSA) error: out of memory\s+current device: ([0-9]+)")
# ggml-backend.cpp, ggml_backend_cpu_buffer_type_alloc_buffer
_CPU = re.compile(r"ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size ([0-9]+)")
# std::bad_alloc; llama-mmap.cpp with strerror(ENOMEM); whatever else says that it failed to allocate, but for pinned
# memory, in whose place Vulkan and SYCL take ordinary
_SOMETHING = re.compile(
    r"bad_alloc|mmap failed: cannot allocate memory|failed to allocate(?!.*pinned)|out of memory", re.IGNORECASE
)

# ggml-rpc.cpp, RPC_STATUS_ASSERT and rpc_dispatcher::start
_LOST = re.compile(r"ggml-rpc\.cpp:[0-9]+: (Remote RPC server crashed|Failed to connect|RPC handshake failed)")
_LOST_LINE = re.compile(r"llmrun: lost (rpc:\S+)")
LENDER_LOST = 69  # exit code of a worker that lost a lender (sysexits.h, EX_UNAVAILABLE)

_PARTS: tuple[tuple[_Part, re.Pattern[str]], ...] = (
    ("weights", re.compile(r"error loading model|unable to allocate \S+ buffer")),
    # llama-kv-cache.cpp, llama-memory-recurrent.cpp, llama-kv-cache-dsv4.cpp
    ("kv_cache", re.compile(r"failed to allocate buffer for (kv cache|rs cache|DSV4)")),
    # llama-context.cpp, sched_reserve and graph_reserve; ggml-backend.cpp, ggml_backend_sched_alloc_splits
    (
        "compute",
        re.compile(r"ggml_gallocr_reserve_n_impl: failed|failed to allocate (compute|output|graph)|failed to reserve"),
    ),
)


def parse_refusal(log: str | Iterable[str], names: Mapping[str, str] = _NO_NAMES) -> Refusal | None:
    """Return the allocation that was refused last, None where the log tells of none.

    log: lines of one attempt, or an error's message. names: what the settings call each device, by ggml's name of its
    buffers; those that are not in it are told by the form of their name.
    """
    text = log if isinstance(log, str) else "\n".join(log)
    if buffers := _BUFFER.findall(text):
        _, buffer, size = buffers[-1]
        return Refusal(_device_of(buffer, names), int(size), _part_of(text))
    if abort := _CUDA_ABORT.search(text):
        return Refusal(abort[1] + abort[2], None, "compute")
    if unable := _UNABLE.search(text):
        return Refusal(_device_of(unable[1], names), _mib(_CUDA.search(text) or _METAL.search(text)), "weights")
    if cuda := _CUDA.search(text):
        return Refusal(f"CUDA{cuda[2]}", _mib(cuda), _part_of(text))
    return _host_refusal(text)


def _host_refusal(text: str) -> Refusal | None:
    if output := _OUTPUT.search(text):
        return Refusal(None, _mib(output), "compute")
    if buffer := _CPU.search(text):
        return Refusal(None, int(buffer[1]), _part_of(text))
    return Refusal(None, None, _part_of(text)) if _SOMETHING.search(text) else None


def _part_of(text: str) -> _Part | None:
    return next((part for part, words in _PARTS if words.search(text)), None)


def _mib(match: re.Match[str] | None) -> int | None:
    """Return a size as printed, to a hundredth of a MiB, in bytes."""
    return None if match is None else round(float(match[1]) * _MIB)


def _device_of(buffer: str, names: Mapping[str, str]) -> str | None:
    """Return the device that buffers of this name are on, None for the host.

    A device's buffers have its name, or one made of it ("MTL0_Mapped"); pinned memory of the host has that of its
    driver ("CUDA_Host"), and the CPU's layouts names of their own ("CPU_REPACK", "AMX").
    """
    if buffer in names:
        return names[buffer]
    if remote := re.fullmatch(r"RPC[0-9]+\[(.+)\]", buffer):
        return f"rpc:{remote[1]}"
    device = re.fullmatch(r"([A-Za-z]+[0-9]+)(_[A-Za-z]+)?", buffer)
    return None if device is None else device[1]


def has_lost_a_server(log: Iterable[str]) -> bool:
    """Tell whether the process ended because a lender was lost to it."""
    return any(_LOST.search(line) or _LOST_LINE.fullmatch(line) for line in log)


def lost_line(lender: str) -> str:
    """Return the worker's last words where it lost a lender, by its name in settings: `lost_servers` reads them."""
    return f"llmrun: lost {lender}"


def lost_servers(log: Iterable[str]) -> tuple[str, ...]:
    """Return the lenders that the worker says it has lost; none where it does not know which."""
    return tuple(dict.fromkeys(match[1] for line in log if (match := _LOST_LINE.fullmatch(line))))
