"""Attention over a cache, in the order llama.cpp builds it.

Source: llama.cpp 0c1e57098, src/llama-graph.cpp (build_qkv, build_attn, build_attn_mha) and src/llama-kv-cache.cpp.
"""

from __future__ import annotations

from llmrun.memory.attention import CacheShape
from llmrun.memory.cache import row_size
from llmrun.memory.graph.builder import Builder
from llmrun.memory.graph.shape import CELLS, WINDOW_CELLS
from llmrun.memory.graph.tensor import (
    F16,
    F32,
    I64,
    Op,
    Tensor,
    binary,
    cont,
    mul_mat,
    permute,
    plain,
    reshape,
    store,
    transpose,
    unary,
    view,
)

_ROTATION = 64  # llama-kv-cache.cpp: quantized heads are rotated by Hadamard matrices of this size at least


def qkv(b: Builder, x: Tensor, head_k: int = 0, head_v: int = 0, head_q: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value by heads (build_qkv with reshape)."""
    head_k, head_v = head_k or b.model.head_k, head_v or b.model.head_v
    widths = ((head_q or head_k, b.kind.n_head), (head_k, b.kind.n_head_kv), (head_v, b.kind.n_head_kv))
    if b.has("attn_qkv"):
        fused = b.linear(x, "attn_qkv")
        row = fused.ne[0]
        span = [(b.n_tokens - 1) * row + head * n for head, n in widths]
        q, k, v = (
            view(fused, head, n, b.n_tokens, size=F32 * size) for (head, n), size in zip(widths, span, strict=True)
        )
        return q, k, v
    q, k, v = (
        reshape(b.linear(x, name), head, n, b.n_tokens)
        for name, (head, n) in zip(("attn_q", "attn_k", "attn_v"), widths, strict=True)
    )
    return q, k, v


def attend(b: Builder, q: Tensor, k: Tensor | None, v: Tensor | None, output: str = "attn_output") -> Tensor:
    """Return attention with its output matrix; "" is none. k and v None: an earlier layer's cache is read."""
    cache = b.kind.cache
    assert cache is not None
    rotate_k, rotate_v = _rotations(b, cache)
    if rotate_k is not None:
        q = _rotated(q, rotate_k)
        k = k and _rotated(k, rotate_k)
    if rotate_v is not None:
        v = v and _rotated(v, rotate_v)
    for tensor in (q, k, v) if b.model.n_swa else (q, v, k):
        if tensor is not None:
            b.expand(tensor)
    keys, values = _stored(b, cache, k, v)
    cur = _attention(b, q, keys, values, cache)
    if rotate_v is not None:
        cur = _rotated(cur, rotate_v)
    return b.linear(cur, output) if output else cur


def attend_latent(b: Builder, q: Tensor, k: Tensor, v: Tensor, up: Tensor) -> Tensor:
    """Return attention whose cache is a latent that is key and value at once (build_attn with a K cache only)."""
    cache = b.kind.cache
    assert cache is not None
    for tensor in (q, v, k):
        b.expand(tensor)
    keys, _ = _stored(b, cache, k, None)
    gap = row_size(b.batch.type_k, cache.k_width) - row_size(b.batch.type_k, v.ne[0])  # behind the last value
    values = view(keys, v.ne[0], *keys.ne[1:], size=keys.size - gap)
    return b.linear(_attention(b, q, keys, values, cache, up), "attn_output")


def _stored(b: Builder, cache: CacheShape, k: Tensor | None, v: Tensor | None) -> tuple[Tensor, Tensor]:
    """Write to the cache; return all keys and all values in it."""
    batch, heads = b.batch, b.kind.n_head_kv
    cells = WINDOW_CELLS if cache.windowed else CELLS
    suffix = "_swa" if cache.windowed else ""
    backend = b.cache if batch.offload_kqv else b.host
    width_v = b.model.v_width_max if batch.v_transposed else cache.v_width  # transposed, all are as wide as the widest
    k_size = row_size(batch.type_k, cache.k_width) * cells * batch.n_stream
    v_size = row_size(batch.type_v, width_v) * cells * batch.n_stream
    k_cache = b.memory((cache.k_width, cells, batch.n_stream, 1), backend, weight=False, kind=F16, size=k_size)
    v_cache = b.memory((width_v, cells, batch.n_stream, 1), backend, weight=False, kind=F16, size=v_size)
    if k is not None:
        ids = b.input("k_idxs" + suffix, b.n_tokens, kind=I64)
        b.expand(store(_rows(k), k_cache, ids))
    if v is not None:
        _store_v(b, v, v_cache, suffix)
    keys = view(k_cache, cache.k_width // heads, heads, cells, batch.n_stream, size=k_size)
    if not batch.v_transposed:
        return keys, view(v_cache, cache.v_width // heads, heads, cells, batch.n_stream, size=v_size)
    v_size -= row_size(batch.type_v, width_v - cache.v_width) * cells
    return keys, view(v_cache, cells, heads, cache.v_width // heads, batch.n_stream, size=v_size)


def _store_v(b: Builder, v: Tensor, v_cache: Tensor, suffix: str) -> None:
    """Where V is transposed each of its elements goes to a row of its own."""
    if not b.batch.v_transposed:
        b.expand(store(_rows(v), v_cache, b.input("v_idxs" + suffix, b.n_tokens, kind=I64)))
        return
    width, widest = v.ne[0] * v.ne[1], b.model.v_width_max
    v = cont(v, width, b.n_tokens) if v.strided else reshape(v, width, b.n_tokens)
    if width < widest:
        v = plain((widest, b.n_tokens, 1, 1), v)
    v = reshape(v, 1, widest * b.n_tokens)
    b.expand(store(v, v_cache, b.input("v_idxs" + suffix, b.n_tokens * widest, kind=I64)))


def _rows(x: Tensor) -> Tensor:
    """Heads side by side, as cpy_k shows them; a view with the span of `x`."""
    result = view(x, x.ne[0] * x.ne[1], x.ne[2], size=x.size)
    result.strided = x.strided
    return result


def _attention(b: Builder, q: Tensor, k: Tensor, v: Tensor, cache: CacheShape, up: Tensor | None = None) -> Tensor:
    """build_attn_mha; `up` brings a latent back to the heads' width."""
    batch = b.batch
    streams = batch.n_stream
    q = view(q, q.ne[0], q.ne[1], q.ne[2] // streams, streams, size=q.size)
    q, k, v = (permute(tensor, 0, 2, 1, 3) for tensor in (q, k, v))
    cells, suffix = (WINDOW_CELLS, "_swa") if cache.windowed else (CELLS, "")
    kind = F16 if batch.flash_attn else F32
    mask = b.input("mask" + suffix, cells, b.n_tokens // streams, 1, streams, kind=kind)
    sinks = b.weight("attn_sinks")
    extra = (mask,) if sinks is None else (mask, sinks)
    cur = (_fused if batch.flash_attn else _by_products)(b, q, k, v, extra, up)
    b.expand(cur)
    return cur


def _fused(b: Builder, q: Tensor, k: Tensor, v: Tensor, extra: tuple[Tensor, ...], up: Tensor | None) -> Tensor:
    cur = Tensor(Op.ATTENTION, F32, (v.ne[0], q.ne[2], q.ne[1], q.ne[3]), (q, k, v, *extra))
    b.attentions.append((cur, b.backend))
    if up is not None:
        cur = mul_mat(up, permute(cur, 0, 2, 1, 3))
        cur = cont(permute(cur, 0, 2, 1, 3))
    return reshape(cur, cur.ne[0] * cur.ne[1], cur.ne[2] * cur.ne[3])


def _by_products(b: Builder, q: Tensor, k: Tensor, v: Tensor, extra: tuple[Tensor, ...], up: Tensor | None) -> Tensor:
    kq = mul_mat(k, q)
    if b.model.numbers.get("attn_logit_softcapping"):
        kq = unary(unary(unary(kq)))
    kq = binary(kq, *extra)
    if up is not None or not b.batch.v_transposed:  # a latent never is
        v = cont(transpose(v))
    kqv = mul_mat(v, kq)
    if up is not None:
        kqv = mul_mat(up, kqv)
    cur = permute(kqv, 0, 2, 1, 3)
    cur = cont(cur, cur.ne[0] * cur.ne[1], cur.ne[2] * cur.ne[3])
    if b.batch.pin_attention:
        cur.backend = b.host
    return cur


def _rotations(b: Builder, cache: CacheShape) -> tuple[Tensor | None, Tensor | None]:
    """The matrices by which quantized keys and values are rotated (build_input_k_rot, build_input_v_rot)."""
    batch, suffix = b.batch, "_swa" if cache.windowed else ""
    head_k, head_v = cache.k_width // b.kind.n_head_kv, cache.v_width // b.kind.n_head_kv
    k = v = None
    if _is_quantized(batch.type_k) and head_k % _ROTATION == 0:
        size = head_k & -head_k  # the largest power of two that divides it
        k = b.input("k_rot" + suffix, size, size, kind=F32)
    if _is_quantized(batch.type_v) and head_v % _ROTATION == 0:
        v = b.input("v_rot" + suffix, _ROTATION, _ROTATION, kind=F32)
    return k, v


def _is_quantized(type_name: str) -> bool:
    return type_name not in ("f16", "f32", "bf16")


def _rotated(x: Tensor, matrix: Tensor) -> Tensor:
    """llama_mul_mat_hadamard."""
    n = matrix.ne[0]
    columns = x.ne[0] * x.ne[1] * x.ne[2] * x.ne[3] // n
    flat = cont(x, n, columns) if x.strided else reshape(x, n, columns)
    return reshape(mul_mat(matrix, flat), *x.ne)
