"""Linux control groups with a limit on memory, made for one command and taken away again."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmrun.hardware.cgroup import find_folders, parse_membership, parse_mounts

_EMPTY_WITHIN = 10.0  # seconds the kernel may take to notice that killed processes are gone


class NoGroupError(Exception):
    """No control group for memory can be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A control group's folder, of version 1 or 2."""

    folder: Path

    @property
    def is_v1(self) -> bool:
        """Whether it is one of version 1."""
        return (self.folder / "memory.limit_in_bytes").exists()

    def limit(self, size: int) -> None:
        """Let the group's processes have so many bytes together."""
        (self.folder / ("memory.limit_in_bytes" if self.is_v1 else "memory.max")).write_text(str(size))

    def peak(self) -> int | None:
        """The most bytes they had at once, page cache included; None where the kernel does not count it."""
        try:
            return int((self.folder / ("memory.max_usage_in_bytes" if self.is_v1 else "memory.peak")).read_text())
        except OSError:
            return None

    def kills(self) -> int:
        """How many of its processes the kernel killed for want of memory."""
        text = (self.folder / ("memory.oom_control" if self.is_v1 else "memory.events")).read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))

    def processes(self) -> list[int]:
        """The processes in it."""
        return [int(word) for word in (self.folder / "cgroup.procs").read_text().split()]

    def command(self, *command: str) -> list[str]:
        """The command that goes into the group before it becomes this one."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.folder), *command]

    def remove(self) -> None:
        """End what is left in it, and take it away."""
        end = time.monotonic() + _EMPTY_WITHIN
        while pids := self.processes():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > end:
                break
            time.sleep(0.01)
        self.folder.rmdir()


@contextlib.contextmanager
def memory_group(size: int) -> Iterator[MemoryGroup]:
    """Make a group that may have so many bytes; raises NoGroupError."""
    group = MemoryGroup(_make_folder())
    try:
        group.limit(size)
        yield group
    finally:
        group.remove()


def _make_folder() -> Path:
    """Make it below this process's own group in version 1, or at the top in version 2."""
    if sys.platform != "linux":
        raise NoGroupError("control groups are Linux's")
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text())
    found = find_folders(parse_membership(Path("/proc/self/cgroup").read_text()), mounts, "memory")
    places = [Path(each.path) for each in found]
    v1 = [place for place in places if (place / "memory.limit_in_bytes").exists()]
    v2 = [place for place in places if "memory" in _words(place / "cgroup.subtree_control")]
    if not v1 and not v2:
        raise NoGroupError("there is no control group for memory here")
    folder = (v1 or v2)[0] / f"llmrun-pressure-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        raise NoGroupError(f"no control group can be made here: {error.strerror}") from error
    return folder


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
