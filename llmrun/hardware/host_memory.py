"""The host's memory as the system reports it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Bytes of RAM: all of it, and what can be had now without swapping."""

    total: int
    available: int


def read_host_memory() -> HostMemory:
    """Return the host's memory now."""
    import psutil

    found = psutil.virtual_memory()
    return HostMemory(int(found.total), int(found.available))
