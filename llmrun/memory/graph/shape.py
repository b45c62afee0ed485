"""What a compute graph depends on, as values: the model's layers by kind, and one batch.

Knows nothing of files and of how a graph is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from llmrun.memory.attention import CacheShape
from llmrun.memory.graph.tensor import Shape

# A graph is built once for all lengths of context: the numbers of cells are formal ones in it, powers of two so large
# that a tensor's size can be read as a polynomial in them.
CELL_BITS = 80
CELLS, WINDOW_CELLS = 1 << CELL_BITS, 1 << 2 * CELL_BITS


class Weight(NamedTuple):
    """A weight's dimensions, ne0 first, and its bytes; loras: of each adapter beside it the two matrices."""

    ne: Shape
    size: int
    loras: tuple[tuple[Weight, Weight], ...] = ()

    @property
    def form(self) -> tuple[object, ...]:
        """What of it makes a difference to a graph: not its bytes."""
        return self.ne, tuple((a.ne, b.ne) for a, b in self.loras)


@dataclass(frozen=True, slots=True, eq=False)
class LayerKind:
    """Layers that are built alike: their weights by name within the layer, heads, cache, bytes of state.

    shares_cache: the cache is an earlier layer's. is_sparse: of gemma3n's layers the first ones.
    """

    weights: Mapping[str, Weight]
    n_head: int
    n_head_kv: int
    cache: CacheShape | None
    state: int
    shares_cache: bool = False
    is_sparse: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ComputeShape:
    """A model as its graph sees it; two of them are equal only if they are one.

    head_k, head_v: elements of a head. numbers: the architecture's own metadata, without its prefix. outer: weights
    outside the layers. layers: for each its index in `kinds`, layers for drafting left out; n_layer_all: with those.
    caches: of each layer the one whose cache it reads, itself for most. v_width_max: of all layers.
    """

    architecture: str
    n_embd: int
    n_vocab: int
    n_swa: int
    head_k: int
    head_v: int
    v_width_max: int
    numbers: Mapping[str, float]
    outer: Mapping[str, Weight]
    kinds: tuple[LayerKind, ...]
    layers: tuple[int, ...]
    caches: tuple[int, ...]
    n_layer_all: int

    def uint(self, key: str, default: int = 0) -> int:
        """Return one of the architecture's whole numbers."""
        return int(self.numbers.get(key, default))

    @property
    def has_states(self) -> bool:
        """Whether a layer is recurrent."""
        return any(kind.state for kind in self.kinds)


@dataclass(frozen=True, slots=True)
class Batch:
    """The batch that buffers are reserved for, and the cache it sees.

    n_stream: of the cache. type_k, type_v: its types. v_transposed: how V is kept, which is decided before flash_attn
    is. pin_norms: norms are pinned to the backend of their layer. pin_attention: without flash attention, its result is
    pinned to the host.
    """

    n_tokens: int
    n_seqs: int
    n_outputs: int
    n_stream: int
    type_k: str
    type_v: str
    flash_attn: bool
    v_transposed: bool
    offload_kqv: bool
    pin_norms: bool = False
    pin_attention: bool = False

    def without_flash_attention(self) -> Batch:
        """Return the same batch, with a cache made for flash attention, which is then not used."""
        return replace(self, flash_attn=False)

    def probe(self) -> Batch:
        """Return the batch llama.cpp tries flash attention with: a token a sequence."""
        n = self.n_seqs
        return replace(self, n_tokens=n, n_outputs=n, pin_norms=True, pin_attention=not self.offload_kqv)


class PlacedLayer(NamedTuple):
    """A layer of a kind, by index, on a backend; its experts' weights and its cache may lie on others."""

    kind: int
    backend: int
    experts: int
    cache: int
