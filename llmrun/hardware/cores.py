"""The processor's cores: which logical processors share one, which are slow ones, and which this process may use."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmrun.hardware.files import read_text
from llmrun.hardware.macos import parse_sysctl, read_sysctl


@dataclass(frozen=True, slots=True)
class Core:
    """A physical core: the numbers of its logical processors. performance: it is not one of the slow ones."""

    cpus: frozenset[int]
    performance: bool = True


@dataclass(frozen=True, slots=True)
class CoreFiles:
    """What Linux tells of cores: texts of files in sysfs, and of /proc/cpuinfo.

    siblings, capacity: by logical processor. fast: /sys/devices/cpu_core/cpus of Intel's hybrid processors.
    """

    online: str
    siblings: Mapping[int, str]
    capacity: Mapping[int, str]
    fast: str
    cpuinfo: str


def read_cores(root: Path = Path("/")) -> tuple[Core, ...]:
    """Return this machine's cores, at least one; root is where Linux's file systems begin."""
    cores: tuple[Core, ...] = ()
    if sys.platform == "linux":
        cores = parse_core_files(read_core_files(root))
    elif sys.platform == "darwin":
        cores = mac_cores(parse_sysctl(read_sysctl()))
    return cores or _read_psutil()


def _read_psutil() -> tuple[Core, ...]:
    import psutil

    logical = os.cpu_count() or 1
    return numbered_cores(psutil.cpu_count(logical=False) or logical, logical)


def read_allowed() -> frozenset[int] | None:
    """Return the logical processors this process may run on; None where the system knows no such thing."""
    if sys.platform == "linux":
        return frozenset(os.sched_getaffinity(0))
    if sys.platform == "win32":
        import psutil

        with contextlib.suppress(psutil.Error):
            return frozenset(psutil.Process().cpu_affinity() or ()) or None
    return None


def read_core_files(root: Path = Path("/")) -> CoreFiles:
    """Read what parse_core_files understands."""
    folder = root / "sys/devices/system/cpu"
    online = read_text(folder / "online")
    numbers = parse_cpu_list(online)
    siblings = {n: text for n in numbers if (text := read_text(folder / f"cpu{n}/topology/thread_siblings_list"))}
    capacity: dict[int, str] = {}
    if numbers and read_text(folder / f"cpu{min(numbers)}/cpu_capacity"):  # machines of equal cores have no such files
        capacity = {n: read_text(folder / f"cpu{n}/cpu_capacity") for n in numbers}
    # slow to read on large machines, and only worth it where sysfs says nothing
    cpuinfo = "" if siblings else read_text(root / "proc/cpuinfo")
    return CoreFiles(online, siblings, capacity, read_text(root / "sys/devices/cpu_core/cpus"), cpuinfo)


def parse_core_files(files: CoreFiles) -> tuple[Core, ...]:
    """Understand Linux's files: one core for each set of siblings, in order; none where they tell nothing.

    Slow cores are those outside cpu_core on Intel's hybrid processors, and on Arm those with less than half of the
    largest capacity, of 1024: cores of 800 beside one of 1024 keep up, those of 300 hold up all others at each barrier.
    """
    groups = {parse_cpu_list(text) for text in files.siblings.values()} or _groups_of_cpuinfo(files.cpuinfo)
    groups = groups or {frozenset({number}) for number in parse_cpu_list(files.online)}
    fast = parse_cpu_list(files.fast)
    capacity = {number: int(text) for number, text in files.capacity.items() if text.strip().isdecimal()}
    largest = max(capacity.values(), default=0)
    slow = {number for number, value in capacity.items() if 2 * value < largest}
    return tuple(
        Core(group, performance=not group & slow and (not fast or bool(group & fast)))
        for group in sorted((group for group in groups if group), key=min)
    )


def _groups_of_cpuinfo(text: str) -> set[frozenset[int]]:
    """Return the processors of each core by "physical id" and "core id", or each alone where there are none."""
    groups: dict[tuple[str, str, str], set[int]] = {}
    for block in text.split("\n\n"):
        rows = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        number = rows.get("processor", "")
        if number.isdecimal():
            alone = number if "core id" not in rows else ""
            groups.setdefault((rows.get("physical id", ""), rows.get("core id", ""), alone), set()).add(int(number))
    return {frozenset(group) for group in groups.values()}


def parse_cpu_list(text: str) -> frozenset[int]:
    """Understand a list as "0-3,8"; what is no such list is empty."""
    ranges = re.findall(r"(\d{1,5})(?:-(\d{1,5}))?", text)  # Linux has 8192 at most
    return frozenset(number for first, last in ranges for number in range(int(first), int(last or first) + 1))


def mac_cores(values: Mapping[str, str]) -> tuple[Core, ...]:
    """Return a Mac's cores from parse_sysctl's values; perflevel0 are the fast ones. None where they lack something."""
    counts = [values.get(name, "") for name in ("hw.physicalcpu", "hw.logicalcpu", "hw.perflevel0.physicalcpu")]
    if not counts[0].isdecimal() or not counts[1].isdecimal():
        return ()
    physical = int(counts[0])
    return numbered_cores(physical, int(counts[1]), int(counts[2]) if counts[2].isdecimal() else physical)


def numbered_cores(physical: int, logical: int, performance: int | None = None) -> tuple[Core, ...]:
    """Return cores of which only the numbers are known: siblings side by side, as Windows has them, fast ones first."""
    n_each = max(1, logical // physical)
    fast = physical if performance is None else performance
    return tuple(Core(frozenset(range(n * n_each, (n + 1) * n_each)), n < fast) for n in range(physical))


def usable_cores(cores: Iterable[Core], allowed: frozenset[int] | None) -> tuple[Core, ...]:
    """Return the cores that have a processor this process may use, with those alone."""
    if allowed is None:
        return tuple(cores)
    return tuple(Core(core.cpus & allowed, core.performance) for core in cores if core.cpus & allowed)
