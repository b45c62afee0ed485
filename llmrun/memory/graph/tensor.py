"""ggml's tensors and operations, as far as they decide about memory: shapes, sources, and what is a view of what.

Source: llama.cpp 0c1e57098, ggml/src/ggml.c. Knows neither models nor where anything is computed. Nothing here checks
shapes: a graph is compared with the engine's by a test.
"""

from __future__ import annotations

from enum import IntEnum
from math import prod

Shape = tuple[int, int, int, int]


class Op(IntEnum):
    """What the scheduler and the allocator tell operations apart by; PLAIN is every other."""

    LEAF = 0
    VIEW = 1  # reshape, view, permute, transpose: never computed
    PLAIN = 2
    IN_PLACE = 3  # ggml-alloc.c, ggml_op_can_inplace
    ROPE = 4  # in place, and its factors do not pull it to their backend (ggml-backend.cpp)
    ATTENTION = 5  # its sinks do not pull it to their backend either
    ROWS = 6  # never worth sending its table to another backend


# Bytes of an element; whole numbers are negative, so that a type is its number.
F32, F16, I32, I64 = 4, 2, -4, 8


class Tensor:
    """One tensor. ne: elements of each dimension, the row first; size: bytes, from first to last.

    view_of: the tensor whose memory this one shows. backend: where memory that is there before the graph lies, or where
    the graph's builder insists on computing it. weight: it has such memory and pulls operations there.
    seen: it is in a graph; children, views, slot and owned are the allocator's. loras: of a weight, the two matrices of
    each adapter beside it, in which the product with it goes on.
    """

    __slots__ = (
        "backend", "children", "external", "input", "kind", "loras", "ne", "op", "output", "owned", "seen", "size",
        "slot", "sources", "strided", "view_of", "views", "weight",
    )  # fmt: skip

    def __init__(
        self,
        op: Op,
        kind: int,
        ne: Shape,
        sources: tuple[Tensor, ...] = (),
        view_of: Tensor | None = None,
        size: int | None = None,
    ) -> None:
        self.op = op
        self.kind = kind
        self.ne = ne
        self.sources = sources
        self.view_of = view_of
        self.size = abs(kind) * prod(ne) if size is None else size
        self.strided = False
        self.backend: int | None = None
        self.external = self.weight = self.input = self.output = self.seen = False
        self.children = self.views = self.slot = 0
        self.owned = False
        self.loras: tuple[tuple[Tensor, Tensor], ...] = ()


def unary(a: Tensor) -> Tensor:
    """An operation element by element, whose result may lie where `a` is."""
    return Tensor(Op.IN_PLACE, a.kind, a.ne, (a,))


def binary(a: Tensor, *others: Tensor) -> Tensor:
    """An operation with the shape of `a`, whose result may lie where a source of the same shape is."""
    return Tensor(Op.IN_PLACE, a.kind, a.ne, (a, *others))


def same(a: Tensor, *others: Tensor) -> Tensor:
    """An operation with the shape of `a` and memory of its own."""
    return Tensor(Op.PLAIN, a.kind, a.ne, (a, *others))


def plain(ne: Shape, *sources: Tensor, kind: int = F32) -> Tensor:
    """An operation with a shape and memory of its own."""
    return Tensor(Op.PLAIN, kind, ne, sources)


def mul_mat(w: Tensor, x: Tensor) -> Tensor:
    """A matrix by columns, and what adapters add to it (llama-graph.cpp, build_lora_mm)."""
    result = Tensor(Op.PLAIN, F32, (w.ne[1], x.ne[1], x.ne[2], x.ne[3]), (w, x))
    for a, b in w.loras:
        result = binary(result, unary(mul_mat(b, mul_mat(a, x))))
    return result


def mul_mat_id(w: Tensor, x: Tensor, ids: Tensor) -> Tensor:
    """The matrices of the chosen experts by columns, and what adapters add to them (build_lora_mm_id)."""
    result = Tensor(Op.PLAIN, F32, (w.ne[1], ids.ne[0], x.ne[2], 1), (w, x, ids))
    for a, b in w.loras:
        result = binary(result, unary(mul_mat_id(b, mul_mat_id(a, x, ids), ids)))
    return result


