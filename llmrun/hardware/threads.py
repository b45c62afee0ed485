"""How many threads this process can use well: no more than there are cores to run them at the same time.

llama.cpp's threads wait for each other at a barrier after every operation, spinning: one that has to share its core
holds up all others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llmrun.hardware.cgroup import cpu_quota, read_groups
from llmrun.hardware.cores import Core, read_allowed, read_cores, usable_cores
from llmrun.hardware.load import busy_processors, read_niceness, sample_load


@dataclass(frozen=True, slots=True)
class Threads:
    """Threads for writing (decode) and for reading a prompt (batch), and why so many, in words."""

    decode: int
    batch: int
    reason: str


def count_threads() -> int:
    """Return how many threads can write well while nothing else runs, at least 1."""
    return usual_threads().decode


def usual_threads(root: Path = Path("/")) -> Threads:
    """Return the threads to use while nothing else runs: the same at any time. root: where Linux begins."""
    return plan_threads(read_cores(root), read_allowed(), cpu_quota(read_groups("cpu", root)))


def choose_threads(own: Iterable[int] = (), root: Path = Path("/")) -> Threads:
    """Return the threads to use now, beside what else runs; takes load.SAMPLE_SECONDS.

    own: processes whose work is ours, besides this one. root: where Linux's file systems begin.
    """
    allowed = read_allowed()
    before, after = sample_load(own, root)
    busy = busy_processors(before, after, allowed, with_niced=read_niceness() > 0)
    return plan_threads(read_cores(root), allowed, cpu_quota(read_groups("cpu", root)), busy)


def plan_threads(
    cores: Iterable[Core], allowed: frozenset[int] | None = None, quota: float | None = None, busy: float = 0.0
) -> Threads:
    """Return the least of what cores, affinity, quota and other work leave, at least 1.

    allowed: logical processors we may use. quota: processors' worth of time, rounded: measured with 1 and 2 threads
    (2026-11, 2 cores, 158 MB Q4_K_M), decode had 62 and 49 tok/s at a quota of 1.2, 62 and 63 at 1.5, 59 and 75 at 1.9,
    and prefill 418 and 393, 389 and 465, 406 and 685. busy: processors' worth of time others take, rounded too; it is
    the logical ones that must be free. With one of two taken, 2 threads had 24 tok/s and 1 had 54, prefill 231 and 342.
    """
    known = tuple(cores)
    usable = usable_cores(known, allowed) or (Core(frozenset({0})),)
    fast = [core for core in usable if core.performance] or list(usable)
    n_busy = math.floor(busy + 0.5)
    n = min(len(fast), sum(len(core.cpus) for core in usable) - n_busy)
    # half a processor more makes reading faster, but not writing
    decode, batch = (n, n) if quota is None else (min(n, math.ceil(quota - 0.5)), min(n, math.floor(quota + 0.5)))
    decode, batch = max(1, decode), max(1, batch)
    causes = [_name_cores(known, usable, fast)]
    if quota is not None and quota < len(fast):
        causes.append(f"a quota of {quota:g} processors")
    if n_busy:
        causes.append(f"{n_busy} busy with other work")
    answer = _count(decode, "thread") + (f", {batch} to read prompts" if batch != decode else "")
    for_now = " for now" if n < len(fast) else ""  # worker.crew takes more when others have gone
    return Threads(decode, batch, f"{', '.join(causes)}: {answer}{for_now}")


def _name_cores(known: tuple[Core, ...], usable: tuple[Core, ...], fast: list[Core]) -> str:
    if len(fast) < len(usable):
        text = f"{_count(len(fast), 'performance core')} of {len(usable)}"
    else:
        text = _count(len(usable), "physical core")
    return text if len(usable) == len(known) else f"{text}, the others of {len(known)} not allowed"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
