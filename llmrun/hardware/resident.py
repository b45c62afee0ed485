"""How much memory a process really has: what it alone can give back, and pages of files."""

from __future__ import annotations

import contextlib
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


def parse_rss_anon(status: str) -> int | None:
    """Understand /proc/PID/status: bytes of anonymous memory; None where it does not say."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) << 10 if found else None


def read_own_anonymous() -> int:
    """Return this process's anonymous memory now, some pages a thread late: at once, however large the process is.

    smaps_rollup is exact and walks all page tables for it. Where the system does not tell anonymous memory apart it is
    all that is resident.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return parse_rss_anon(Path("/proc/self/status").read_text()) or 0
    import psutil

    return int(psutil.Process().memory_info().rss)


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
