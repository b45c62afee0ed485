"""Gemma 3n: embeddings per layer, several streams (AltUp), and later layers that use earlier layers' KV cache.

Written after src/models/gemma3n.cpp, where 20 layers with a KV cache and the sizes below are constants.
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

N_KV_LAYERS = 20
N_STREAMS, N_EMBD_PER_LAYER, LAUREL_RANK = 4, 256, 64


@dataclass(frozen=True, slots=True)
class Gemma3n:
    """Sizes of a Gemma 3n model; every `swa_pattern`-th layer sees the whole context, the others n_swa tokens."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    head_dim: int = 256
    n_swa: int = 512
    swa_pattern: int = 5
    n_ctx_train: int = 32768
    rope_base: float = 1e6

    def model(self) -> Model:
        keys = shared_keys(self) | {
            "attention.value_length": self.head_dim,
            "attention.layer_norm_rms_epsilon": 1e-6,
            "attention.sliding_window": self.n_swa,
            "attention.sliding_window_pattern": tuple((i + 1) % self.swa_pattern != 0 for i in range(self.n_layer)),
            "attention.shared_kv_layers": self.n_layer - N_KV_LAYERS,
            "embedding_length_per_layer_input": N_EMBD_PER_LAYER,
            "altup.num_inputs": N_STREAMS,
        }
        blocks = [pair for index in range(self.n_layer) for pair in layer(index, _block(self))]
        around = outer(self.n_embd, self.n_vocab, tied=True)
        return Model("gemma3n", self.n_vocab, keys, tensors(around, _streams(self), blocks))

    def small(self) -> Gemma3n:
        """It keeps more than 20 layers, for only those after the 20th have no KV cache."""
        sizes = replace(self, n_layer=N_KV_LAYERS + 2, n_embd=256, n_ff=512, n_head=2, n_head_kv=1)
        return replace(sizes, n_vocab=512, n_swa=64)


def _streams(shape: Gemma3n) -> Block:
    e, wide = shape.n_embd, N_EMBD_PER_LAYER * shape.n_layer
    yield "altup_proj.weight", (e, e, N_STREAMS - 1)
    yield "altup_unembd_proj.weight", (e, e, N_STREAMS - 1)
    yield "per_layer_token_embd.weight", (wide, shape.n_vocab)
    yield "per_layer_model_proj.weight", (e, wide)
    yield "per_layer_proj_norm.weight", (N_EMBD_PER_LAYER,)


def _block(shape: Gemma3n) -> Block:
    e, n = shape.n_embd, N_STREAMS
    for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "post_norm", "laurel_post_norm"):
        yield f"{name}.weight", (e,)
    yield from attention(e, shape.n_head, shape.n_head_kv, shape.head_dim)
    yield "attn_q_norm.weight", (shape.head_dim,)
    yield "attn_k_norm.weight", (shape.head_dim,)
    yield from feed_forward(e, shape.n_ff)
    yield "inp_gate.weight", (e, N_EMBD_PER_LAYER)
    yield "proj.weight", (N_EMBD_PER_LAYER, e)
    yield "altup_correct_coef.weight", (n, n)
    yield "altup_correct_scale.weight", (e,)
    yield "altup_predict_coef.weight", (n, n * n)
    yield "altup_router.weight", (e, n)
    yield "altup_router_norm.weight", (e,)
    yield "laurel_l.weight", (e, LAUREL_RANK)
    yield "laurel_r.weight", (LAUREL_RANK, e)
