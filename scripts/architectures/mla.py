"""DeepSeek's latent attention: one vector per token stands for all heads' keys and values (src/models/deepseek2.cpp).

As current converters write it: the cached vector is kv_lora_rank + rope wide (576), and one "head" of it is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scripts.architectures.model import (
    Block,
    Hyperparameters,
    Model,
    Value,
    experts,
    feed_forward,
    layer,
    outer,
    shared_keys,
    shrunk,
    tensors,
)


@dataclass(frozen=True, slots=True)
class Latent:
    """Sizes of a DeepSeek model; q_lora_rank None: queries come from the hidden state directly.

    n_layer_dense: leading layers without experts. nope, rope: the two parts of a query's head. v: a value's head.
    """

    n_layer: int
    n_layer_dense: int
    n_embd: int
    n_ff: int
    n_head: int
    n_vocab: int
    n_expert: int
    n_expert_used: int
    n_expert_shared: int
    n_ff_exp: int
    q_lora_rank: int | None
    kv_lora_rank: int = 512
    nope: int = 128
    rope: int = 64
    v: int = 128
    n_ctx_train: int = 163840
    rope_base: float = 10000.0
    probs_bias: bool = False
    extra: tuple[tuple[str, Value], ...] = ()

    def model(self) -> Model:
        blocks = [pair for index in range(self.n_layer) for pair in layer(index, _block(self, index))]
        around = outer(self.n_embd, self.n_vocab, tied=False)
        return Model("deepseek2", self.n_vocab, _keys(self), tensors(around, blocks))

    def small(self) -> Latent:
        """The cached vector keeps its width; a rank of 0 says "none", which llama.cpp else tells from 27 layers."""
        return replace(
            self,
            n_layer=4,
            n_layer_dense=1,
            n_embd=256,
            n_ff=shrunk(self.n_ff, 512),
            n_head=4,
            n_vocab=512,
            n_expert=16,
            n_expert_used=4,
            n_ff_exp=shrunk(self.n_ff_exp, 256),
            q_lora_rank=256 if self.q_lora_rank else 0,
        )


def _keys(shape: Latent) -> Hyperparameters:
    keys = shared_keys(shape) | {
        "attention.head_count_kv": 1,
        "attention.key_length": shape.kv_lora_rank + shape.rope,
        "attention.value_length": shape.kv_lora_rank,
        "attention.key_length_mla": shape.nope + shape.rope,
        "attention.value_length_mla": shape.v,
        "attention.kv_lora_rank": shape.kv_lora_rank,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.dimension_count": shape.rope,
        "leading_dense_block_count": shape.n_layer_dense,
        "expert_count": shape.n_expert,
        "expert_used_count": shape.n_expert_used,
        "expert_shared_count": shape.n_expert_shared,
        "expert_feed_forward_length": shape.n_ff_exp,
    }
    if shape.q_lora_rank is not None:
        keys["attention.q_lora_rank"] = shape.q_lora_rank
    return keys | dict(shape.extra)


def _block(shape: Latent, index: int) -> Block:
    e = shape.n_embd
    yield "attn_norm.weight", (e,)
    yield from _attention(shape)
    yield "ffn_norm.weight", (e,)
    if index < shape.n_layer_dense:
        yield from feed_forward(e, shape.n_ff)
        return
    yield from experts(e, shape.n_ff_exp, shape.n_expert)
    yield from feed_forward(e, shape.n_ff_exp * shape.n_expert_shared, "_shexp")
    if shape.probs_bias:
        yield "exp_probs_b.bias", (shape.n_expert,)


def _attention(shape: Latent) -> Block:
    e, n_head, kv, rank = shape.n_embd, shape.n_head, shape.kv_lora_rank, shape.q_lora_rank
    width = n_head * (shape.nope + shape.rope)
    if rank:
        yield "attn_q_a.weight", (e, rank)
        yield "attn_q_a_norm.weight", (rank,)
        yield "attn_q_b.weight", (rank, width)
    else:
        yield "attn_q.weight", (e, width)
    yield "attn_kv_a_mqa.weight", (e, kv + shape.rope)
    yield "attn_kv_a_norm.weight", (kv,)
    yield "attn_k_b.weight", (shape.nope, kv, n_head)
    yield "attn_v_b.weight", (kv, shape.v, n_head)
    yield "attn_output.weight", (n_head * shape.v, e)
