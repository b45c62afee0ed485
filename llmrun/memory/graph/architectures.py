"""The graphs of the architectures that attend in every layer; `hybrids` has the others.

Source: llama.cpp 0c1e57098, src/models/: each function is the `graph` of one or more files there.
"""

from __future__ import annotations

from collections.abc import Callable

from llmrun.memory.graph.attention import attend, attend_latent, qkv
from llmrun.memory.graph.builder import Builder
from llmrun.memory.graph.feed_forward import experts, feed_forward
from llmrun.memory.graph.tensor import Tensor, binary, concat, cont, mul_mat, permute, plain, reshape, unary, view

Layer = Callable[[Builder, Tensor], Tensor]


def self_attention(b: Builder, x: Tensor, *, scaled: bool = False, roped: bool = True) -> Tensor:
    """Return attention as most have it: heads normalized where there are weights for it, rotated, q scaled."""
    q, k, v = qkv(b, x)
    if b.has("attn_q_norm"):
        q, k = b.norm(q, "attn_q_norm"), b.norm(k, "attn_k_norm")
    if roped:
        q, k = b.rope(q), b.rope(k)
    return attend(b, unary(q) if scaled else q, k, v)


def mixture(b: Builder, x: Tensor, *, normalized: bool = True) -> Tensor:
    """Return a dense network's result, or that of experts, with a shared one's where there is one."""
    if not b.has("ffn_gate_inp"):
        return feed_forward(b, x)
    out = experts(b, x, normalized=normalized)
    return binary(out, feed_forward(b, x, "_shexp")) if b.has("ffn_up_shexp") else out


def _decoder(b: Builder, layer: Layer) -> None:
    b.logits(b.output_norm(b.layers(layer, b.embeddings())))


def llama(b: Builder) -> None:
    """Also qwen2, qwen3 and qwen3moe, which differ only in the tensors they have."""

    def layer(b: Builder, x: Tensor) -> Tensor:
        cur, x = b.select(self_attention(b, b.norm(x, "attn_norm")), x)
        residual = binary(cur, x)
        return binary(mixture(b, b.norm(residual, "ffn_norm")), residual)

    _decoder(b, layer)


def olmoe(b: Builder) -> None:
    """Norms of query and key over all heads at once; experts' weights as they are."""

    def layer(b: Builder, x: Tensor) -> Tensor:
        normed = b.norm(x, "attn_norm")
        q, k, v = b.linear(normed, "attn_q"), b.linear(normed, "attn_k"), b.linear(normed, "attn_v")
        q, k = b.norm(q, "attn_q_norm"), b.norm(k, "attn_k_norm")
        head, n_kv = b.model.head_k, b.kind.n_head_kv
        q, k = reshape(q, head, b.kind.n_head, b.n_tokens), reshape(k, head, n_kv, b.n_tokens)
        cur = attend(b, b.rope(q), b.rope(k), reshape(v, head, n_kv, b.n_tokens))
        cur, x = b.select(cur, x)
        residual = binary(cur, x)
        return binary(mixture(b, b.norm(residual, "ffn_norm"), normalized=False), residual)

    _decoder(b, layer)


def gemma(b: Builder) -> None:
    """gemma2 and gemma3: windows, norms on both sides."""

    def layer(b: Builder, x: Tensor) -> Tensor:
        cur, x = b.select(self_attention(b, b.norm(x, "attn_norm"), scaled=True), x)
        residual = binary(b.norm(cur, "post_attention_norm"), x)
        cur = feed_forward(b, b.norm(residual, "ffn_norm"))
        return binary(b.norm(cur, "post_ffw_norm", pinned=False), residual)

    x = b.output_norm(b.layers(layer, unary(b.embeddings())))
    capped = b.model.numbers.get("final_logit_softcapping") or b.model.architecture == "gemma2"
    b.logits(x, *([unary] * 3 if capped else []))


def phi3(b: Builder) -> None:
    """One matrix for query, key and value, one for both halves of the feed-forward network."""

    def layer(b: Builder, x: Tensor) -> Tensor:
        cur, x = b.select(self_attention(b, b.norm(x, "attn_norm"), scaled=True), x)
        residual = binary(cur, x)
        cur = b.norm(residual, "ffn_norm")
        cur = experts(b, cur) if b.has("ffn_gate_inp") else feed_forward(b, cur, fused=True)
        return binary(residual, cur)

    _decoder(b, layer)


def phi2(b: Builder) -> None:
    """Attention and feed-forward network side by side."""

    def layer(b: Builder, x: Tensor) -> Tensor:
        normed = b.norm(x, "attn_norm", rms=False)
        cur, x, normed = b.select(self_attention(b, normed, scaled=True), x, normed)
        return binary(binary(cur, feed_forward(b, normed)), x)

    b.logits(b.output_norm(b.layers(layer, b.embeddings()), rms=False))


