"""Layers that keep a state instead of a cache: Mamba 1 and 2, short convolutions, gated delta nets.

Source: llama.cpp 0c1e57098, src/llama-graph.cpp (build_rs), src/models/mamba-base.cpp, delta-net-base.cpp, lfm2.cpp.
All take [n_embd, n_tokens] and return it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from llmrun.memory.graph.builder import Builder
from llmrun.memory.graph.tensor import (
    F32,
    I32,
    Op,
    Tensor,
    binary,
    concat,
    cont,
    get_rows,
    glu,
    mul_mat,
    plain,
    reshape,
    store,
    transpose,
    unary,
    view,
)


class _Memory:
    """Where the layer at hand keeps `width` numbers for each sequence (build_rs)."""

    def __init__(self, b: Builder, width: int) -> None:
        self._b = b
        backend = b.backend if b.batch.offload_kqv else b.host
        size = F32 * width * b.batch.n_seqs
        self._tensor = b.memory((width, b.batch.n_seqs, 1, 1), backend, weight=False, size=size)

    def read(self, rows: Callable[[Tensor, Tensor], Tensor] = get_rows) -> Tensor:
        """Return the batch's sequences' states, or what `rows` makes of them."""
        b, width = self._b, self._tensor.ne[0]
        ids = b.input("s_copy", b.batch.n_seqs, kind=I32)
        chosen = b.shared("s_copy_main", lambda: view(ids, b.batch.n_seqs))
        rest = b.shared("s_copy_extra", lambda: view(ids, 0))
        flat = reshape(self._tensor, *self._tensor.ne)
        b.expand(Tensor(Op.IN_PLACE, F32, (width, 1, 1, 1), (view(flat, width),), self._tensor))
        found = rows(flat, chosen)
        b.expand(found)
        b.expand(store(get_rows(flat, rest), view(self._tensor, width, 0)))
        return found

    def write(self, x: Tensor) -> None:
        """Replace the states."""
        self._b.expand(store(x, view(self._tensor, *self._tensor.ne)))


def _per_sequence(b: Builder) -> int:
    return b.n_tokens // b.batch.n_seqs


class _Convolution:
    """A causal convolution over [width, tokens, sequences], which begins with the last columns of the batch before."""

    def __init__(self, b: Builder, name: str, width: int) -> None:
        self._b, self._name, self._width = b, name, width
        self._kept = b.need(name).ne[0] - 1
        self._memory = _Memory(b, self._kept * width)
        self._before: Tensor | None = None

    def read(self) -> None:
        """Read the columns, where llama.cpp does so before it makes what comes after them."""
        self._before = reshape(self._memory.read(), self._kept, self._width, self._b.batch.n_seqs)

    def apply(self, x: Tensor) -> Tensor:
        """Return the convolution of `x`, which is transposed."""
        b, width, n_seqs = self._b, self._width, self._b.batch.n_seqs
        if self._before is None:
            self.read()
        assert self._before is not None
        joined = concat(self._before, x)
        self._memory.write(view(joined, self._kept, width, n_seqs, stride=joined.ne[0]))
        return plain((width, _per_sequence(b), n_seqs, 1), joined, b.need(self._name))


def mamba(b: Builder, x: Tensor) -> Tensor:
    """Mamba 1 (build_mamba_layer)."""
    d_inner, d_state = b.model.uint("ssm.inner_size"), b.model.uint("ssm.state_size")
    dt_rank, n_seqs, n = b.model.uint("ssm.time_step_rank"), b.batch.n_seqs, _per_sequence(b)
    convolution = _Convolution(b, "ssm_conv1d", d_inner)
    convolution.read()
    xz = mul_mat(b.need("ssm_in"), reshape(x, x.ne[0], n, n_seqs))
    x, z = (view(xz, d_inner, n, n_seqs, stride=xz.ne[0]) for _ in range(2))
    x = unary(binary(convolution.apply(transpose(x)), b.need("ssm_conv1d", ".bias")))
    x_db = mul_mat(b.need("ssm_x"), x)
    dt = view(x_db, dt_rank, n, n_seqs, stride=x_db.ne[0])
    b_in, c_out = (view(x_db, d_state, 1, n, n_seqs, stride=x_db.ne[0]) for _ in range(2))
    if b.model.numbers.get("ssm.dt_b_c_rms") or b.has("ssm_dt_norm"):
        dt, b_in, c_out = b.norm(dt, "ssm_dt_norm"), b.norm(b_in, "ssm_b_norm"), b.norm(c_out, "ssm_c_norm")
    else:
        dt = cont(dt)
    dt = b.linear(dt, "ssm_dt")
    y = _scan(b, reshape(x, 1, d_inner, n, n_seqs), dt, b_in, c_out)
    y = binary(view(y, d_inner, n, n_seqs), binary(x, b.need("ssm_d", "")))
    y = glu(cont(z), y)
    return reshape(mul_mat(b.need("ssm_out"), y), b.model.n_embd, b.n_tokens)


def mamba2(b: Builder, x: Tensor) -> Tensor:
    """Mamba 2 (build_mamba2_layer)."""
    d_inner, d_state = b.model.uint("ssm.inner_size"), b.model.uint("ssm.state_size")
    n_head, n_group = b.model.uint("ssm.time_step_rank"), b.model.uint("ssm.group_count")
    n_seqs, n, head = b.batch.n_seqs, _per_sequence(b), d_inner // n_head
    width = d_inner + 2 * n_group * d_state
    convolution = _Convolution(b, "ssm_conv1d", width)
    convolution.read()
    projected = mul_mat(b.need("ssm_in"), x)
    projected = reshape(projected, projected.ne[0], n, n_seqs)
    z = view(projected, head, n_head, n, n_seqs, stride=projected.ne[0], packed=2)
    xbc = view(projected, width, n, n_seqs, stride=projected.ne[0])
    dt = view(projected, n_head, n, n_seqs, stride=projected.ne[0])
    xbc = unary(binary(convolution.apply(transpose(xbc)), b.need("ssm_conv1d", ".bias")))
    x = view(xbc, head, n_head, n, n_seqs, stride=width, packed=2)
    b_in, c_out = (view(xbc, d_state, n_group, n, n_seqs, stride=width, packed=2) for _ in range(2))
    dt = binary(cont(dt), b.need("ssm_dt", ".bias"))
    y = _scan(b, x, dt, b_in, c_out)
    y = binary(view(y, head, n_head, n, n_seqs), binary(x, b.need("ssm_d", "")))
    y = glu(cont(z), y)
    if b.has("ssm_norm"):
        y = b.norm(reshape(y, d_inner // n_group, n_group, n, n_seqs), "ssm_norm")
    return mul_mat(b.need("ssm_out"), reshape(y, d_inner, b.n_tokens))


def _scan(b: Builder, x: Tensor, dt: Tensor, b_in: Tensor, c_out: Tensor) -> Tensor:
    """Return outputs and, behind them, the last states, which are written back (ggml_ssm_scan)."""
    width = b.model.uint("ssm.state_size") * b.model.uint("ssm.inner_size")
    memory = _Memory(b, width)
    decay = b.need("ssm_a", "")

    def scan(states: Tensor, ids: Tensor) -> Tensor:
        states = reshape(states, *states.ne)
        n = prod(x.ne) + width * ids.ne[0]
        return plain((n, 1, 1, 1), states, x, dt, decay, b_in, c_out, ids)

    y = memory.read(scan)
    memory.write(view(y, width, b.batch.n_seqs))
    return y


def short_convolution(b: Builder, x: Tensor) -> Tensor:
    """A gated convolution over a few tokens (lfm2.cpp)."""
    n_seqs, n = b.batch.n_seqs, _per_sequence(b)
    bcx = mul_mat(b.need("shortconv.in_proj"), reshape(x, x.ne[0], n, n_seqs))
    width = bcx.ne[0] // 3
    gate_in, gate_out, x = (view(bcx, width, n, n_seqs, stride=bcx.ne[0]) for _ in range(3))
    gated = transpose(binary(gate_in, x))
    y = binary(gate_out, _Convolution(b, "shortconv.conv", width).apply(gated))
    return reshape(mul_mat(b.need("shortconv.out_proj"), y), b.model.n_embd, b.n_tokens)


def gated_delta_net(b: Builder, qkv: Tensor, z: Tensor, gate: Tensor, beta: Tensor, *, repeated: bool = True) -> Tensor:
    """A gated delta net (build_layer_attn_linear from the convolution on); gate and beta are [heads, n, n_seqs].

    repeated: heads of query and key are repeated where those of value are more.
    """
    head_k, n_k = b.model.uint("ssm.state_size"), b.model.uint("ssm.group_count")
    n_v, d_inner = b.model.uint("ssm.time_step_rank"), b.model.uint("ssm.inner_size")
    head_v, n_seqs, n = d_inner // n_v, b.batch.n_seqs, _per_sequence(b)
    width = d_inner + 2 * n_k * head_k
    beta, gate = reshape(beta, 1, n_v, n, n_seqs), reshape(gate, 1, n_v, n, n_seqs)
    convolution = _Convolution(b, "ssm_conv1d", width)
    convolution.read()
    mixed_t = transpose(qkv)
    convolved = convolution.apply(mixed_t)
    memory = _Memory(b, head_v * head_v * n_v)
    state = reshape(memory.read(), head_v, head_v, n_v, n_seqs)
    mixed = unary(convolved)
    q, k = (unary(unary(view(mixed, head_k, n_k, n, n_seqs, stride=width, packed=2))) for _ in range(2))
    v = view(mixed, head_v, n_v, n, n_seqs, stride=width, packed=2)
    if repeated and n_k != n_v:
        q, k = _repeated(q, n_v // n_k), _repeated(k, n_v // n_k)
    out = plain((head_v * n_v, n * n_seqs + head_v * n_seqs, 1, 1), q, k, v, gate, beta, state)
    memory.write(view(out, head_v, head_v, n_v, n_seqs))
    y = b.norm(view(out, head_v, n_v, n, n_seqs), "ssm_norm")
    y = binary(y, unary(reshape(z, head_v, n_v, n, n_seqs)))
    y = mul_mat(b.need("ssm_out"), reshape(y, head_v * n_v, n, n_seqs))
    return reshape(y, b.model.n_embd, b.n_tokens)


def _repeated(x: Tensor, times: int) -> Tensor:
    head, n_head, n, n_seqs = x.ne
    spread = reshape(x, head, 1, n_head, n * n_seqs)
    return reshape(plain((head, times, n_head, n * n_seqs), spread), head, times * n_head, n, n_seqs)
