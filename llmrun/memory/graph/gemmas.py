"""The graphs of gemma3n and gemma4: an embedding of its own for every layer, and layers that read another's cache.

Source: llama.cpp 0c1e57098, src/models/gemma3n.cpp and gemma4.cpp. gemma4's layers with experts are not known here.
"""

from __future__ import annotations

from llmrun.memory.graph.attention import attend
from llmrun.memory.graph.builder import Builder
from llmrun.memory.graph.feed_forward import feed_forward
from llmrun.memory.graph.tensor import (
    Tensor,
    binary,
    concat,
    cont,
    get_rows,
    mul_mat,
    permute,
    plain,
    reshape,
    rope,
    sum_rows,
    transpose,
    unary,
    view,
)

_STREAMS = 4  # llama-hparams.h, n_altup


def gemma4(b: Builder) -> None:
    """Heads are wider in layers without a window; the last norm's result is kept for all tokens."""
    x = unary(b.embeddings())
    per_layer = _per_layer_inputs(b, x) if "per_layer_token_embd.weight" in b.model.outer else None

    def layer(b: Builder, x: Tensor) -> Tensor:
        cur = b.norm(_attention(b, b.norm(x, "attn_norm")), "post_attention_norm")
        residual = binary(cur, x)
        cur = b.norm(feed_forward(b, b.norm(residual, "ffn_norm")), "post_ffw_norm", pinned=False)
        x = binary(cur, residual)
        if per_layer is not None:
            x = binary(x, _gated(b, x, _slice(per_layer)))
        return binary(x, b.need("layer_output_scale")) if b.has("layer_output_scale") else x

    x = b.rows(b.output_norm(b.layers(layer, x)))
    x.output = True
    b.logits(x, *([unary] * 3 if b.model.numbers.get("final_logit_softcapping") else []))


def gemma3n(b: Builder) -> None:
    """Several streams, of which one goes through the layers and corrects the others."""
    x = unary(b.embeddings())
    per_layer = _per_layer_inputs(b, x)

    def layer(b: Builder, x: Tensor) -> Tensor:
        predictions = _predicted(b, x)
        active = _slice(predictions)
        cur = b.norm(active, "attn_norm")
        laurel = binary(b.norm(b.linear(b.linear(cur, "laurel_l"), "laurel_r"), "laurel_post_norm"), cur)
        cur = binary(b.norm(_attention(b, cur), "post_attention_norm"), active)
        residual = unary(binary(cur, laurel))
        cur = b.norm(_sparse(b, b.norm(residual, "ffn_norm")), "post_ffw_norm", pinned=False)
        corrected = _corrected(b, predictions, binary(cur, residual))
        first = _gated(b, binary(_slice(corrected), b.need("altup_correct_scale")), _slice(per_layer))
        rest = view(corrected, b.model.n_embd, b.n_tokens, _STREAMS - 1)
        return concat(_slice(corrected), binary(rest, first), 2)

    x = b.rows(_merged(b, b.layers(layer, _spread(b, x))))
    b.logits(b.output_norm(x), unary, unary, unary)


def _slice(x: Tensor) -> Tensor:
    """One matrix of several."""
    return view(x, x.ne[0], x.ne[1])


def _per_layer_inputs(b: Builder, x: Tensor) -> Tensor:
    """What each layer gets of the tokens besides their embedding: [width, n_tokens, n_layer]."""
    table = b.outer("per_layer_token_embd.weight", b.host)
    project = b.outer("per_layer_model_proj.weight", b.first_backend)
    norm = b.outer("per_layer_proj_norm.weight", b.first_backend)
    assert table is not None and project is not None and norm is not None  # noqa: PT018
    width, n_layer = norm.ne[0], len(b.model.layers)
    chosen = unary(reshape(get_rows(table, b.input("tokens_again", b.n_tokens)), width, n_layer, b.n_tokens))
    b.expand(chosen)
    projected = reshape(unary(mul_mat(project, x)), width, n_layer, b.n_tokens)
    both = unary(binary(binary(unary(projected), norm), chosen))
    return cont(permute(both, 0, 2, 1, 3))


