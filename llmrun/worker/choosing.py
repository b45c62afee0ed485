"""Which slot a prompt is read in, and what another one has of it already. What is one owner's is no other's."""

from __future__ import annotations

from collections.abc import Sequence

from llmrun.worker.overlap import common_prefix
from llmrun.worker.slot import Slot


def choose_slot(free: Sequence[Slot], owner: str, tokens: Sequence[int]) -> Slot:
    """Return the free slot that has most of a prompt, else the one that was used least recently.

    One that would lose more than half of what it holds is another conversation, which only begins alike: it is left
    alone while there is a slot that nobody has used, for the beginning can be copied.
    """
    unused = [slot for slot in free if slot.owner is None]
    own = [slot for slot in free if slot.owner == owner]
    shared = {slot.seq: common_prefix(slot.past, tokens) for slot in own}
    best = max(own, key=lambda slot: (shared[slot.seq], -slot.used), default=None)
    if best is not None and shared[best.seq] and (not unused or 2 * shared[best.seq] >= len(best.past)):
        return best
    return unused[0] if unused else min(free, key=lambda slot: slot.used)


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
