"""The graphs of the architectures with recurrent layers, and all architectures by name.

Source: llama.cpp 0c1e57098, src/models/: each function is the `graph` of one or more files there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from llmrun.memory.graph import architectures, gemmas
from llmrun.memory.graph.architectures import granite_tail, mixture, self_attention
from llmrun.memory.graph.attention import attend
from llmrun.memory.graph.builder import Builder
from llmrun.memory.graph.feed_forward import experts, feed_forward
from llmrun.memory.graph.recurrent import gated_delta_net, mamba, mamba2, short_convolution
from llmrun.memory.graph.tensor import Tensor, binary, concat, cont, mul_mat, reshape, unary, view


def mamba_only(b: Builder) -> None:
    """mamba and mamba2."""
    mixer = mamba2 if b.model.architecture == "mamba2" else mamba

    def layer(b: Builder, x: Tensor) -> Tensor:
        cur, x = b.select(mixer(b, b.norm(x, "attn_norm")), x)
        return binary(cur, x)

    b.logits(b.output_norm(b.layers(layer, b.embeddings())))


def falcon_h1(b: Builder) -> None:
    """Attention and Mamba 2 side by side in every layer."""

    def layer(b: Builder, x: Tensor) -> Tensor:
        attended = self_attention(b, b.norm(x, "attn_norm"))
        mixed = mamba2(b, b.norm(x, "attn_norm"))
        (residual,) = b.select(binary(binary(attended, mixed), x))
        return binary(feed_forward(b, b.norm(residual, "ffn_norm")), residual)

    b.logits(b.output_norm(b.layers(layer, b.embeddings())))


def granite_hybrid(b: Builder) -> None:
    """Mamba 2 or attention."""

    def layer(b: Builder, x: Tensor) -> Tensor:
        normed = b.norm(x, "attn_norm")
        roped = bool(b.model.numbers.get("rope.scaling.finetuned", True))
        cur = mamba2(b, normed) if b.kind.state else self_attention(b, normed, roped=roped)
        return granite_tail(b, cur, x)

    x = b.output_norm(b.layers(layer, b.embeddings()))
    b.logits(x, *([unary] if b.model.numbers.get("logit_scale") else []))


def lfm2(b: Builder) -> None:
    """Short convolutions or attention."""

    def layer(b: Builder, x: Tensor) -> Tensor:
        normed = b.norm(x, "attn_norm")
        cur = short_convolution(b, normed) if b.kind.state else self_attention(b, normed)
        cur, x = b.select(cur, x)
        residual = binary(x, cur)
        return binary(residual, mixture(b, b.norm(residual, "ffn_norm")))

    b.logits(b.output_norm(b.layers(layer, b.embeddings())))


def qwen3next(b: Builder) -> None:
    """Also qwen35 and qwen35moe: gated delta nets or gated attention; the last norm's result is kept for all tokens."""

    def layer(b: Builder, x: Tensor) -> Tensor:
        normed = b.norm(x, "attn_norm")
        b.expand(normed)
        residual = binary(_delta_layer(b, normed) if b.kind.state else _gated_attention(b, normed), x)
        return binary(_gated_mixture(b, b.norm(residual, "post_attention_norm")), residual)

    x = b.rows(b.output_norm(b.layers(layer, b.embeddings())))
    x.output = True
    b.logits(x)


def _gated_attention(b: Builder, x: Tensor) -> Tensor:
    head, n_head, n_kv, n = b.model.head_k, b.kind.n_head, b.kind.n_head_kv, b.n_tokens
    both = reshape(b.linear(x, "attn_q"), 2 * head, n_head, n)
    q, gate = (view(both, head, n_head, n, stride=2 * head) for _ in range(2))
    k, v = (reshape(b.linear(x, name), head, n_kv, n) for name in ("attn_k", "attn_v"))
    q, k = b.rope(b.norm(q, "attn_q_norm")), b.rope(b.norm(k, "attn_k_norm"))
    cur = binary(attend(b, q, k, v, ""), unary(cont(gate, head * n_head, n)))
    return b.linear(cur, "attn_output")


