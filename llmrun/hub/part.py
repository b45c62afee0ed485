"""The part of a file that has come so far: every byte stays, through a kill, a full disk or a lost connection.

Knows nothing of where bytes come from.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from llmrun.hub.checksum import Checksum, RunningSum
from llmrun.hub.disk import disk_errors

_READ = 1 << 20


def is_that_file(path: Path, size: int, checksum: Checksum | None, told: Callable[[int, int], None]) -> bool:
    """Return whether a file has these bytes; told: with the bytes added up and how many there are."""
    if path.stat().st_size != size:
        return False
    with closing(RunningSum(checksum, size)) as running, path.open("rb") as file:
        while piece := file.read(_READ):
            running.add(piece)
            told(file.tell(), size)
        return running.matches()


class Part:
    """A file that grows, its length, and the sum of what is in it; to be closed.

    size: bytes it will have. Opened for changing, not for appending: should a lock ever not hold, two processes write
    the same bytes to the same places.
    """

    def __init__(self, path: Path, size: int, checksum: Checksum | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.size = size
        self.length = 0
        self._checksum = checksum
        # unbuffered: what was written is there whatever becomes of this process
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b", 0)
        self._sum = RunningSum(checksum, size)

    def take_stock(self, told: Callable[[int, int], None]) -> None:
        """Add up what is there, up to the file's size; told: with the bytes added and how many there are."""
        there = min(self.size, os.fstat(self._file.fileno()).st_size)
        while piece := self._file.read(min(_READ, there - self.length)):
            self._sum.add(piece)
            self.length += len(piece)
            told(self.length, there)

    def begins_as(self, magic: bytes) -> bool:
        """Return whether its first bytes, as many as there are, are these."""
        self._file.seek(0)
        found = self._file.read(min(len(magic), self.length))
        self._file.seek(self.length)
        return magic.startswith(found)

    def append(self, piece: bytes) -> None:
        """Write what came; raises DiskFullError where it does not go in, and keeps what did."""
        rest = memoryview(piece)
        while rest:
            with disk_errors(self.path.parent, self.length, self.size):
                written = self._file.write(rest)
            self._sum.add(rest[:written])
            self.length += written
            rest = rest[written:]

    def restart(self) -> None:
        """Forget everything: the bytes are not those of the file."""
        self._sum.close()
        self._sum = RunningSum(self._checksum, self.size)
        self._file.seek(0)
        self._file.truncate()
        self.length = 0

    def is_right(self) -> bool:
        """Return whether it is the whole file, and add up to what it should; bytes beyond the end are cut off."""
        if self.length != self.size or not self._sum.matches():
            return False
        self._file.truncate(self.size)
        return True

    def sync(self) -> None:
        """Have the disk keep it, before it is given its name."""
        with disk_errors(self.path.parent, self.length, self.size):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, and leave it where it is."""
        self._sum.close()
        self._file.close()
