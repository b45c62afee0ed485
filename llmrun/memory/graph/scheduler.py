"""ggml's scheduler, simulated: which backend computes what, and what must be copied to it.

Source: llama.cpp 0c1e57098, ggml/src/ggml-backend.cpp, ggml_backend_sched_split_graph, where every backend supports
every operation and none reads another's memory. Backends are numbered as llama.cpp gives them to the scheduler: devices
in order, the host last. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

from llmrun.memory.graph.allocator import Lifetimes, lifetimes
from llmrun.memory.graph.tensor import Graph, Op, Tensor

Placed = list[tuple[Tensor, int]]

PIPELINE_COPIES = 4  # GGML_SCHED_MAX_COPIES
_SHIPPED_FROM = 32  # rows of a result (ggml-cuda.cu and ggml-vulkan.cpp, GGML_OP_OFFLOAD_MIN_BATCH)


class Split(NamedTuple):
    """Nodes that one backend computes in a go, and what is copied to it before, each with its copy."""

    backend: int
    inputs: Sequence[tuple[Tensor, Tensor]]
    nodes: Sequence[Tensor]


def split(graph: Graph, host: int, *, ships: bool = False) -> Sequence[Split]:
    """Return a graph in the parts that it is computed in; `host` is the number of devices, ships as of `schedule`."""
    assign(graph, host, ships=ships)
    return _Splits(graph.nodes).splits


def schedule(graph: Graph, host: int, n_copies: int = 1, *, ships: bool = False) -> Lifetimes:
    """Return when a graph's tensors need memory, and on which backend; `host` is the number of devices.

    n_copies: of everything that goes into the graph or from backend to backend, so that several batches are under way.
    ships: weights of the host are sent to the first device for operations on many rows (op_offload).
    """
    if host == 0:
        return lifetimes(list(zip(graph.leafs, repeat(0))), list(zip(graph.nodes, repeat(0))))
    assign(graph, host, ships=ships)
    leafs = [(leaf, _backend(leaf)) for leaf in graph.leafs]
    splits = _Splits(graph.nodes)
    return lifetimes(leafs if n_copies == 1 else _pipelined(leafs, splits.copies, n_copies), splits.placed)


def _pipelined(leafs: Placed, copies: Iterable[Tensor], n_copies: int) -> Placed:
    """Every input and every copy stands `n_copies` times, and none is given back (pass 6)."""
    first: Placed = []
    for tensor in (*(leaf for leaf, _ in leafs if leaf.input), *copies):
        tensor.output = True
        backend = _backend(tensor)
        first.append((tensor, backend))
        for _ in range(n_copies - 1):
            again = Tensor(Op.LEAF, tensor.kind, tensor.ne, size=tensor.size)
            again.output = True
            first.append((again, backend))
    return first + leafs


def assign(graph: Graph, host: int, *, ships: bool = False) -> None:
    """Give every tensor a backend (passes 1 to 4)."""
    for leaf in graph.leafs:
        if leaf.backend is None and leaf.input:
            leaf.backend = host
    for node in graph.nodes:
        if node.backend is None:
            node.backend = _pulled(node)
            if ships and node.backend == host and _is_shipped(node):
                node.backend = 0
    computed = [node for node in graph.nodes if node.op is not Op.VIEW]
    _spread(computed, host)
    _spread(reversed(computed), host)
    _spread(computed, None)
    _spread(reversed(computed), None)
    for node in graph.nodes:
        if node.backend is None:
            node.backend = _backend(node.view_of) if node.view_of is not None else 0
        for source in node.sources:
            if source.backend is None:
                source.backend = node.backend if source.view_of is None else source.view_of.backend


def _pulled(node: Tensor) -> int | None:
    """Where existing memory or the first weight among its sources pulls an operation."""
    if node.view_of is not None and node.view_of.external:
        return node.view_of.backend
    if node.op in (Op.ROPE, Op.ATTENTION):
        return None
    return next((source.backend for source in node.sources if source.weight), None)


def _is_shipped(node: Tensor) -> bool:
    """Whether an operation that a weight has pulled to the host is computed on a device all the same."""
    by_weight = node.view_of is None or not node.view_of.external
    return by_weight and node.op is not Op.ROWS and max(node.ne[1:]) >= _SHIPPED_FROM


def _spread(nodes: Iterable[Tensor], barrier: int | None) -> None:
    """Give what is nowhere to the backend of the one before it, unless that is the barrier."""
    current = None
    for node in nodes:
        if node.backend is not None:
            current = None if node.backend == barrier else node.backend
        elif current is not None:
            node.backend = current


class _Splits:
    """The nodes with their backends, and among them what they read from other backends (pass 5).

    A copy is made where the split of its first reader begins, and serves all later ones there.
    """

    def __init__(self, nodes: list[Tensor]) -> None:
        self.placed: Placed = []
        self.splits: list[Split] = []
        self._copies: dict[tuple[int, int], Tensor] = {}
        self._split: Placed = []
        self._wanted: list[tuple[Tensor, Tensor]] = []
        self._current = next(_backend(node) for node in nodes if node.op is not Op.VIEW)
        for node in nodes:
            backend = _backend(node)
            if node.op is not Op.VIEW:
                if backend != self._current or self._reads_foreign_weight(node):
                    self._close()
                    self._current = backend
                self._redirect(node)
            self._split.append((node, backend))
        self._close()

    @property
    def copies(self) -> Iterable[Tensor]:
        """What stands for another backend's tensors, in order."""
        return self._copies.values()

    def _reads_foreign_weight(self, node: Tensor) -> bool:
        return bool(self._wanted) and any(source.weight and source.backend != self._current for source in node.sources)

    def _redirect(self, node: Tensor) -> None:
        """Let a node read copies of what is not where it is computed."""
        current = self._current
        if all(source.backend == current for source in node.sources):
            return
        node.sources = tuple(source if source.backend == current else self._copy(source) for source in node.sources)

    def _copy(self, source: Tensor) -> Tensor:
        key = id(source), self._current
        if key not in self._copies:
            copy = self._copies[key] = Tensor(Op.LEAF, source.kind, source.ne, size=source.size)
            copy.backend, copy.strided = self._current, source.strided
            self._wanted.append((source, copy))
        return self._copies[key]

    def _close(self) -> None:
        """End a split, its inputs before it; what is copied is kept until then by a node that shows it."""
        for source, copy in self._wanted:
            root = source if source.view_of is None else source.view_of
            shown = Tensor(Op.LEAF, source.kind, source.ne, (source,), root, source.size)
            self.placed += [(shown, _backend(source)), (copy, self._current)]
        self.placed += self._split
        self.splits.append(Split(self._current, tuple(self._wanted), tuple(node for node, _ in self._split)))
        self._split, self._wanted = [], []


def _backend(tensor: Tensor) -> int:
    assert tensor.backend is not None
    return tensor.backend
