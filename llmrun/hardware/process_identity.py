"""Which process a process id means: the number is given again when its process is gone."""

from __future__ import annotations

import sys
from pathlib import Path


def parse_stat(text: str) -> tuple[str, int]:
    """Understand /proc/PID/stat: the state, and when the process started, in ticks since the system did.

    Fields 3 and 22 of proc_pid_stat(5); the name before them may hold blanks and brackets. Raises ValueError.
    """
    fields = text.rpartition(")")[2].split()
    if len(fields) < 20:
        raise ValueError("not /proc/PID/stat")
    return fields[0], int(fields[19])


def read_identity(pid: int) -> str | None:
    """Return what tells a process from all others that had or will have its id; None where it is gone.

    On Linux the time of its start since that of the system, which no change of the clock moves.
    """
    if sys.platform == "linux":
        try:
            state, ticks = parse_stat(Path(f"/proc/{pid}/stat").read_text())
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except (OSError, ValueError):
            return None
        return None if state in "ZX" else f"{boot}/{ticks}"
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except psutil.Error:
        return None
