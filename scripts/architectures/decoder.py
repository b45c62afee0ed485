"""Models that are attention and feed-forward layers, dense or with experts; written after llama.cpp's src/models."""

from __future__ import annotations

from dataclasses import dataclass, replace

from scripts.architectures.model import (
    Block,
    Hyperparameters,
    Model,
    Value,
    attention,
    experts,
    feed_forward,
    layer,
    outer,
    shared_keys,
    shrunk,
    tensors,
)


@dataclass(frozen=True, slots=True)
class Traits:
    """What an architecture's layers have.

    qk_norm: "head" normalizes each head, "width" all heads at once. square: n_head x head_dim must be n_embd.
    parallel: no norm before the feed-forward network. ffn_norm: its name otherwise. sandwich: norms after both halves.
    """

    qkv_bias: bool = False
    qk_norm: str = ""
    square: bool = False
    parallel: bool = False
    sandwich: bool = False
    fused: bool = False
    ffn_norm: str = "ffn_norm"
    eps: str = "attention.layer_norm_rms_epsilon"
    sinks: bool = False
    own_n_ff_exp: bool = False


_LAYER_NORM = "attention.layer_norm_epsilon"
TRAITS = {
    "llama": Traits(),
    "qwen2": Traits(qkv_bias=True, square=True),
    "qwen3": Traits(qk_norm="head"),
    "qwen3moe": Traits(qk_norm="head", own_n_ff_exp=True),
    "gemma2": Traits(sandwich=True),
    "gemma3": Traits(sandwich=True, qk_norm="head"),
    "phi3": Traits(fused=True, square=True),
    "command-r": Traits(parallel=True, square=True, eps=_LAYER_NORM),
    "cohere2": Traits(parallel=True, square=True, eps=_LAYER_NORM),
    "olmoe": Traits(qk_norm="width", square=True),
    "gpt-oss": Traits(qkv_bias=True, ffn_norm="post_attention_norm", sinks=True, own_n_ff_exp=True),
    "glm4moe": Traits(qkv_bias=True, ffn_norm="post_attention_norm", own_n_ff_exp=True),
}


