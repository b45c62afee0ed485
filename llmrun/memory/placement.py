"""Which layer goes to which device: llama.cpp's rule, applied exactly. Knows nothing of bytes.

Source: llama.cpp 0c1e57098, src/llama-model.cpp, llama_model_base::load_tensors (`get_layer_buft_list`).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Placement:
    """Where each layer and the output are: an index into the devices, None for the host.

    The input embedding is always on the host.
    """

    layers: tuple[int | None, ...]
    output: int | None

    def devices(self) -> tuple[int, ...]:
        """Return the devices that have anything, in order."""
        return tuple(sorted({place for place in (*self.layers, self.output) if place is not None}))


def place_layers(n_layer: int, n_gpu_layers: int | None, tensor_split: Sequence[float]) -> Placement:
    """Place a model's layers, counted with those for drafting; without a split there is no device.

    n_gpu_layers counts from the end, the output first; None is all. tensor_split: one part for each device, not all 0.
    """
    wanted = n_layer + 1 if n_gpu_layers is None else min(n_gpu_layers, n_layer + 1)
    on_devices = wanted if tensor_split else 0
    first = n_layer + 1 - on_devices
    bounds = _bounds(tensor_split)
    # the divisions are made in 32 bits there, and a layer exactly on a bound would land elsewhere in 64
    places = [None] * first + [bisect_right(bounds, _float32(i / on_devices)) for i in range(on_devices)]
    return Placement(tuple(places[:-1]), places[-1])


def _bounds(tensor_split: Sequence[float]) -> list[float]:
    sums = list(accumulate((_float32(part) for part in tensor_split), lambda a, b: _float32(a + b)))
    return [_float32(part / sums[-1]) for part in sums]


def _float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])
