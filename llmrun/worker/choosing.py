"""Which slot a prompt is read in, and what another one has of it already. What is one owner's is no other's."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from llmrun.worker.overlap import common_prefix
from llmrun.worker.slot import Slot

# Tokens of a prompt that are not worth a gap: as long as the answer is written each step takes a quarter longer (4 at
# once, 0.6B Q4_K_M, 2 threads: 103 to 110 ms, and 82 where they are neighbours).
_LITTLE = 64


def choose_slot(free: Sequence[Slot], owner: str, tokens: Sequence[int], apart: Collection[int] | None = None) -> Slot:
    """Return the free slot that has most of a prompt, else one that nobody has used, else the least recently used.

    apart: the sequences that are busy, where each has cells of its own: llama.cpp then computes neighbours together and
    reads all weights once more for each gap (llama-batch.cpp, split_equal), so that of slots which have little of the
    prompt one is taken that leaves the fewest. None where all share their cells.
    One that would lose more than half of what it holds is another conversation, which only begins alike: it is left
    alone while there is a slot that nobody has used, for the beginning can be copied.
    """
    unused = [slot for slot in free if slot.owner is None]
    own = [slot for slot in free if slot.owner == owner]
    shared = {slot.seq: common_prefix(slot.past, tokens) for slot in own}
    best = max(own, key=lambda slot: (shared[slot.seq], -slot.used), default=None)
    if best is not None and shared[best.seq] and (not unused or 2 * shared[best.seq] >= len(best.past)):
        fewest = min(_runs(slot.seq, apart) for slot in free)
        if shared[best.seq] >= _LITTLE or _runs(best.seq, apart) == fewest:
            return best
    return min(free, key=lambda slot: (_runs(slot.seq, apart), slot.owner is not None, slot.used, slot.seq))


def _runs(seq: int, apart: Collection[int] | None) -> int:
    """Return in how many parts sequences would be computed with one more."""
    if apart is None:
        return 1
    busy = {*apart, seq}
    return sum(one - 1 not in busy for one in busy)


def find_source(slots: Sequence[Slot], slot: Slot, owner: str, tokens: Sequence[int], least: int) -> tuple[Slot, int]:
    """Return the slot that has most of a prompt, and how many tokens; the chosen one, unless another has `least` more.

    A slot that cannot be cut there has nothing to give.
    """
    best, most = slot, common_prefix(slot.past, tokens)
    needed = most + least
    for other in slots:
        if other is slot or other.owner != owner:
            continue
        n = common_prefix(other.past, tokens)
        if n >= needed and n > most and other.can_give(n):
            best, most = other, n
    return best, most
