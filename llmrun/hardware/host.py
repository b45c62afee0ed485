"""The host as one value: memory, processor, threads, power. Sets nothing, prints nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmrun.hardware.cgroup import read_notes
from llmrun.hardware.cores import read_cores
from llmrun.hardware.cpu import CpuInfo, describe, read_cpu
from llmrun.hardware.host_memory import HostMemory, read_host_memory
from llmrun.hardware.power import read_on_battery
from llmrun.hardware.threads import Threads, choose_threads

__all__ = ["CpuInfo", "Host", "HostMemory", "Threads", "detect_host"]


@dataclass(frozen=True, slots=True)
class Host:
    """What was found. on_battery: None where nobody can tell. notes: what could not be seen, and what that means."""

    memory: HostMemory
    cpu: CpuInfo
    threads: Threads
    on_battery: bool | None = None
    notes: tuple[str, ...] = ()


def detect_host(root: Path = Path("/")) -> Host:
    """Look at the host; some 100 ms, of them most to see how busy it is. root: where Linux's file systems begin."""
    answer = read_cpu(root)
    cpu = describe(answer, read_cores(root))
    return Host(
        read_host_memory(root), cpu, choose_threads(root=root), read_on_battery(root), (*_notes(cpu), *read_notes(root))
    )


def _notes(cpu: CpuInfo) -> tuple[str, ...]:
    return () if cpu.features else ("the processor's features cannot be seen",)
