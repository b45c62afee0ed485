"""Gemma 4's small models: embeddings per layer, wide heads where the whole context is seen, later layers without KV.

Written after src/models/gemma4.cpp, for models without experts. Like the published files, the layers that use an
earlier layer's KV cache have tensors for keys and values all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scripts.architectures.model import (
    Block,
    Model,
    attention,
    feed_forward,
    layer,
    outer,
    shared_keys,
    tensors,
)


@dataclass(frozen=True, slots=True)
class Gemma4:
    """Sizes of such a model; every `swa_pattern`-th layer sees the whole context, with heads head_dim wide.

    n_shared: the last layers, which use the KV cache of the two before them; their n_ff is doubled.
    The last layer with its own KV cache must be one that sees the whole context.
    """

    n_layer: int
    n_shared: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    head_dim: int = 512
    head_dim_swa: int = 256
    n_swa: int = 512
    swa_pattern: int = 5
    n_embd_per_layer: int = 256
    n_ctx_train: int = 131072
    rope_base: float = 1e6

    def model(self) -> Model:
        layers = range(self.n_layer)
        keys = shared_keys(self) | {
            "feed_forward_length": tuple(_n_ff(self, index) for index in layers),
            "attention.value_length": self.head_dim,
            "attention.key_length_swa": self.head_dim_swa,
            "attention.value_length_swa": self.head_dim_swa,
            "attention.layer_norm_rms_epsilon": 1e-6,
            "attention.sliding_window": self.n_swa,
            "attention.sliding_window_pattern": tuple(_is_swa(self, index) for index in layers),
            "attention.shared_kv_layers": self.n_shared,
            "embedding_length_per_layer_input": self.n_embd_per_layer,
            "final_logit_softcapping": 30.0,
            "rope.dimension_count": self.head_dim,
            "rope.dimension_count_swa": self.head_dim_swa,
            "rope.freq_base_swa": 10000.0,
        }
        blocks = [pair for index in layers for pair in layer(index, _block(self, index))]
        around = outer(self.n_embd, self.n_vocab, tied=True)
        return Model("gemma4", self.n_vocab, keys, tensors(around, _per_layer(self), blocks))

    def small(self) -> Gemma4:
        sizes = replace(self, n_layer=10, n_shared=5, n_embd=256, n_ff=512, n_head=2, n_head_kv=1)
        return replace(sizes, n_vocab=512, n_swa=64)


def _is_swa(shape: Gemma4, index: int) -> bool:
    return (index + 1) % shape.swa_pattern != 0


def _n_ff(shape: Gemma4, index: int) -> int:
    return shape.n_ff * (2 if index >= shape.n_layer - shape.n_shared else 1)


def _per_layer(shape: Gemma4) -> Block:
    wide = shape.n_embd_per_layer * shape.n_layer
    yield "per_layer_token_embd.weight", (wide, shape.n_vocab)
    yield "per_layer_model_proj.weight", (shape.n_embd, wide)
    yield "per_layer_proj_norm.weight", (shape.n_embd_per_layer,)
    yield "rope_freqs.weight", (shape.head_dim // 2,)


def _block(shape: Gemma4, index: int) -> Block:
    e, head = shape.n_embd, shape.head_dim_swa if _is_swa(shape, index) else shape.head_dim
    for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "post_norm"):
        yield f"{name}.weight", (e,)
    yield from attention(e, shape.n_head, shape.n_head_kv, head)
    yield "attn_q_norm.weight", (head,)
    yield "attn_k_norm.weight", (head,)
    yield from feed_forward(e, _n_ff(shape, index))
    yield "inp_gate.weight", (e, shape.n_embd_per_layer)
    yield "proj.weight", (shape.n_embd_per_layer, e)
    yield "layer_output_scale.weight", (1,)
