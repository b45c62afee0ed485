"""Qwen3-Next and Qwen3.5 (gated delta net in three layers of four), LFM2 (short convolutions in most layers).

Written after src/models/qwen3next.cpp, qwen35.cpp and lfm2.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scripts.architectures.model import (
    Block,
    Hyperparameters,
    Model,
    attention,
    experts,
    feed_forward,
    layer,
    outer,
    shared_keys,
    tensors,
)

_EPS = "attention.layer_norm_rms_epsilon"


@dataclass(frozen=True, slots=True)
class DeltaNet:
    """Sizes of "qwen3next" (with experts) or "qwen35" (dense): every `interval`-th layer is attention, the others keep
    a state. n_key, n_value: heads of the linear attention, all d_state wide.
    """

    architecture: str
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    n_key: int
    n_value: int
    n_expert: int = 0
    n_expert_used: int = 0
    n_ff_exp: int = 0
    tied: bool = False
    d_state: int = 128
    d_conv: int = 4
    interval: int = 4
    n_ctx_train: int = 262144
    rope_base: float = 1e7

    def model(self) -> Model:
        blocks = [pair for index in range(self.n_layer) for pair in layer(index, _delta_block(self, index))]
        around = outer(self.n_embd, self.n_vocab, tied=self.tied)
        return Model(self.architecture, self.n_vocab, _delta_keys(self), tensors(around, blocks))

    def small(self) -> DeltaNet:
        sizes = replace(self, n_layer=4, n_embd=256, n_ff=512, n_head=2, n_head_kv=1, n_vocab=512, n_key=2, n_value=4)
        return replace(sizes, n_expert=16, n_expert_used=4, n_ff_exp=256) if self.n_expert else sizes


def _delta_keys(shape: DeltaNet) -> Hyperparameters:
    keys = shared_keys(shape) | {
        "attention.value_length": shape.head_dim,
        "rope.dimension_count": shape.head_dim // 4,
        _EPS: 1e-6,
        "full_attention_interval": shape.interval,
        "ssm.conv_kernel": shape.d_conv,
        "ssm.inner_size": shape.n_value * shape.d_state,
        "ssm.state_size": shape.d_state,
        "ssm.time_step_rank": shape.n_value,
        "ssm.group_count": shape.n_key,
    }
    if not shape.n_expert:
        return keys | {"rope.dimension_sections": (11, 11, 10, 0)}
    return keys | {
        "expert_count": shape.n_expert,
        "expert_used_count": shape.n_expert_used,
        "expert_feed_forward_length": shape.n_ff_exp,
        "expert_shared_feed_forward_length": shape.n_ff_exp,
    }


def _delta_block(shape: DeltaNet, index: int) -> Block:
    e = shape.n_embd
    yield "attn_norm.weight", (e,)
    yield from _full_attention(shape) if (index + 1) % shape.interval == 0 else _delta_net(shape)
    yield "post_attention_norm.weight", (e,)
    if not shape.n_expert:
        yield from feed_forward(e, shape.n_ff)
        return
    yield from experts(e, shape.n_ff_exp, shape.n_expert)
    yield "ffn_gate_inp_shexp.weight", (e,)
    yield from feed_forward(e, shape.n_ff_exp, "_shexp")


def _full_attention(shape: DeltaNet) -> Block:
    """The query's projection is twice as wide as attention needs: it makes the output's gate too."""
    e, width, width_kv = shape.n_embd, shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
    yield "attn_q.weight", (e, 2 * width)
    yield "attn_k.weight", (e, width_kv)
    yield "attn_v.weight", (e, width_kv)
    yield "attn_q_norm.weight", (shape.head_dim,)
    yield "attn_k_norm.weight", (shape.head_dim,)
    yield "attn_output.weight", (width, e)


def _delta_net(shape: DeltaNet) -> Block:
    e, d, value = shape.n_embd, shape.d_state, shape.n_value * shape.d_state
    convolved = 2 * shape.n_key * d + value
    yield "attn_qkv.weight", (e, convolved)
    yield "attn_gate.weight", (e, value)
    yield "ssm_conv1d.weight", (shape.d_conv, convolved)
    yield "ssm_dt.bias", (shape.n_value,)
    yield "ssm_a", (shape.n_value,)
    if shape.architecture == "qwen3next":
        yield "ssm_ba.weight", (e, 2 * shape.n_value)
    else:
        yield "ssm_beta.weight", (e, shape.n_value)
        yield "ssm_alpha.weight", (e, shape.n_value)
    yield "ssm_norm.weight", (d,)
    yield "ssm_out.weight", (value, e)


@dataclass(frozen=True, slots=True)
class Lfm2:
    """Sizes of an LFM2 model; layers not named in `attention_layers` are short convolutions over d_conv tokens."""

    n_layer: int
    attention_layers: tuple[int, ...]
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    d_conv: int = 3
    n_ctx_train: int = 128000
    rope_base: float = 1e6

    def model(self) -> Model:
        """The last norm is called token_embd_norm: a mistake of the first converter that stayed."""
        per_layer = tuple(self.n_head_kv * (index in self.attention_layers) for index in range(self.n_layer))
        keys = shared_keys(self) | {"attention.head_count_kv": per_layer, "shortconv.l_cache": self.d_conv, _EPS: 1e-5}
        blocks = [pair for index in range(self.n_layer) for pair in layer(index, _lfm2(self, index))]
        around = [("token_embd.weight", (self.n_embd, self.n_vocab)), ("token_embd_norm.weight", (self.n_embd,))]
        return Model("lfm2", self.n_vocab, keys, tensors(around, blocks))

    def small(self) -> Lfm2:
        sizes = replace(self, n_layer=4, attention_layers=(2,), n_embd=256, n_ff=512)
        return replace(sizes, n_head=4, n_head_kv=1, n_vocab=512)


def _lfm2(shape: Lfm2, index: int) -> Block:
    e, head = shape.n_embd, shape.n_embd // shape.n_head
    yield "attn_norm.weight", (e,)
    if index in shape.attention_layers:
        yield from attention(e, shape.n_head, shape.n_head_kv, head)
        yield "attn_q_norm.weight", (head,)
        yield "attn_k_norm.weight", (head,)
    else:
        yield "shortconv.conv.weight", (shape.d_conv, e)
        yield "shortconv.in_proj.weight", (e, 3 * e)
        yield "shortconv.out_proj.weight", (e, e)
    yield "ffn_norm.weight", (e,)
    yield from feed_forward(e, shape.n_ff)