def gpt_oss(b: Builder) -> None:
    """Sinks, experts with biases; the last layer's result is kept for all tokens."""

    def layer(b: Builder, x: Tensor) -> Tensor:
        residual = binary(self_attention(b, b.norm(x, "attn_norm")), x)
        cur = experts(b, b.norm(residual, "post_attention_norm"), normalized=False, softmax_of_chosen=True)
        return binary(cur, residual)

    x = b.layers(layer, b.embeddings())
    x.output = True
    b.logits(b.output_norm(b.rows(x)))


def cohere(b: Builder) -> None:
    """command-r and cohere2: attention and feed-forward network side by side; cohere2 rotates only in windows."""

    def layer(b: Builder, x: Tensor) -> Tensor:
        assert b.kind.cache is not None
        normed = b.norm(x, "attn_norm", rms=False)
        q, k, v = qkv(b, normed)
        if b.has("attn_q_norm"):
            q, k = b.norm(q, "attn_q_norm", rms=False), b.norm(k, "attn_k_norm", rms=False)
        if b.model.architecture != "cohere2" or b.kind.cache.windowed:
            q, k = b.rope(q), b.rope(k)
        attended, x, normed = b.select(attend(b, q, k, v), x, normed)
        return binary(binary(feed_forward(b, normed), x), attended)

    x = b.output_norm(b.layers(layer, b.embeddings()), rms=False)
    b.logits(x, *([unary] if b.model.numbers.get("logit_scale") else []))


def glm4moe(b: Builder) -> None:
    """Dense layers, then experts with a shared one."""

    def layer(b: Builder, x: Tensor) -> Tensor:
        cur, x = b.select(self_attention(b, b.norm(x, "attn_norm")), x)
        residual = binary(cur, x)
        cur = b.norm(residual, "post_attention_norm")
        return binary(mixture(b, cur, normalized=bool(b.model.numbers.get("expert_weights_norm"))), residual)

    _decoder(b, layer)


def deepseek2(b: Builder) -> None:
    """Attention over a latent, or over what it is expanded to (files without *_mla keys)."""

    def layer(b: Builder, x: Tensor) -> Tensor:
        cur, x = b.select(_latent_attention(b, b.norm(x, "attn_norm")), x)
        residual = binary(cur, x)
        cur = b.norm(residual, "ffn_norm")
        return binary(mixture(b, cur, normalized=bool(b.model.numbers.get("expert_weights_norm"))), residual)

    _decoder(b, layer)


def _latent_attention(b: Builder, x: Tensor) -> Tensor:
    n, n_head, n_rot = b.n_tokens, b.kind.n_head, b.model.uint("rope.dimension_count")
    rank = b.model.uint("attention.kv_lora_rank")
    if b.has("attn_q"):
        q = mul_mat(b.need("attn_q"), x)
    else:
        q = mul_mat(b.need("attn_q_b"), b.norm(mul_mat(b.need("attn_q_a"), x), "attn_q_a_norm"))
    head = q.ne[0] // n_head
    q = reshape(q, head, n_head, n)
    compressed = mul_mat(b.need("attn_kv_a_mqa"), x)
    latent = b.norm(view(compressed, rank, n, stride=rank + n_rot), "attn_kv_a_norm")
    k_rotated = b.rope(view(compressed, n_rot, 1, n, stride=rank + n_rot))
    if b.has("attn_kv_b"):
        return _expanded(b, q, latent, k_rotated)
    q_nope = permute(view(q, head - n_rot, n_head, n, stride=head), 0, 2, 1, 3)
    q_rotated = b.rope(view(q, n_rot, n_head, n, stride=head))
    absorbed = permute(mul_mat(b.need("attn_k_b"), q_nope), 0, 2, 1, 3)
    latent = reshape(latent, rank, 1, n)
    return attend_latent(b, concat(absorbed, q_rotated), concat(latent, k_rotated), latent, b.need("attn_v_b"))


def _expanded(b: Builder, q: Tensor, latent: Tensor, k_rotated: Tensor) -> Tensor:
    n, n_head, n_rot = b.n_tokens, b.kind.n_head, k_rotated.ne[0]
    kv = mul_mat(b.need("attn_kv_b"), latent)
    row, nope = kv.ne[0] // n_head, q.ne[0] - n_rot
    v = cont(view(kv, row - nope, n_head, n, stride=row))
    k = concat(view(kv, nope, n_head, n, stride=row), plain((n_rot, n_head, n, 1), k_rotated))
    return attend(b, b.rope(q), k, v)


def granite(b: Builder) -> None:
    """Scaled residuals and logits."""

    def layer(b: Builder, x: Tensor) -> Tensor:
        roped = bool(b.model.numbers.get("rope.scaling.finetuned", True))
        return granite_tail(b, self_attention(b, b.norm(x, "attn_norm"), roped=roped), x)

    b.logits(b.output_norm(b.layers(layer, b.embeddings())), unary)


def granite_tail(b: Builder, cur: Tensor, x: Tensor) -> Tensor:
    """Return a layer's result from its first half's; `x` is the layer's input."""
    scale = unary if b.model.numbers.get("residual_scale") else lambda tensor: tensor
    cur, x = b.select(cur, x)
    residual = binary(scale(cur), x)
    return binary(scale(mixture(b, b.norm(residual, "ffn_norm"))), residual)