def _gated(b: Builder, x: Tensor, own: Tensor) -> Tensor:
    """What a layer's own input adds to its result."""
    gate = unary(b.linear(x, "inp_gate"))
    return b.norm(b.linear(binary(gate, own), "proj"), "post_norm")


def _attention(b: Builder, x: Tensor) -> Tensor:
    cache = b.kind.cache
    assert cache is not None
    n_kv, n = b.kind.n_head_kv, b.n_tokens
    head = cache.k_width // n_kv
    factors = b.rope_factors()
    if cache.windowed:
        factors = None
    q = b.norm(reshape(b.linear(x, "attn_q"), head, b.kind.n_head, n), "attn_q_norm")
    q = rope(q, b.positions(), factors)
    own = [b.weight(name) for name in ("attn_k", "attn_v", "attn_k_norm")]
    if b.kind.shares_cache:
        return attend(b, q, None, None)
    k = b.linear(x, "attn_k")
    v = k if own[1] is None else b.linear(x, "attn_v")
    k, v = (reshape(tensor, head, n_kv, n) for tensor in (k, v))
    return attend(b, q, rope(b.norm(k, "attn_k_norm"), b.positions(), factors), unary(v))


def _magnitude(x: Tensor) -> Tensor:
    return unary(sum_rows(unary(x)))


def _spread(b: Builder, x: Tensor) -> Tensor:
    """All streams from the embedding."""
    project = b.outer("altup_proj.weight")
    assert project is not None
    target = _magnitude(x)
    added = mul_mat(project, plain((b.model.n_embd, b.n_tokens, _STREAMS - 1, 1), x))
    magnitude = _magnitude(added)
    return concat(x, binary(binary(added, target), magnitude), 2)


def _merged(b: Builder, x: Tensor) -> Tensor:
    """One stream of all."""
    project = b.outer("altup_unembd_proj.weight")
    assert project is not None
    target = _magnitude(_slice(x))
    rest = mul_mat(project, view(x, b.model.n_embd, b.n_tokens, _STREAMS - 1))
    magnitude = _magnitude(rest)
    rest = binary(binary(rest, target), magnitude)
    total = _slice(x)
    for _ in range(_STREAMS - 1):
        total = binary(total, _slice(rest))
    return unary(total)


def _modalities(b: Builder, x: Tensor) -> Tensor:
    routed = unary(b.norm(x, "altup_router_norm"))
    return unary(mul_mat(b.need("altup_router"), routed))


def _predicted(b: Builder, x: Tensor) -> Tensor:
    factors = b.linear(_modalities(b, _slice(x)), "altup_predict_coef")
    factors = reshape(factors, _STREAMS, _STREAMS, b.n_tokens)
    predicted = mul_mat(cont(permute(x, 1, 2, 0, 3)), factors)
    return binary(cont(permute(predicted, 0, 2, 1, 3)), x)


def _corrected(b: Builder, predictions: Tensor, activated: Tensor) -> Tensor:
    modalities = _modalities(b, activated)
    innovation = binary(activated, _slice(predictions))
    factors = transpose(unary(b.linear(modalities, "altup_correct_coef")))
    factors = cont(factors, 1, b.n_tokens, _STREAMS)
    repeated = plain((b.model.n_embd, b.n_tokens, _STREAMS, 1), innovation)
    return binary(binary(repeated, factors), predictions)


def _sparse(b: Builder, x: Tensor) -> Tensor:
    """A feed-forward network whose gate lets only a part through in the first layers."""
    up, gate = b.linear(x, "ffn_up"), b.linear(x, "ffn_gate")
    if b.kind.is_sparse:
        mean = plain((1, *gate.ne[1:]), gate)
        deviation = unary(unary(sum_rows(unary(binary(gate, mean)))))
        cutoff = binary(mean, unary(deviation))
        gate = unary(binary(gate, cutoff))
    return b.linear(binary(up, unary(gate)), "ffn_down")
