"""How many threads this process can use well."""

from __future__ import annotations

import os

import psutil


def count_threads() -> int:
    """Return the physical cores this process may run on, at least 1: more threads only wait for each other.

    Affinity is respected; where the physical cores are not known, the logical ones count.
    """
    known = hasattr(os, "sched_getaffinity")  # not on macOS and Windows
    allowed = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
