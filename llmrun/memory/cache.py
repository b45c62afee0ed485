"""The KV cache and the recurrent state, to the byte. Pure.

Source: llama.cpp 0c1e57098, src/llama-kv-cache.cpp, llama-kv-cache-iswa.cpp and llama-memory-recurrent.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmrun.gguf.header import align
from llmrun.gguf.types import ggml_type_named
from llmrun.memory.attention import CacheShape
from llmrun.memory.context import ContextShape
from llmrun.memory.placement import Placement
from llmrun.memory.shape import ALIGNMENT, ModelShape


@dataclass(frozen=True, slots=True)
class ContextMemory:
    """Bytes a context keeps in one pool."""

    kv_cache: int = 0
    state: int = 0


def row_size(type_name: str, width: int) -> int:
    """Return the bytes of `width` elements of a cache type (ggml.c, ggml_row_size)."""
    kind = ggml_type_named(type_name)
    return -(-width // kind.block_size) * kind.type_size


def layer_cache_size(
    cache: CacheShape, context: ContextShape, n_swa: int, type_k: str, type_v: str, v_padded_to: int | None = None
) -> int:
    """Return the bytes of one layer's KV cache.

    v_padded_to: the width of V of the widest layer, where V is kept transposed: that is without flash attention.
    """
    cells = context.window_cells(n_swa) if cache.windowed else context.n_ctx_seq
    v_width = v_padded_to if v_padded_to is not None and cache.v_width else cache.v_width
    rows = cells * context.n_stream
    keys = align(row_size(type_k, cache.k_width) * rows, ALIGNMENT) + indexer_size(cache, context, type_k)
    return keys + align(row_size(type_v, v_width) * rows, ALIGNMENT)


def indexer_size(cache: CacheShape, context: ContextShape, type_k: str) -> int:
    """Return the bytes of one layer's indexer keys, which are kept for every token (llama-kv-cache-dsa.cpp)."""
    return align(row_size(type_k, cache.indexer_width) * context.n_ctx_seq * context.n_stream, ALIGNMENT)


def place_context(
    shape: ModelShape,
    context: ContextShape,
    placement: Placement,
    n_devices: int,
    *,
    type_k: str,
    type_v: str,
    flash_attn: bool,
    offload: bool = True,
) -> tuple[ContextMemory, ...]:
    """Return what the context keeps on the host and then on each device: every layer's share is where the layer is."""
    kv_cache, state = [0] * (n_devices + 1), [0] * (n_devices + 1)
    v_padded_to = None if flash_attn else shape.v_width_max
    for layer, place in zip(shape.layers, placement.layers, strict=True):
        pool = 0 if place is None or not offload else place + 1
        if layer.cache is not None:
            kv_cache[pool] += layer_cache_size(layer.cache, context, shape.n_swa, type_k, type_v, v_padded_to)
        state[pool] += layer.state * context.n_seq_max
    return tuple(map(ContextMemory, kv_cache, state))
