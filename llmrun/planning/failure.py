"""What a failed load teaches about a pool: how much it cannot have. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from llmrun.memory.footprint import MemoryBreakdown
from llmrun.planning.room import Room

Part = Literal["weights", "kv_cache", "compute"]
_ORDER: tuple[Part, ...] = ("weights", "kv_cache", "compute")  # llama.cpp takes them in this order
# What is tried of the buffer that was refused, the first time and again: how much less there is nobody says, and a byte
# less than what was refused would most likely be refused too. There are only a few tries.
_REFUSED_NEXT = (0.75, 0.5)
# Where nobody said how much was refused: that part of what was planned.
_TRIED_NEXT = (0.9, 0.75)


@dataclass(frozen=True, slots=True)
class Failure:
    """A pool that did not give what was asked: "host" or a device's id, for what part, and how many bytes.

    None is unknown: the worker was killed, or the driver said nothing.
    """

    pool: str
    part: Part | None = None
    asked: int | None = None


def room_after(
    room: Room, names: tuple[str, ...], failure: Failure, planned: MemoryBreakdown, *, again: bool = False
) -> Room:
    """Return the room with what the failure showed: the pool has less than was taken before and asked together.

    names: the devices of the room, in order. planned: what was to be taken of the pool that failed. again: whether it
    has failed before, with more.
    """
    known = _known_capacity(failure, planned, again)
    if failure.pool == "host":
        return replace(room, host=min(room.host, known))
    place = names.index(failure.pool)
    before = room.devices[place]
    devices = [*room.devices]
    devices[place] = known if before is None else min(before, known)
    return replace(room, devices=tuple(devices))


def _known_capacity(failure: Failure, planned: MemoryBreakdown, again: bool) -> int:
    """Return the most to ask the pool for from now on, in terms of a footprint's total."""
    if failure.part is None or failure.asked is None:
        return max(0, min(int(planned.total * _TRIED_NEXT[again]), planned.total - 1))
    sizes = {"weights": planned.weights, "kv_cache": planned.kv_cache, "compute": planned.compute}
    taken = sum(sizes[part] for part in _ORDER[: _ORDER.index(failure.part)])
    left = int(failure.asked * _REFUSED_NEXT[again])
    return max(0, min(planned.total - 1, taken + left + planned.overhead))
