"""What a check found, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's judgement.

    check: its name, the same on every machine. repair: what to do, lines to read or to type. engine: whether it is
    about the engine or what it runs on, and not about the machine around it. rebuild: whether another build of the
    engine mends it.
    """

    check: str
    level: Level
    text: str
    repair: tuple[str, ...] = ()
    engine: bool = True
    rebuild: bool = False


def worst(levels: list[Level]) -> Level:
    """Return the worst of these levels, "ok" where there is none."""
    return "problem" if "problem" in levels else "warning" if "warning" in levels else "ok"
