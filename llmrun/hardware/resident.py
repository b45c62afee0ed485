"""How much memory a process really has: what it alone can give back, and pages of files."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes of a process in RAM: anonymous ones, and those of files."""

    anonymous: int
    mapped: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.anonymous + self.mapped


def parse_smaps_rollup(text: str) -> Resident | None:
    """Understand /proc/PID/smaps_rollup; /proc/PID/status has the same figures, but some pages late."""
    kib = {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
    if "Anonymous" not in kib or "Rss" not in kib:
        return None
    return Resident(kib["Anonymous"] << 10, (kib["Rss"] - kib["Anonymous"]) << 10)


def read_resident(pid: int) -> Resident | None:
    """Return a process's resident memory now; None where it cannot be told."""
    if sys.platform == "linux":
        try:
            return parse_smaps_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())
        except OSError:
            return None
    import psutil

    try:
        found = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    return Resident(int(found.rss), 0)
