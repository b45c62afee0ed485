"""The host's memory: how much this process may have of it, and how much of that can be had now."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmrun.hardware.cgroup import Bound, memory_bounds, read_groups
from llmrun.hardware.files import read_text
from llmrun.hardware.macos import parse_sysctl, parse_vm_stat, read_sysctl, read_vm_stat

_MIB = 1 << 20
# Address space a worker takes beyond what a plan counts: libraries in full, stacks and the allocator's arenas. Measured
# 2026-11, Linux x86-64, glibc 2.36, models of 4 and 151 MiB: 330 MiB, of them 100 private and writable (VmData).
_UNCOUNTED_SPACE = 384 * _MIB
_UNCOUNTED_DATA = 128 * _MIB


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Bytes of RAM: what this process may have of it in all, and what can be had now without swapping.

    limit: what a container, a control group or the process's own limits allow, where that is less than the machine has;
    then it is `total` too. limited_by: which limit that is. swap_total, swap_free: seen, and never counted on; None is
    unknown. machine_total: bytes of the whole machine, where a limit keeps some of it from us. outside: bytes the
    machine has available beyond `available`.
    """

    total: int
    available: int
    limit: int | None = None
    limited_by: str | None = None
    swap_total: int | None = None
    swap_free: int | None = None
    machine_total: int | None = None
    outside: int = 0


def read_host_memory(root: Path = Path("/")) -> HostMemory:
    """Return the host's memory now; root is where Linux's file systems begin."""
    memory = _read_machine(root)
    return limited(memory, read_bounds(root)) if sys.platform == "linux" else memory


def read_memory_without_own_limits(root: Path = Path("/")) -> HostMemory:
    """Return the host's memory now, whatever this process has forbidden itself: what others of its group could have."""
    memory = _read_machine(root)
    return limited(memory, memory_bounds(read_groups("memory", root))) if sys.platform == "linux" else memory


def _read_machine(root: Path) -> HostMemory:
    memory = None
    if sys.platform == "linux":
        memory = parse_meminfo(read_text(root / "proc/meminfo"))
    elif sys.platform == "darwin":
        memory = mac_memory(parse_sysctl(read_sysctl()), parse_vm_stat(read_vm_stat()))
    return memory or _read_psutil()


def _read_psutil() -> HostMemory:
    """Ask psutil: Windows and the BSDs, and wherever the system's own way does not answer."""
    import psutil

    found, swap = psutil.virtual_memory(), psutil.swap_memory()
    return HostMemory(int(found.total), int(found.available), swap_total=int(swap.total), swap_free=int(swap.free))


def read_bounds(root: Path = Path("/")) -> tuple[Bound, ...]:
    """Return every limit on this process's memory: those of its control groups, and its own."""
    process = root / "proc/self"
    own = process_bounds(read_text(process / "limits"), read_text(process / "status"))
    return (*memory_bounds(read_groups("memory", root)), *own)


def limited(memory: HostMemory, bounds: Iterable[Bound]) -> HostMemory:
    """Return what is left of a machine's memory within these limits; those above what the machine has do not count.

    Of several limits the least is told of, and what is available is the least that any of them leaves.
    """
    holding = [bound for bound in bounds if bound.limit < memory.total]
    if not holding:
        return memory
    least = min(holding, key=lambda bound: bound.limit)
    available = min(memory.available, *(bound.available for bound in holding))
    return HostMemory(
        total=least.limit,
        available=available,
        limit=least.limit,
        limited_by=least.name,
        swap_total=memory.swap_total,
        swap_free=memory.swap_free,
        machine_total=memory.total,
        outside=memory.available - available,
    )


def parse_meminfo(text: str) -> HostMemory | None:
    """Understand /proc/meminfo; None where MemTotal or MemAvailable are lacking or 0 (old kernels, some containers)."""
    sizes = {name: int(kib) << 10 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    if not sizes.get("MemTotal") or not sizes.get("MemAvailable"):
        return None
    total = sizes["MemTotal"]
    # in some LXC containers the total is the container's, and this still the host's
    available = sizes["MemAvailable"] if sizes["MemAvailable"] <= total else sizes.get("MemFree", 0)
    swap_total, swap_free = (sizes.get(name) for name in ("SwapTotal", "SwapFree"))
    return HostMemory(total, min(available, total), swap_total=swap_total, swap_free=swap_free)


def process_bounds(limits: str, status: str) -> tuple[Bound, ...]:
    """Understand /proc/self/limits and /proc/self/status: limits on address space and on private memory.

    They hold for each process alone, and the worker inherits them. What it takes of its address space without using it
    is left out, or what this process has taken where that is more.
    """
    bounds = []
    for row, name, key, floor in (
        ("Max address space", "RLIMIT_AS (ulimit -v)", "VmSize", _UNCOUNTED_SPACE),
        ("Max data size", "RLIMIT_DATA (ulimit -d)", "VmData", _UNCOUNTED_DATA),
    ):
        limit = re.search(rf"^{row}\s+(\d+)\s", limits, re.MULTILINE)
        taken = re.search(rf"^{key}:\s+(\d+) kB$", status, re.MULTILINE)
        if limit:
            used = max(floor, int(taken[1]) << 10 if taken else 0)
            bounds.append(Bound(name, int(limit[1]), max(0, int(limit[1]) - used)))
    return tuple(bounds)


def mac_memory(values: Mapping[str, str], pages: Mapping[str, int]) -> HostMemory | None:
    """Return a Mac's memory from parse_sysctl's values and parse_vm_stat's sizes; None where they lack something.

    Available is what is free, what holds files' contents (speculative pages are among those) and what may be purged:
    Activity Monitor calls the rest used. Inactive pages of programs would have to be compressed, and do not count.
    """
    total = values.get("hw.memsize", "")
    free, files, purgeable = (pages.get(name) for name in ("Pages free", "File-backed pages", "Pages purgeable"))
    if not total.isdecimal() or free is None or files is None:
        return None
    swap = re.search(r"total = ([\d.]+)M +used = [\d.]+M +free = ([\d.]+)M", values.get("vm.swapusage", ""))
    return HostMemory(
        int(total),
        min(int(total), free + files + (purgeable or 0)),
        swap_total=int(float(swap[1]) * _MIB) if swap else None,
        swap_free=int(float(swap[2]) * _MIB) if swap else None,
    )