def get_rows(a: Tensor, ids: Tensor) -> Tensor:
    """The chosen rows."""
    return Tensor(Op.ROWS, F32, (a.ne[0], ids.ne[0], ids.ne[1], ids.ne[2]), (a, ids))


def rope(a: Tensor, positions: Tensor, factors: Tensor | None) -> Tensor:
    """Rotated positions."""
    return Tensor(Op.ROPE, a.kind, a.ne, (a, positions) if factors is None else (a, positions, factors))


def glu(a: Tensor, b: Tensor | None = None) -> Tensor:
    """A gate times what it gates; without `b` both are halves of `a`'s rows."""
    if b is not None:
        return Tensor(Op.PLAIN, a.kind, a.ne, (a, b))
    return Tensor(Op.PLAIN, a.kind, (a.ne[0] // 2, *a.ne[1:]), (a,))


def concat(a: Tensor, b: Tensor, dim: int = 0) -> Tensor:
    """Both, one after the other in a dimension."""
    ne = list(a.ne)
    ne[dim] += b.ne[dim]
    return Tensor(Op.PLAIN, a.kind, (ne[0], ne[1], ne[2], ne[3]), (a, b))


def cont(a: Tensor, *ne: int) -> Tensor:
    """A copy without gaps, in another shape if one is given."""
    return Tensor(Op.PLAIN, a.kind, shape(ne) if ne else a.ne, (a,))


def sum_rows(a: Tensor) -> Tensor:
    """The sum of each row."""
    return Tensor(Op.PLAIN, a.kind, (1, *a.ne[1:]), (a,))


def top_k(a: Tensor, k: int) -> Tensor:
    """Indices of the k greatest of each row: a view of all indices, sorted (ggml_argsort_top_k)."""
    order = Tensor(Op.PLAIN, I32, a.ne, (a,))
    return view(order, k, *a.ne[1:], stride=a.ne[0])


def store(a: Tensor, into: Tensor, *ids: Tensor) -> Tensor:
    """`a` written to other memory: whole (ggml_cpy) or to the rows named by `ids` (ggml_set_rows)."""
    return Tensor(Op.PLAIN, into.kind, into.ne, (a, *ids, into), _root(into), into.size)


def reshape(a: Tensor, *ne: int) -> Tensor:
    """The same memory in another shape."""
    return Tensor(Op.VIEW, a.kind, shape(ne), (a,), _root(a), a.size)


def view(a: Tensor, *ne: int, stride: int = 0, packed: int = 1, size: int | None = None) -> Tensor:
    """A part of `a`, with its span from first to last byte.

    stride: elements from one block to the next where there are gaps, a block being the first `packed` dimensions. size:
    the span where it is something else.
    """
    whole = shape(ne)
    if stride:
        size = abs(a.kind) * ((prod(whole[packed:]) - 1) * stride + prod(whole[:packed]))
    result = Tensor(Op.VIEW, a.kind, whole, (a,), _root(a), size)
    result.strided = size is not None
    return result


def permute(a: Tensor, *axes: int) -> Tensor:
    """The same memory with the dimensions in another order: dimension i goes to axes[i] (ggml_permute)."""
    ne = [0, 0, 0, 0]
    for axis, n in zip(axes, a.ne, strict=True):
        ne[axis] = n
    result = Tensor(Op.VIEW, a.kind, (ne[0], ne[1], ne[2], ne[3]), (a,), _root(a), a.size)
    result.strided = True
    return result


def transpose(a: Tensor) -> Tensor:
    """Rows and columns swapped."""
    return permute(a, 1, 0, 2, 3)


def shape(ne: tuple[int, ...]) -> Shape:
    """Fill up to four dimensions."""
    one = (*ne, 1, 1, 1)
    return one[0], one[1], one[2], one[3]


def _root(a: Tensor) -> Tensor:
    return a if a.view_of is None else a.view_of


class Graph:
    """Operations in the order they are computed, and what they read that no operation makes (ggml_cgraph)."""

    def __init__(self) -> None:
        self.nodes: list[Tensor] = []
        self.leafs: list[Tensor] = []

    def expand(self, tensor: Tensor) -> None:
        """Add a tensor after all it depends on (ggml_build_forward_expand)."""
        if tensor.seen:
            return
        tensor.seen = True
        for source in tensor.sources:
            if not source.seen:
                self.expand(source)
        (self.nodes if tensor.op else self.leafs).append(tensor)
