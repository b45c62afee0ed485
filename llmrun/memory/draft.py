"""What a draft model takes beside the model that it guesses for, in the same process. Pure."""

from __future__ import annotations

from dataclasses import replace

from llmrun.memory.footprint import Footprint, MemoryBreakdown
from llmrun.memory.overhead import process_overhead


def beside(alone: Footprint, n_devices: int) -> Footprint:
    """Return a draft's footprint without what its process and its driver take anyway, on so many devices of the model.

    alone: as of a process of its own, with at most one device, which is the first of the model's.
    """
    process = process_overhead()
    host = replace(
        alone.host,
        overhead=max(0, alone.host.overhead - process.total),
        mapped=max(0, alone.host.mapped - process.mapped),
    )
    devices = [replace(used, overhead=0) for used in alone.devices]
    return Footprint(host, (*devices, *(MemoryBreakdown() for _ in range(n_devices - len(devices)))))


def together(model: Footprint, draft: Footprint) -> Footprint:
    """Return what both take; the draft's as of `beside`, for as many devices."""
    pairs = zip(model.devices, draft.devices, strict=True)
    return Footprint(_sum(model.host, draft.host), tuple(_sum(one, other) for one, other in pairs))


def difference(whole: Footprint, part: Footprint) -> Footprint:
    """Return what the one takes more than the other, on the same devices."""
    pairs = zip((whole.host, *whole.devices), (part.host, *part.devices), strict=True)
    host, *devices = (
        MemoryBreakdown(
            max(0, one.weights - other.weights),
            max(0, one.kv_cache - other.kv_cache),
            max(0, one.compute - other.compute),
            max(0, one.overhead - other.overhead),
            max(0, one.mapped - other.mapped),
        )
        for one, other in pairs
    )
    return Footprint(host, tuple(devices))


def _sum(one: MemoryBreakdown, other: MemoryBreakdown) -> MemoryBreakdown:
    return MemoryBreakdown(
        one.weights + other.weights,
        one.kv_cache + other.kv_cache,
        one.compute + other.compute,
        one.overhead + other.overhead,
        one.mapped + other.mapped,
    )
