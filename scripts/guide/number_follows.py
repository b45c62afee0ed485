"""Questions about numbers that lean on those before them ("and at 8 bits?"); the answers are computed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scripts.guide.exchange import Exchange
from scripts.guide.numbers import FAMILIES, SHARES, Numbers, Slots, draw_slots, fill, is_held_frame, is_held_pair

KINDS = ("bits", "size", "memory")
_AFTER = {"bits": {"memory_default": "memory", "fits_default": "fits"},
          "size": {},
          "memory": {"memory": "fits", "memory_default": "fits_default"}}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked last: its family, the frame of the first question, and the numbers it was about."""

    family: str
    frame: str
    slots: Slots


def draw_number_talk(numbers: Numbers, rng: random.Random, *, held: bool = False) -> tuple[Exchange, ...]:
    """Two or three turns, each after the first about what was asked before. held: in frames kept for evaluation."""
    family = rng.choices(FAMILIES, SHARES)[0]
    asked = Asked(family, rng.choice(numbers.trained_frames[family]), draw_slots(numbers, family, rng))
    turns = [fill(numbers, family, asked.frame, asked.slots, rng)]
    for _ in range(1 if held else rng.choice((1, 1, 2))):
        asked, turn = _next(numbers, asked, rng, held=held)
        turns.append(turn)
    return tuple(turns)


def _next(numbers: Numbers, asked: Asked, rng: random.Random, *, held: bool) -> tuple[Asked, Exchange]:
    kind = "memory" if asked.family == "largest" else rng.choice(KINDS)
    family = _AFTER[kind].get(asked.family, asked.family)
    frames = [frame for frame in numbers.follow[kind] if is_held_frame(frame) == held]
    slots = _changed(numbers, asked.slots, kind, rng)
    answer = fill(numbers, family, asked.frame, slots, rng)
    question = fill(numbers, family, rng.choice(frames), slots, rng).question
    return Asked(family, asked.frame, slots), answer.asked(question)


def _changed(numbers: Numbers, slots: Slots, kind: str, rng: random.Random) -> Slots:
    """The numbers with another one of the kind, such as training may use."""
    while True:
        drawn = draw_slots(numbers, rng.choice(("memory", "fits")), rng)
        if kind == "bits":
            found = replace(slots, bits=drawn.bits)
        elif kind == "size":
            found = replace(slots, tenths=drawn.tenths)
        else:
            found = replace(slots, memory=drawn.memory)
        if found != slots and not is_held_pair(found.tenths, found.bits):
            return found


def held_out_talks(numbers: Numbers, count: int, seed: int = 0) -> list[Sequence[Exchange]]:
    """Two turns each, the second in a frame that is never trained on."""
    rng = random.Random(seed)
    return [draw_number_talk(numbers, rng, held=True) for _ in range(count)]
