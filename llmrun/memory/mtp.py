"""What a model's own layers for multi-token prediction (MTP) take besides their weights. Pure.

They run in a context of their own, with a KV cache of theirs alone, on hidden states that the model gives out.
"""

from __future__ import annotations

from dataclasses import replace

from llmrun.memory.context import ContextShape
from llmrun.memory.engine_memory import BufferSizes, EngineMemory

KEPT_ROWS = 256  # hidden states kept of each sequence, and room for as many again: what the layers can begin with
_FLOAT = 4  # bytes


def hidden_bytes(n_embd: int, context: ContextShape) -> int:
    """Return the bytes on the host for hidden states: those kept, and llama.cpp's row for each token of a batch.

    context: the model's own. Source: llama-context.cpp, output_reserve (embd_nextn of n_batch rows where it is not
    masked, in both contexts); the model's graph keeps a row for each token of a step besides (models/*.cpp, h_nextn).
    """
    return (2 * KEPT_ROWS * context.n_seq_max + 2 * context.n_batch + context.n_ubatch) * n_embd * _FLOAT


def with_layers(model: EngineMemory, layers: EngineMemory) -> EngineMemory:
    """Return what a model takes with its MTP layers.

    layers: as told of their context, with the weights of both; model: of its own, whatever its weights.
    """

    def pool(one: BufferSizes, more: BufferSizes) -> BufferSizes:
        return replace(
            one,
            weights=more.weights,
            repack=more.repack,
            kv_cache=one.kv_cache + more.kv_cache,
            compute=one.compute + more.compute,
        )

    return replace(
        model,
        host=pool(model.host, layers.host),
        devices=tuple(pool(one, more) for one, more in zip(model.devices, layers.devices, strict=True)),
        kv_cache=model.kv_cache + layers.kv_cache,
        output=model.output + layers.output,
        scaled=model.scaled or layers.scaled,
    )
