"""How busy this machine is with the work of others: the processors' time, seen twice."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmrun.hardware.files import read_text

# Between two looks. Linux counts in steps of 10 ms, so that a processor's share comes out to within a sixth.
SAMPLE_SECONDS = 0.06


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds that processors have worked so far, by number, of that for niced work, and those of our own processes.

    at: the moment. Where a system tells one sum for all its processors, it stands under -1.
    """

    at: float
    busy: Mapping[int, float]
    niced: Mapping[int, float]
    own: float


def sample_load(own: Iterable[int] = (), root: Path = Path("/")) -> tuple[CpuTimes, CpuTimes]:
    """Look twice, SAMPLE_SECONDS apart; own: processes whose work is ours, besides this one."""
    pids = tuple(own)
    before = read_cpu_times(pids, root)
    time.sleep(SAMPLE_SECONDS)
    return before, read_cpu_times(pids, root)


def read_cpu_times(own: Iterable[int] = (), root: Path = Path("/")) -> CpuTimes:
    """Return the processors' times now; none at all where they cannot be seen."""
    if sys.platform == "linux":
        tick = os.sysconf("SC_CLK_TCK")
        busy, niced = parse_stat(read_text(root / "proc/stat"), tick)
        ours = sum(parse_process_stat(read_text(root / f"proc/{pid}/stat"), tick) for pid in own)
        return CpuTimes(time.monotonic(), busy, niced, time.process_time() + ours)
    return _read_psutil(own)


def _read_psutil(own: Iterable[int]) -> CpuTimes:
    import psutil

    ours = 0.0
    for pid in own:
        try:
            spent = psutil.Process(pid).cpu_times()
        except psutil.Error:  # it has ended
            continue
        ours += spent.user + spent.system
    times = psutil.cpu_times()
    niced = float(getattr(times, "nice", 0.0))
    return CpuTimes(time.monotonic(), {-1: times.user + times.system + niced}, {-1: niced}, time.process_time() + ours)


def parse_stat(text: str, ticks: int) -> tuple[dict[int, float], dict[int, float]]:
    """Understand /proc/stat: each processor's seconds of work, and those of niced work among them (proc(5)).

    Time that a hypervisor gave to other machines ("steal") is work of others too. A guest's is in user and nice.
    """
    busy, niced = {}, {}
    for line in text.splitlines():
        name, *fields = line.split() or [""]
        if not re.fullmatch(r"cpu\d+", name) or len(fields) < 4 or not all(field.isdecimal() for field in fields):
            continue
        user, nice, system, _idle, _iowait, irq, softirq, steal = ([int(field) for field in fields] + [0] * 8)[:8]
        number = int(name[3:])
        busy[number] = (user + nice + system + irq + softirq + steal) / ticks
        niced[number] = nice / ticks
    return busy, niced


def parse_process_stat(text: str, ticks: int) -> float:
    """Return the seconds a process has worked, from its /proc/PID/stat; 0 where it is gone.

    Its second field is the program's name in parentheses, with anything in it; utime and stime are fields 14 and 15.
    """
    fields = text.rpartition(")")[2].split()
    spent = fields[11:13]
    return sum(map(int, spent)) / ticks if len(spent) == 2 and all(field.isdecimal() for field in spent) else 0.0


def busy_processors(
    before: CpuTimes, after: CpuTimes, allowed: frozenset[int] | None = None, *, with_niced: bool = False
) -> float:
    """Return how many processors' worth of time others took between two looks, of those we may use.

    Niced work counts only where ours is niced too: beside two processes of niceness 19 on two cores, two threads decode
    as if they were alone (78 tok/s), beside two of niceness 0 with 16. What our own processes took is left out.
    """
    seconds = after.at - before.at
    numbers = [number for number in after.busy if allowed is None or number in allowed or number < 0]
    worked = sum(after.busy[number] - before.busy.get(number, 0.0) for number in numbers)
    niced = sum(after.niced[number] - before.niced.get(number, 0.0) for number in numbers)
    if seconds <= 0:
        return 0.0
    others = worked - (0.0 if with_niced else niced) - (after.own - before.own)
    return max(0.0, others / seconds)


def read_niceness() -> int:
    """Return this process's niceness; 0 where there is no such thing."""
    if sys.platform == "win32":
        return 0
    return os.getpriority(os.PRIO_PROCESS, 0)
