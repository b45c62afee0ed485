"""The engine's answer as a footprint: its buffers, and what beside them it does not count. Pure."""

from __future__ import annotations

from llmrun.memory.engine_memory import BufferSizes, EngineMemory
from llmrun.memory.footprint import Footprint, MemoryBreakdown
from llmrun.memory.overhead import Overhead


def footprint_of(
    memory: EngineMemory,
    overhead: Overhead,
    device_overheads: tuple[int, ...],
    *,
    maps: bool,
    span: int | None = None,
    more_output: int = 0,
) -> Footprint:
    """Return what the engine's buffers and the overheads make together.

    maps: the file will be mapped, which the engine is not asked with: the host's weights are then pages of it, all from
    the first to the last that is used (span, bytes; None where that is not known), and repacked ones are there twice.
    Adapters are read, whatever is mapped. more_output: bytes that the logits' buffer grows by with the first step that
    wants all rows it may (llama-context.cpp, output_reserve); a load makes one for each sequence.
    """
    host = memory.host
    plain = host.weights - host.repack - host.adapters
    mapped = (plain + host.repack if span is None else max(span, plain)) if maps else 0
    weights = mapped + host.repack + host.adapters if maps else host.weights
    compute = host.compute + memory.output + more_output
    return Footprint(
        MemoryBreakdown(weights, host.kv_cache, compute, overhead.total, mapped + overhead.mapped),
        tuple(map(_device, memory.devices, device_overheads)),
    )


def _device(sizes: BufferSizes, overhead: int) -> MemoryBreakdown:
    return MemoryBreakdown(sizes.weights, sizes.kv_cache, sizes.compute, overhead)
