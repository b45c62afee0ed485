"""Models with a state in place of a KV cache, in all layers or some: Mamba, Mamba 2, Falcon-H1, Granite 4 hybrids.

Written after src/models/mamba.cpp, mamba2.cpp, falcon-h1.cpp and granite-hybrid.cpp.
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
class Mamba:
    """Sizes of a Mamba model; its inner width is twice n_embd."""

    n_layer: int
    n_embd: int
    n_vocab: int
    dt_rank: int
    d_state: int = 16
    d_conv: int = 4
    n_ctx_train: int = 1048576

    def model(self) -> Model:
        keys = shared_keys(self) | {
            "feed_forward_length": 0,
            "attention.head_count": 0,
            "ssm.conv_kernel": self.d_conv,
            "ssm.inner_size": 2 * self.n_embd,
            "ssm.state_size": self.d_state,
            "ssm.time_step_rank": self.dt_rank,
            _EPS: 1e-5,
        }
        blocks = [pair for index in range(self.n_layer) for pair in layer(index, _mamba(self))]
        return Model("mamba", self.n_vocab, keys, tensors(outer(self.n_embd, self.n_vocab, tied=True), blocks))

    def small(self) -> Mamba:
        return replace(self, n_layer=2, n_embd=256, n_vocab=512)


def _mamba(shape: Mamba) -> Block:
    e, inner = shape.n_embd, 2 * shape.n_embd
    yield "attn_norm.weight", (e,)
    yield "ssm_in.weight", (e, 2 * inner)
    yield "ssm_conv1d.weight", (shape.d_conv, inner)
    yield "ssm_conv1d.bias", (inner,)
    yield "ssm_x.weight", (inner, shape.dt_rank + 2 * shape.d_state)
    yield "ssm_dt.weight", (shape.dt_rank, inner)
    yield "ssm_dt.bias", (inner,)
    yield "ssm_a", (shape.d_state, inner)
    yield "ssm_d", (inner,)
    yield "ssm_out.weight", (inner, e)


@dataclass(frozen=True, slots=True)
class Mixer:
    """Sizes of a Mamba 2 layer; its inner width is n_head x head_dim."""

    n_head: int
    d_state: int
    head_dim: int = 64
    n_group: int = 1
    d_conv: int = 4
    norm: bool = True

    @property
    def inner(self) -> int:
        return self.n_head * self.head_dim

    def keys(self) -> Hyperparameters:
        return {
            "ssm.conv_kernel": self.d_conv,
            "ssm.inner_size": self.inner,
            "ssm.state_size": self.d_state,
            "ssm.time_step_rank": self.n_head,
            "ssm.group_count": self.n_group,
        }

    def block(self, n_embd: int) -> Block:
        convolved = self.inner + 2 * self.n_group * self.d_state
        yield "ssm_in.weight", (n_embd, self.inner + convolved + self.n_head)
        yield "ssm_conv1d.weight", (self.d_conv, convolved)
        yield "ssm_conv1d.bias", (convolved,)
        yield "ssm_dt.bias", (self.n_head,)
        yield "ssm_a", (1, self.n_head)
        yield "ssm_d", (1, self.n_head)
        if self.norm:
            yield "ssm_norm.weight", (self.inner // self.n_group, self.n_group)
        yield "ssm_out.weight", (self.inner, n_embd)


@dataclass(frozen=True, slots=True)
class Mamba2:
    """Sizes of a Mamba 2 model."""

    n_layer: int
    n_embd: int
    n_vocab: int
    mixer: Mixer
    n_ctx_train: int = 1048576

    def model(self) -> Model:
        keys = shared_keys(self) | self.mixer.keys() | {"feed_forward_length": 0, "attention.head_count": 0, _EPS: 1e-5}
        e = self.n_embd
        block = [("attn_norm.weight", (e,)), *self.mixer.block(e)]
        blocks = [pair for index in range(self.n_layer) for pair in layer(index, block)]
        return Model("mamba2", self.n_vocab, keys, tensors(outer(e, self.n_vocab, tied=True), blocks))

    def small(self) -> Mamba2:
        return replace(self, n_layer=2, n_embd=256, n_vocab=512, mixer=replace(self.mixer, n_head=8))


@dataclass(frozen=True, slots=True)
class FalconH1:
    """Sizes of a Falcon-H1 model: every layer has attention and a Mamba 2 mixer side by side."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    mixer: Mixer
    n_ctx_train: int
    rope_base: float = 1e11

    def model(self) -> Model:
        keys = shared_keys(self) | self.mixer.keys() | {"attention.value_length": self.head_dim, _EPS: 1e-5}
        blocks = [pair for index in range(self.n_layer) for pair in layer(index, _falcon_h1(self))]
        around = outer(self.n_embd, self.n_vocab, tied=False)
        return Model("falcon-h1", self.n_vocab, keys, tensors(around, blocks))

    def small(self) -> FalconH1:
        mixer = replace(self.mixer, n_head=8)
        return replace(self, n_layer=2, n_embd=256, n_ff=512, n_head=4, n_head_kv=1, n_vocab=512, mixer=mixer)


