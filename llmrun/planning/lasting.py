"""In how much room a choice stays what it is, so that a plan that was made once need only be checked. Pure.

Rests on a law of `choose`: what it looks at, and in which order, never depends on how much is free; more room can only
bring an earlier candidate. A choice that fits is therefore the choice in all room up to that it was made in, and where
it is also the choice in room without end, in any room that holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmrun.memory.footprint import Footprint
from llmrun.planning.room import Room

if TYPE_CHECKING:
    from llmrun.planning.choose import Choice, Ground
    from llmrun.planning.offer import Offer
    from llmrun.planning.policy import Policy

_ENDLESS = 1 << 62  # bytes


@dataclass(frozen=True, slots=True)
class Lasting:
    """The room in which a choice stays.

    taken: what it was said to take, by everybody who was asked: all of it has to fit. used: the places of the devices
    it uses among those of the machine. most: the room it was made in; None where more of it would change nothing.
    """

    taken: tuple[Footprint, ...]
    used: tuple[int, ...]
    most: Room | None

    def stays_in(self, room: Room) -> bool:
        """Whether the choice is the same in this room, of the same machine."""
        own = room.only(self.used)
        return all(map(own.holds, self.taken)) and (self.most is None or _within(room, self.most))


def lasting_of(
    choice: Choice, told: Footprint, offers: Sequence[Offer], ground: Ground, policy: Policy
) -> Lasting | None:
    """Return for how much room a choice of `choose` stays; told: what the engine says it takes.

    None for one that is read from disk, whose place in the order is the room's doing.
    """
    from llmrun.planning.choose import choose  # here: who only checks a plan need not be able to choose one

    if choice.from_disk:
        return None
    best = choose(offers, replace(ground, room=_endless(ground.room)), policy)
    is_best = best is not None and _what(best) == _what(choice)
    used = tuple(ground.names.index(name) for name in choice.settings.devices or ())
    return Lasting((choice.footprint, told), used, None if is_best else ground.room)


def _what(choice: Choice) -> tuple[object, ...]:
    return choice.offer.quant, choice.settings, choice.step


def _endless(room: Room) -> Room:
    return replace(room, host=_ENDLESS, devices=tuple(None if size is None else _ENDLESS for size in room.devices))


def _within(room: Room, most: Room) -> bool:
    """Whether no pool has more room than another; what is unknown of one must be of both."""
    if room.unified != most.unified or room.drivers != most.drivers:
        return False
    pairs = zip(room.devices, most.devices, strict=True)
    return room.host <= most.host and all(
        now is then if now is None or then is None else now <= then for now, then in pairs
    )
