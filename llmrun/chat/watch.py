"""What is left of the host's memory while a model runs: said once, where it becomes too little.

The model itself grows no more after it was loaded: its caches are allocated whole, and a prompt that does not fit into
them is refused before it is read. What takes the memory is other programs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmrun.hardware.host_memory import read_host_memory
from llmrun.units import format_bytes


@dataclass(slots=True)
class MemoryWatch:
    """Says once that less is available than the reserve, bytes. available: reads it; some milliseconds."""

    reserve: int
    say: Callable[[str], None]
    available: Callable[[], int] = lambda: read_host_memory().available
    has_told: bool = False

    def look(self) -> None:
        """Read how much is available, unless it was said already."""
        if self.has_told:
            return
        left = self.available()
        if left < self.reserve:
            self.has_told = True
            less = f"less than the reserve of {format_bytes(self.reserve)}"
            self.say(f"note: only {format_bytes(left)} of RAM is left, {less}: close other programs")
