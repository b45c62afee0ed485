"""Whether the machine is running short of memory while a model runs: told once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmrun.units import format_bytes


@dataclass(slots=True)
class MemoryWatch:
    """Looks at what is available. reserve: bytes that were to be left free; read: tells how many are."""

    reserve: int
    read: Callable[[], int]
    told: bool = False

    def look(self) -> str | None:
        """Return what to tell, None for nothing: there is enough, or it was told."""
        if self.told or (available := self.read()) >= self.reserve:
            return None
        self.told = True
        return (
            f"only {format_bytes(available)} of RAM is left, less than the reserve of {format_bytes(self.reserve)}: "
            "close other programs before the system closes this one"
        )
