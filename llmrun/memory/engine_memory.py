"""What the engine itself says a model takes, as values: the buffers of each pool. Knows nothing of how it was asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class BufferSizes:
    """Bytes of the engine's buffers in one pool; device None is the host, pinned memory of a driver included.

    weights: repacked ones and adapters' included; repack is how many of them are in a layout of the CPU's own, adapters
    how many are of LoRA adapters. kv_cache: memory of the context, KV cache and recurrent state. compute: without the
    output buffer.
    """

    device: str | None
    weights: int
    kv_cache: int
    compute: int
    repack: int = 0
    adapters: int = 0

    @property
    def total(self) -> int:
        """All of the pool's buffers."""
        return self.weights + self.kv_cache + self.compute


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """The engine's buffers, for a model that is loaded or that might be; devices in the order of the settings.

    kv_cache, state: of all pools, their sum is that of the pools' kv_cache; state is the part that does not grow with
    the context. output: the logits' buffer, on the host. n_ctx, n_ctx_seq: cells as made, of all sequences and of one.
    flash_attn: as decided, None where nobody said. source: "map" is exact; "log" is rounded to 0.01 MiB a buffer.
    scaled: less was asked for, because asking for all would itself have taken too much. Of fewer sequences the caches
    and states of all follow exactly, and compute is the least multiple that is known to suffice. Of shorter contexts
    the caches follow exactly too, and compute by the straight line that three of them lie on: measured exact for up to
    4 sequences, up to 9% too much for 200.
    """

    host: BufferSizes
    devices: tuple[BufferSizes, ...]
    kv_cache: int
    state: int
    output: int
    n_ctx: int
    n_ctx_seq: int
    flash_attn: bool | None
    source: Literal["map", "log"]
    scaled: bool = False

    @property
    def total(self) -> int:
        """Everything, wherever it is, output buffer included."""
        return self.host.total + self.output + sum(device.total for device in self.devices)


@dataclass(frozen=True, slots=True)
class ProjectorMemory:
    """Bytes that a projector for images takes on the host and on its device: its weights, and what it computes in."""

    host: int
    device: int
