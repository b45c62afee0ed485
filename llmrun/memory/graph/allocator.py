"""ggml's graph allocator, simulated: how large one buffer must be for all tensors of a graph that lie in it in turn.

Source: llama.cpp 0c1e57098, ggml/src/ggml-alloc.c (ggml_gallocr_alloc_graph_impl, then ggml_dyn_tallocr), for buffer
types without a limit on size, which is one chunk. Knows nothing of models.

It is done in two steps, because the first does not depend on the length of the context: which tensors share a slot and
when each slot is taken and given back, then where the slots lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmrun.memory.graph.tensor import Op, Tensor

ALIGNMENT = 32  # ggml-impl.h, TENSOR_ALIGNMENT: of the CPU's buffers, and of an RPC server's on a CPU
_ENDLESS = 1 << 62


@dataclass(frozen=True, slots=True)
class Slot:
    """Memory for one tensor and for those that take its place: which pool, and its size as the tensor has it."""

    pool: int
    size: int


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """A graph as its memory sees it. events: the index of a slot that is taken, or ~index of one that is given back."""

    slots: tuple[Slot, ...]
    events: tuple[int, ...]


class Pool:
    """One buffer while it is planned: free blocks by offset. `peak` is the size it must have, bytes."""

    def __init__(self) -> None:
        self._blocks = [[0, _ENDLESS]]  # offset, size
        self.peak = 0

    def take(self, size: int) -> int:
        """Return the offset of the smallest free block that fits; of the endless last one only if no other does."""
        blocks = self._blocks
        best, best_size = len(blocks) - 1, _ENDLESS
        for index in range(best):
            if size <= blocks[index][1] <= best_size:
                best, best_size = index, blocks[index][1]
        block = blocks[best]
        offset = block[0]
        block[0] += size
        block[1] -= size
        if block[1] == 0:
            del blocks[best]
        self.peak = max(self.peak, offset + size)
        return offset

    def give(self, offset: int, size: int) -> None:
        """Take a block back, and merge it with free neighbours."""
        blocks = self._blocks
        for index, block in enumerate(blocks):
            if block[0] + block[1] == offset:
                block[1] += size
                if index + 1 < len(blocks) and block[0] + block[1] == blocks[index + 1][0]:
                    block[1] += blocks.pop(index + 1)[1]
                return
            if offset + size == block[0]:
                block[0] = offset
                block[1] += size
                if index and blocks[index - 1][0] + blocks[index - 1][1] == offset:
                    blocks[index - 1][1] += blocks.pop(index)[1]
                return
        place = next((index for index, block in enumerate(blocks) if block[0] >= offset), len(blocks))
        blocks.insert(place, [offset, size])


def peaks(pools: Sequence[int], sizes: Sequence[int], events: Sequence[int], n_pools: int) -> tuple[int, ...]:
    """Return how large each pool must be. pools, sizes: of each slot; sizes are bytes, aligned."""
    planned = [Pool() for _ in range(n_pools)]
    offsets = [0] * len(sizes)
    for event in events:
        if event >= 0:
            offsets[event] = planned[pools[event]].take(sizes[event])
        else:
            planned[pools[~event]].give(offsets[~event], sizes[~event])
    return tuple(pool.peak for pool in planned)


def lifetimes(leafs: Sequence[tuple[Tensor, int]], nodes: Sequence[tuple[Tensor, int]]) -> Lifetimes:
    """Return when a graph's tensors, each given with the index of its pool, need memory."""
    run = _Run()
    for leaf, pool in leafs:
        run.place(leaf, pool)
    for node, _ in nodes:
        if node.view_of is not None and node.op:
            node.view_of.views += 1
        for source in node.sources:
            source.children += 1
    for node, pool in nodes:
        for source in node.sources:
            run.place(source, pool)
        run.place(node, pool)
        for source in node.sources:
            source.children -= 1
            if source.children == 0 and source.views == 0:
                run.release(source)
    return Lifetimes(tuple(run.slots), tuple(run.events))


class _Run:
    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.events: list[int] = []

    def place(self, tensor: Tensor, pool: int) -> None:
        if tensor.owned or tensor.external or tensor.view_of is not None:
            return
        tensor.owned = True
        parent = _reusable(tensor)
        if parent is not None:
            parent.owned = False
            tensor.slot = parent.slot
            return
        tensor.slot = len(self.slots)
        self.slots.append(Slot(pool, tensor.size))
        self.events.append(tensor.slot)

    def release(self, tensor: Tensor) -> None:
        root = tensor.view_of
        if root is None:
            root = tensor
        else:
            root.views -= 1
            if root.views or root.children:
                return
        if root.owned and not root.output:
            self.events.append(~root.slot)
            root.owned = False


def _reusable(tensor: Tensor) -> Tensor | None:
    """The source in whose place a result may lie: the first with the same layout that nothing else needs."""
    if tensor.op not in (Op.IN_PLACE, Op.ROPE):
        return None
    for source in tensor.sources:
        if (
            source.owned
            and source.children == 1
            and source.views == 0
            and source.ne == tensor.ne
            and source.kind == tensor.kind
            and not source.strided
            and not source.output
        ):
            return source
    return None
