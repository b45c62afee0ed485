"""The pools of a dry run by the log, where llama.cpp's table of buffers is out of reach: Windows, macOS.

The log prints 0.00 for buffers that are not allocated. What it does say is where each layer goes, the size of a whole
KV cache, and every compute buffer; weights follow from the header. Which weights the CPU repacks it does not say: they
are counted, and `repack` stays 0. Nor does it say what the graph of one token takes, which a load reserves too: that is
more than the batch's where there are more sequences than tokens in a batch (measured: 64 bytes more of 350,016).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from llmrun.errors import EngineError, UnknownArchitectureError
from llmrun.gguf.header import GGUFHeader
from llmrun.gguf.parse import parse_header
from llmrun.memory.engine_memory import BufferSizes
from llmrun.memory.placement import Placement
from llmrun.memory.shape import model_shape
from llmrun.memory.weights import place_weights
from llmrun.settings import RunSettings
from llmrun.worker.log_sizes import parse_buffers, parse_cached_layers, parse_compute, parse_layers
from llmrun.worker.memory_report import LogSizes, Pools, pool_of

_UNUSED = re.compile(r"model has unused tensor (\S+) \(size = \d+ bytes\)")


def sizes_by_header(header: bytes, settings: RunSettings) -> LogSizes:
    """Return how to read the pools of a dry run out of its log, debug lines included.

    Raises EngineError where the log does not say where the layers go, or the architecture is not one we know.
    """

    def by_log(lines: Sequence[str], pools: Pools) -> tuple[BufferSizes, ...]:
        weights = _weights(_header_as_used(header, lines), lines, pools, settings.cpu_experts)
        caches, computes = Counter[int](), Counter[int]()
        for device, size in parse_cached_layers(lines):
            caches[_number(device, pools)] += size
        for line in parse_buffers(lines):
            if line.kind in ("RS", "state"):
                caches[pool_of(line.name, pools)] += line.size
        for name, size in parse_compute(lines).items():
            computes[pool_of(name, pools)] += size
        return tuple(
            BufferSizes(name, weights[number], caches[number], computes[number])
            for number, name in enumerate((None, *pools.ids))
        )

    return by_log


def _number(device: str, pools: Pools) -> int:
    return pools.names.index(device) + 1 if device in pools.names else 0


def _header_as_used(header: bytes, lines: Sequence[str]) -> GGUFHeader:
    parsed = parse_header(header)
    if not isinstance(parsed, GGUFHeader):
        raise EngineError("the header is not whole, so what it describes cannot be counted")
    unused = {match[1] for line in lines if "unused tensor" in line and (match := _UNUSED.search(line))}
    return replace(parsed, tensors=tuple(tensor for tensor in parsed.tensors if tensor.name not in unused))


def _weights(header: GGUFHeader, lines: Sequence[str], pools: Pools, cpu_experts: int) -> tuple[int, ...]:
    """Bytes of weights by pool, the host first: the log says where each layer goes, the header what is in it."""
    numbers = [_number(device, pools) for device in parse_layers(lines)]
    try:
        shape = model_shape(header)
    except UnknownArchitectureError as error:
        raise EngineError(f"the engine's log does not say enough of {header.architecture!r}: {error}") from error
    if len(numbers) != shape.n_layer + 1:
        raise EngineError(f"the engine's log says where {len(numbers)} layers go, of {shape.n_layer + 1}")
    places = [number - 1 if number else None for number in numbers]
    placement = Placement(tuple(places[:-1]), places[-1])
    backends = [name.rstrip("0123456789") for name in pools.names]  # ggml's names of devices: "CUDA0"
    found = place_weights(shape, placement, backends, mmap=False, cpu_experts=cpu_experts)
    return (found.host, *found.devices)