def _falcon_h1(shape: FalconH1) -> Block:
    """The feed-forward norm has no ".weight" here: llama.cpp looks for it under this name."""
    yield "attn_norm.weight", (shape.n_embd,)
    yield from shape.mixer.block(shape.n_embd)
    yield from attention(shape.n_embd, shape.n_head, shape.n_head_kv, shape.head_dim)
    yield "ffn_norm", (shape.n_embd,)
    yield from feed_forward(shape.n_embd, shape.n_ff)


@dataclass(frozen=True, slots=True)
class GraniteHybrid:
    """Sizes of a Granite 4 hybrid with experts; layers not named in `attention_layers` are Mamba 2 mixers.

    The inner width must be twice n_embd. n_ff_shared: width of the expert every token passes.
    """

    n_layer: int
    attention_layers: tuple[int, ...]
    n_embd: int
    n_ff: int
    n_ff_shared: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    n_expert: int
    n_expert_used: int
    mixer: Mixer
    n_ctx_train: int = 131072

    def model(self) -> Model:
        per_layer = tuple(self.n_head_kv * (index in self.attention_layers) for index in range(self.n_layer))
        keys = shared_keys(self) | self.mixer.keys()
        keys |= {"attention.head_count_kv": per_layer, _EPS: 1e-5, "rope.scaling.finetuned": False}
        keys |= {"expert_count": self.n_expert, "expert_used_count": self.n_expert_used}
        keys |= {"expert_shared_feed_forward_length": self.n_ff_shared}
        # The multipliers of its config.json.
        keys |= {"embedding_scale": 12.0, "residual_scale": 0.22, "attention.scale": 0.0078125, "logit_scale": 6.0}
        blocks = [pair for index in range(self.n_layer) for pair in layer(index, _granite(self, index))]
        return Model("granitehybrid", self.n_vocab, keys, tensors(outer(self.n_embd, self.n_vocab, tied=True), blocks))

    def small(self) -> GraniteHybrid:
        mixer = replace(self.mixer, n_head=8)
        sizes = replace(self, n_layer=4, attention_layers=(2,), n_embd=256, n_ff=256, n_ff_shared=512, mixer=mixer)
        return replace(sizes, n_head=4, n_head_kv=2, n_vocab=512, n_expert=16, n_expert_used=4)


def _granite(shape: GraniteHybrid, index: int) -> Block:
    e = shape.n_embd
    yield "attn_norm.weight", (e,)
    if index in shape.attention_layers:
        yield from attention(e, shape.n_head, shape.n_head_kv, e // shape.n_head)
    else:
        yield from shape.mixer.block(e)
    yield "ffn_norm.weight", (e,)
    yield from experts(e, shape.n_ff, shape.n_expert)
    yield from feed_forward(e, shape.n_ff_shared, "_shexp")
