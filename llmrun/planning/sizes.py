"""A model's bytes layer by layer, summed so that what any placement takes at the least is known at once. Pure.

At the least: weights, caches and states, which are exact; what is computed in comes on top.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate

from llmrun.gguf.header import GGUFHeader
from llmrun.memory.cache import layer_cache_size
from llmrun.memory.context import context_shape
from llmrun.memory.overhead import host_overhead
from llmrun.memory.shape import ModelShape
from llmrun.settings import RunSettings

_F32 = 4  # bytes; of a logit
_LAYER = re.compile(r"blk\.(\d+)\.")
_EXPERTS = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps")  # see llmrun.memory.shape


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """Bytes of each layer's weights without and with experts, of the output where it is on a device, of all weights.

    remembered: each layer's cache and state with given settings, and besides what the host needs whatever lies where;
    None where that is not known.
    """

    dense: tuple[int, ...]
    experts: tuple[int, ...]
    output: int
    total: int
    remembered: Callable[[RunSettings], tuple[tuple[int, ...], int]] | None = None
    _known: dict[tuple[int | str | None, ...], Reach] = field(default_factory=dict, repr=False, compare=False)

    @property
    def n_layer(self) -> int:
        """Layers that can be placed, the output not counted."""
        return len(self.dense)

    def at_least(self, settings: RunSettings, cpu_experts: int) -> Reach:
        """Return what lies where at the least, for every number of layers on devices."""
        key = (settings.n_ctx, settings.n_seq_max, settings.n_ubatch, settings.type_k, settings.type_v, cpu_experts)
        if key not in self._known:
            self._known[key] = self._reach(settings, cpu_experts)
        return self._known[key]

    def _reach(self, settings: RunSettings, cpu_experts: int) -> Reach:
        kept, besides = self.remembered(settings) if self.remembered is not None else ((0,) * self.n_layer, 0)
        layers = [
            dense + memory + (experts if index >= cpu_experts else 0)
            for index, (dense, experts, memory) in enumerate(zip(self.dense, self.experts, kept, strict=True))
        ]
        upward = (0, self.output, *(self.output + below for below in accumulate(reversed(layers))))
        return Reach(upward, self.total + sum(kept) + besides)


@dataclass(frozen=True, slots=True)
class Reach:
    """Bytes on devices by n_gpu_layers, 0 and up, and of everything together; all at the least."""

    on_devices: tuple[int, ...]
    total: int

    def most_layers(self, capacity: int | None) -> int:
        """Return how many layers devices of this capacity could hold together; None is no bound."""
        if capacity is None:
            return len(self.on_devices) - 1
        return bisect_right(self.on_devices, capacity) - 1

    def fewest_layers(self, host: int) -> int:
        """Return how many layers devices have to hold, so that a host with so many bytes could have the rest."""
        return bisect_left(self.on_devices, self.total - host)

    def between(self, first: int, count: int, n_gpu_layers: int) -> int:
        """Return what `count` of the layers on devices take, from the `first` of them on; the output is the last."""
        return self.on_devices[n_gpu_layers - first] - self.on_devices[n_gpu_layers - first - count]


def layer_sizes(shape: ModelShape, vocabulary: tuple[int, int] = (0, 0), n_tensors: int = 0) -> LayerSizes:
    """Return the sizes of a model whose architecture is known. vocabulary: numbers of tokens and merges."""
    caches = [layer.cache for layer in shape.layers]
    kinds = list(dict.fromkeys(caches))
    places = [kinds.index(cache) for cache in caches]

    @lru_cache(maxsize=32)
    def of_context(n_ctx: int, n_seq_max: int, n_ubatch: int, type_k: str, type_v: str) -> tuple[int, ...]:
        settings = RunSettings(n_ctx=n_ctx, n_seq_max=n_seq_max, n_ubatch=n_ubatch, type_k=type_k, type_v=type_v)
        context = context_shape(settings, shape.n_ctx_train)
        each = [0 if kind is None else layer_cache_size(kind, context, shape.n_swa, type_k, type_v) for kind in kinds]
        return tuple(each[place] + layer.state * n_seq_max for place, layer in zip(places, shape.layers, strict=True))

    def remembered(settings: RunSettings) -> tuple[tuple[int, ...], int]:
        n_ctx = settings.n_ctx or shape.n_ctx_train
        layers = of_context(n_ctx, settings.n_seq_max, settings.n_ubatch, settings.type_k, settings.type_v)
        logits = settings.n_seq_max * shape.n_vocab * _F32
        return layers, host_overhead(*vocabulary, n_ctx, n_tensors=n_tensors).total + logits

    return LayerSizes(
        dense=tuple(layer.weights.size for layer in shape.layers),
        experts=tuple(layer.experts.size for layer in shape.layers),
        output=shape.output.size + (shape.tied.size if shape.tied is not None else 0),
        total=_total(shape),
        remembered=remembered,
    )


def _total(shape: ModelShape) -> int:
    """All weights, each counted once: a tied embedding is one more where the output is on a device."""
    layers = sum(layer.weights.size + layer.experts.size for layer in shape.layers)
    return layers + shape.input.size + shape.output.size


def tensor_sizes(header: GGUFHeader) -> LayerSizes:
    """Return the sizes of a model of which only the tensors are known, by their names."""
    n_layer = header.uint(header.arch("block_count"))
    dense, experts, rest, output = [0] * n_layer, [0] * n_layer, 0, 0
    for tensor in header.tensors:
        match = _LAYER.match(tensor.name)
        if match is not None and int(match[1]) < n_layer:
            (experts if _EXPERTS.search(tensor.name) else dense)[int(match[1])] += tensor.size
        elif tensor.name.startswith("output"):
            output += tensor.size
        else:
            rest += tensor.size
    return LayerSizes(tuple(dense), tuple(experts), output, sum(dense) + sum(experts) + output + rest)