def _delta_layer(b: Builder, x: Tensor) -> Tensor:
    n_v, n_k, n_seqs = b.model.uint("ssm.time_step_rank"), b.model.uint("ssm.group_count"), b.batch.n_seqs
    n = b.n_tokens // n_seqs
    mixed, z = _projections(b, x, n)
    if b.has("ssm_alpha"):  # qwen35 and qwen35moe, whose heads of query and key are not repeated either
        beta = unary(reshape(mul_mat(b.need("ssm_beta"), x), 1, n_v, n, n_seqs))
        alpha = reshape(mul_mat(b.need("ssm_alpha"), x), n_v, n, n_seqs)
        gate = binary(unary(binary(alpha, b.need("ssm_dt", ".bias"))), b.need("ssm_a", ""))
        return gated_delta_net(b, mixed, z, gate, beta, repeated=False)
    both = mul_mat(b.need("ssm_ba"), x)
    both = reshape(both, 2 * n_v // n_k, n_k, n, n_seqs)
    beta, alpha = (view(both, n_v // n_k, n_k, n, n_seqs, stride=both.ne[0]) for _ in range(2))
    beta = unary(cont(beta))
    gate = unary(binary(cont(alpha, n_v, n, n_seqs), b.need("ssm_dt", ".bias")))
    return gated_delta_net(b, mixed, z, binary(gate, b.need("ssm_a", "")), beta)


def _projections(b: Builder, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return query, key and value side by side, and the gate; older files have one matrix for all (build_qkvz)."""
    n_seqs = b.batch.n_seqs
    if b.has("attn_qkv"):
        mixed = mul_mat(b.need("attn_qkv"), x)
        return reshape(mixed, mixed.ne[0], n, n_seqs), mul_mat(b.need("attn_gate"), x)
    head_k, n_k = b.model.uint("ssm.state_size"), b.model.uint("ssm.group_count")
    each_v = b.model.uint("ssm.inner_size") // n_k
    row = 2 * head_k + 2 * each_v
    all_four = reshape(mul_mat(b.need("ssm_in"), x), row, n_k, n, n_seqs)
    q, k, v, z = (view(all_four, width, n_k, n, n_seqs, stride=row) for width in (head_k, head_k, each_v, each_v))
    z = cont(z)
    q, k, v = (cont(part, part.ne[0] * n_k, n, n_seqs) for part in (q, k, v))
    return concat(concat(q, k), v), z


def _gated_mixture(b: Builder, x: Tensor) -> Tensor:
    if not b.has("ffn_gate_inp"):
        return feed_forward(b, x)
    out = experts(b, x)
    if not b.has("ffn_up_shexp"):
        return out
    gate = unary(mul_mat(b.need("ffn_gate_inp_shexp"), x))
    return binary(out, binary(feed_forward(b, x, "_shexp"), gate))


ARCHITECTURES: Mapping[str, Callable[[Builder], None]] = MappingProxyType(
    {
        "llama": architectures.llama,
        "qwen2": architectures.llama,
        "qwen3": architectures.llama,
        "qwen3moe": architectures.llama,
        "mistral3": architectures.llama,
        "olmoe": architectures.olmoe,
        "gemma2": architectures.gemma,
        "gemma3": architectures.gemma,
        "gemma3n": gemmas.gemma3n,
        "gemma4": gemmas.gemma4,
        "phi2": architectures.phi2,
        "phi3": architectures.phi3,
        "gpt-oss": architectures.gpt_oss,
        "command-r": architectures.cohere,
        "cohere2": architectures.cohere,
        "glm4moe": architectures.glm4moe,
        "deepseek2": architectures.deepseek2,
        "granite": architectures.granite,
        "granitemoe": architectures.granite,
        "mamba": mamba_only,
        "mamba2": mamba_only,
        "falcon-h1": falcon_h1,
        "granitehybrid": granite_hybrid,
        "lfm2": lfm2,
        "lfm2moe": lfm2,
        "qwen3next": qwen3next,
        "qwen35": qwen3next,
        "qwen35moe": qwen3next,
    }
)
