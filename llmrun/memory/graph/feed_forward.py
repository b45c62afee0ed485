"""Feed-forward networks, dense and with experts, in the order llama.cpp builds them.

Source: llama.cpp 0c1e57098, src/llama-graph.cpp (build_ffn, build_moe_ffn).
"""

from __future__ import annotations

from llmrun.memory.graph.builder import Builder
from llmrun.memory.graph.tensor import (
    Tensor,
    binary,
    cont,
    get_rows,
    glu,
    mul_mat_id,
    reshape,
    store,
    sum_rows,
    top_k,
    unary,
    view,
)


def feed_forward(b: Builder, x: Tensor, suffix: str = "", *, fused: bool = False) -> Tensor:
    """Return a dense network's result; without a gate matrix it has none, or it is `fused` with the other half."""
    cur = b.linear(x, "ffn_up" + suffix)
    if fused:
        cur = glu(cur)
    elif b.has("ffn_gate" + suffix):
        cur = glu(b.linear(x, "ffn_gate" + suffix), cur)
    else:
        cur = unary(cur)
    return b.linear(cur, "ffn_down" + suffix)


def experts(
    b: Builder,
    x: Tensor,
    *,
    normalized: bool = True,
    softmax_of_chosen: bool = False,
) -> Tensor:
    """Return the chosen experts' weighted sum.

    normalized: weights are made to sum to 1. softmax_of_chosen: they are a softmax over the chosen ones alone.
    """
    n_used = b.model.uint("expert_used_count")
    probs = b.linear(x, "ffn_gate_inp")
    n_expert = probs.ne[0]
    if not softmax_of_chosen:
        probs = unary(probs)  # a softmax or a sigmoid
    bias = b.weight("exp_probs_b", ".bias")
    selection = probs if bias is None else binary(probs, bias)
    if b.model.uint("expert_group_count", 1) > 1:
        selection = _of_best_groups(b, selection, n_expert)
    chosen = top_k(selection, n_used)
    weights = _weights(b, probs, chosen, normalized, softmax_of_chosen)
    b.expand(weights)
    out = _networks(b, reshape(x, x.ne[0], 1, x.ne[1]), chosen)
    out = binary(out, weights)
    b.expand(out)
    return _sum(b, out, n_used)


def _weights(b: Builder, probs: Tensor, chosen: Tensor, normalized: bool, softmax_of_chosen: bool) -> Tensor:
    n_used, n_tokens = chosen.ne[0], chosen.ne[1]
    weights = get_rows(reshape(probs, 1, probs.ne[0], n_tokens), chosen)
    if softmax_of_chosen:
        weights = reshape(unary(reshape(weights, n_used, n_tokens)), 1, n_used, n_tokens)
    if normalized:
        flat = reshape(weights, n_used, n_tokens)
        weights = reshape(binary(flat, unary(sum_rows(flat))), 1, n_used, n_tokens)
    scale = b.model.numbers.get("expert_weights_scale", 0.0)
    return unary(weights) if scale not in (0.0, 1.0) else weights


def _networks(b: Builder, x: Tensor, chosen: Tensor) -> Tensor:
    if b.has("ffn_gate_up_exps"):
        both = _by_expert(b, x, chosen, "ffn_gate_up_exps")
        width = both.ne[0] // 2
        gate = view(both, width, *both.ne[1:], stride=both.ne[0])
        up = view(both, width, *both.ne[1:], stride=both.ne[0])
    else:
        up = _by_expert(b, x, chosen, "ffn_up_exps")
        gate = _by_expert(b, x, chosen, "ffn_gate_exps")
    return _by_expert(b, glu(gate, up), chosen, "ffn_down_exps")


def _by_expert(b: Builder, x: Tensor, chosen: Tensor, name: str) -> Tensor:
    x = mul_mat_id(b.need(name), x, chosen)
    bias = b.weight(name, ".bias")
    return x if bias is None else binary(x, bias, chosen)


def _sum(b: Builder, out: Tensor, n_used: int) -> Tensor:
    """All views come before the sums."""
    width, n_tokens = out.ne[0], out.ne[2]
    parts = [view(out, width, n_tokens, stride=width * n_used) for _ in range(n_used)]
    for part in parts:
        b.expand(part)
    total = parts[0]
    for part in parts[1:]:
        total = binary(total, part)
        b.expand(total)
    return cont(total) if n_used == 1 else total


def _of_best_groups(b: Builder, selection: Tensor, n_expert: int) -> Tensor:
    """Probabilities with those of all but the best groups of experts masked."""
    n_groups, n_used = b.model.uint("expert_group_count"), b.model.uint("expert_group_used_count")
    if n_expert % n_groups or n_used > n_groups:
        raise ValueError(f"{n_expert} experts make no {n_groups} groups of which {n_used} are used")
    n_each, n_tokens = n_expert // n_groups, selection.ne[1]
    groups = reshape(selection, n_each, n_groups, n_tokens)
    scores = get_rows(reshape(groups, 1, n_each, n_groups, n_tokens), top_k(groups, 2))
    scores = sum_rows(reshape(scores, 2, n_groups, n_tokens))
    best = top_k(reshape(scores, n_groups, n_tokens), n_used)
    kept = get_rows(groups, best)
    masked = store(kept, unary(groups), best)
    return reshape(masked, n_expert, n_tokens)
