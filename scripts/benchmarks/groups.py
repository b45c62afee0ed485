"""Control groups with a limit on memory, made for one run: what happens in them is seen from outside."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.hardware.cgroup import find_folders, parse_membership, parse_mounts


class NoGroupError(Exception):
    """No control group for memory can be made here."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A run in a group: None is a run that was ended because it took too long. peak: bytes; kills: by the kernel."""

    code: int | None
    out: str
    err: str
    seconds: float
    peak: int
    kills: int


@dataclass(frozen=True, slots=True)
class LimitedGroup:
    """A group's folder, of version 1 or 2."""

    folder: Path

    @property
    def is_v1(self) -> bool:
        """Whether it is one of version 1."""
        return (self.folder / "memory.limit_in_bytes").exists()

    def limit(self, size: int) -> None:
        """Set the limit, bytes; no swap beside it."""
        (self.folder / ("memory.limit_in_bytes" if self.is_v1 else "memory.max")).write_text(str(size))
        with contextlib.suppress(OSError):
            (self.folder / "memory.swap.max").write_text("0")

    @property
    def peak(self) -> int:
        """The most bytes that were charged to it."""
        return int((self.folder / ("memory.max_usage_in_bytes" if self.is_v1 else "memory.peak")).read_text())

    @property
    def kills(self) -> int:
        """How many processes the kernel killed in it for want of memory."""
        text = (self.folder / ("memory.oom_control" if self.is_v1 else "memory.events")).read_text()
        counts = dict(line.split() for line in text.splitlines())
        return int(counts.get("oom_kill", 0))

    def run(self, command: Sequence[str], environment: Mapping[str, str], seconds: float) -> Ended:
        """Run a command in the group; all its processes are ended after so many seconds."""
        script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        started = time.monotonic()
        process = subprocess.Popen(
            ["sh", "-c", script, str(self.folder), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(environment),
            start_new_session=True,
        )
        code: int | None
        try:
            out, err = process.communicate(timeout=seconds)
            code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            (out, err), code = process.communicate(), None
        return Ended(code, out, err, time.monotonic() - started, self.peak, self.kills)


@contextlib.contextmanager
def limited_group(name: str, size: int) -> Iterator[LimitedGroup]:
    """Make a group with a limit, below this process's own in version 1, or at the top in version 2."""
    group = LimitedGroup(_parent() / f"llmrun-{os.getpid()}-{name}")
    try:
        group.folder.mkdir()
    except OSError as error:
        raise NoGroupError(f"no control group can be made here: {error.strerror}") from error
    try:
        group.limit(size)
        yield group
    finally:
        _remove(group.folder)


def _parent() -> Path:
    try:
        mounts = parse_mounts(Path("/proc/self/mountinfo").read_text())
        folders = find_folders(parse_membership(Path("/proc/self/cgroup").read_text()), mounts, "memory")
    except OSError as error:
        raise NoGroupError("control groups are Linux's") from error
    places = [Path(folder.path) for folder in folders]
    v1 = [place for place in places if (place / "memory.limit_in_bytes").exists()]
    v2 = [place for place in places if "memory" in _words(place / "cgroup.subtree_control")]
    if not v1 and not v2:
        raise NoGroupError("there is no control group for memory here")
    return (v1 or v2)[0]


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _remove(folder: Path) -> None:
    """Remove a group as soon as its last process is gone."""
    for _ in range(100):
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return