@dataclass(frozen=True, slots=True)
class Decoder:
    """Sizes of such a model.

    swa_pattern: every so many layers, one sees the whole context. n_ff_exp 0: experts are n_ff wide. n_layer_dense:
    leading layers without experts. n_nextn: of n_layer, the last ones predict further tokens. `extra`: further keys.
    """

    architecture: str
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    n_ctx_train: int = 131072
    tied: bool = False
    rope_base: float = 10000.0
    rope_factors: bool = False
    n_swa: int = 0
    swa_pattern: int = 1
    n_expert: int = 0
    n_expert_used: int = 0
    n_ff_exp: int = 0
    n_expert_shared: int = 0
    n_layer_dense: int = 0
    n_nextn: int = 0
    extra: tuple[tuple[str, Value], ...] = ()

    def model(self) -> Model:
        blocks = [pair for index in range(self.n_layer) for pair in layer(index, _block(self, index))]
        factors = [("rope_freqs.weight", (self.head_dim // 2,))] if self.rope_factors else []
        around = outer(self.n_embd, self.n_vocab, tied=self.tied)
        return Model(self.architecture, self.n_vocab, _keys(self), tensors(around, factors, blocks))

    def small(self) -> Decoder:
        n_embd = shrunk(self.n_embd, 256)
        if TRAITS[self.architecture].square:
            n_embd = {96: 768, 128: 512}.get(self.head_dim, n_embd)
            n_head = n_embd // self.head_dim
            n_head_kv = max(1, n_head * self.n_head_kv // self.n_head)
        else:
            ratio = min(self.n_head // self.n_head_kv, 4)
            n_head_kv = 2 if self.n_head_kv > 1 and ratio * self.head_dim < 512 else 1
            n_head = ratio * n_head_kv
        return replace(
            self,
            n_layer=max(3, self.swa_pattern + 2) + self.n_nextn,  # at least two windows
            n_embd=n_embd,
            n_ff=shrunk(self.n_ff, 256 if self.n_expert else 512),
            n_head=n_head,
            n_head_kv=n_head_kv,
            n_vocab=512,
            n_swa=min(self.n_swa, 64),
            n_expert=min(self.n_expert, 10),  # 8 are a case of their own in llama.cpp's quantizer
            n_expert_used=min(self.n_expert_used, 4),
            n_ff_exp=self.n_ff_exp and shrunk(self.n_ff_exp, 256),
        )


def _keys(shape: Decoder) -> Hyperparameters:
    keys = shared_keys(shape)
    keys["attention.value_length"] = shape.head_dim
    keys[TRAITS[shape.architecture].eps] = 1e-5
    optional: Hyperparameters = {
        "attention.sliding_window": shape.n_swa,
        "expert_count": shape.n_expert,
        "expert_used_count": shape.n_expert_used,
        "expert_feed_forward_length": shape.n_ff_exp,
        "expert_shared_count": shape.n_expert_shared,
        "leading_dense_block_count": shape.n_layer_dense,
        "nextn_predict_layers": shape.n_nextn,
    }
    return keys | {key: value for key, value in optional.items() if value} | dict(shape.extra)


def _block(shape: Decoder, index: int) -> Block:
    traits, e = TRAITS[shape.architecture], shape.n_embd
    yield "attn_norm.weight", (e,)
    yield from _attention(shape, traits)
    if traits.sandwich:
        yield "post_attention_norm.weight", (e,)
        yield "post_ffw_norm.weight", (e,)
    if not traits.parallel:
        yield f"{traits.ffn_norm}.weight", (e,)
    if shape.n_expert and index >= shape.n_layer_dense:
        yield from _experts(shape)
    elif traits.fused:
        yield "ffn_up.weight", (e, 2 * shape.n_ff)
        yield "ffn_down.weight", (shape.n_ff, e)
    else:
        yield from feed_forward(e, shape.n_ff)
    if index >= shape.n_layer - shape.n_nextn:
        yield from _nextn(shape)


def _attention(shape: Decoder, traits: Traits) -> Block:
    e, head, n_head, n_head_kv = shape.n_embd, shape.head_dim, shape.n_head, shape.n_head_kv
    if traits.fused:
        yield "attn_qkv.weight", (e, (n_head + 2 * n_head_kv) * head)
        yield "attn_output.weight", (n_head * head, e)
        return
    yield from attention(e, n_head, n_head_kv, head, bias=traits.qkv_bias)
    if traits.sinks:
        yield "attn_output.bias", (e,)
        yield "attn_sinks.weight", (n_head,)
    if traits.qk_norm:
        whole = traits.qk_norm == "width"
        yield "attn_q_norm.weight", (head * n_head if whole else head,)
        yield "attn_k_norm.weight", (head * n_head_kv if whole else head,)


def _experts(shape: Decoder) -> Block:
    e, n = shape.n_embd, shape.n_expert
    n_ff = shape.n_ff_exp or shape.n_ff
    yield from experts(e, n_ff, n)
    if shape.architecture == "gpt-oss":
        yield "ffn_gate_inp.bias", (n,)
        yield "ffn_gate_exps.bias", (n_ff, n)
        yield "ffn_up_exps.bias", (n_ff, n)
        yield "ffn_down_exps.bias", (e, n)
    if shape.architecture == "glm4moe":
        yield "exp_probs_b.bias", (n,)
    if shape.n_expert_shared:
        yield from feed_forward(e, n_ff * shape.n_expert_shared, "_shexp")


def _nextn(shape: Decoder) -> Block:
    e = shape.n_embd
    yield "nextn.eh_proj.weight", (2 * e, e)
    yield "nextn.enorm.weight", (e,)
    yield "nextn.hnorm.weight", (e,)
    yield "nextn.embed_tokens.weight", (e, shape.n_vocab)
    yield "nextn.shared_head_head.weight", (e, shape.n_vocab)
    yield "nextn.shared_head_norm.weight", (e,)
