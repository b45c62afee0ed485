"""A folder of files with states of models in them: one user's alone, bounded, what was used longest ago goes first.

Knows files, their sizes and their ages; must not know what the states are of, nor what is in them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.private import enter_private, make_private, open_private

# Files of a kind together: at most MOST_BYTES (2 GiB hold four conversations of 4,000 tokens with a 0.6B model at f16),
# and no more than this part of what would be free on the disk without them.
MOST_BYTES = 2 << 30
MOST_OF_DISK = 1 / 20

HEADER_BYTES = 4096  # a page, in which a file says what it is
_PART_SUFFIX = ".part"
_ABANDONED_SECONDS = 3600.0  # a file that was begun so long ago, and never finished, is nobody's


def allowance(free: int, held: int, most: int = MOST_BYTES, of_disk: float = MOST_OF_DISK) -> int:
    """Return how many bytes all states may take, where so many are free on the disk and are held by states."""
    return min(most, int((free + held) * of_disk))


def choose_victims(sizes: Mapping[str, int], by_age: Sequence[str], most: int) -> list[str]:
    """Return which states must go so that the rest takes at most so many bytes: the first of `by_age`, oldest first."""
    held = sum(sizes.values())
    victims = []
    for name in by_age:
        if held <= most:
            break
        victims.append(name)
        held -= sizes[name]
    return victims


@dataclass(frozen=True, slots=True)
class StateFolder:
    """A folder with files of one kind. suffix: theirs; most, of_disk: see `allowance`."""

    path: Path
    suffix: str
    most: int = MOST_BYTES
    of_disk: float = MOST_OF_DISK

    def enter(self, *, make: bool = False) -> bool:
        """Return whether the folder is there, and its owner's alone, who is this user."""
        return enter_private(self.path, make=make)

    def file(self, stem: str) -> Path:
        """Where a file of this name lies; stem: letters and digits of ours, so that no name anybody gave is a path."""
        return self.path / f"{stem}{self.suffix}"

    def begin(self, stem: str) -> Path | None:
        """Make the empty file that the worker fills: new, the user's alone, and nobody's link; None where it cannot."""
        part = self.path / f"{stem}-{secrets.token_hex(8)}{_PART_SUFFIX}"
        try:
            os.close(make_private(part))
        except OSError:
            return None
        return part

    def finish(self, part: Path, begin: bytes, path: Path) -> None:
        """Write what a file begins with, and let it be the whole one of this path; raises OSError."""
        with part.open("r+b") as file:
            file.write(begin)
        part.replace(path)

    def read(self, path: Path, n_bytes: int) -> tuple[bytes, int] | None:
        """Return what a file begins with, and its size; None where it is none that we made."""
        descriptor = open_private(path)
        if descriptor is None:
            return None
        try:
            with os.fdopen(descriptor, "rb") as file:
                return file.read(n_bytes), os.fstat(file.fileno()).st_size
        except OSError:
            return None

    def use(self, path: Path) -> None:
        """Remember that a file was used now: others go first."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def room(self) -> int:
        """Return how many bytes all files together may take, as the disk is now."""
        return allowance(shutil.disk_usage(self.path).free, sum(self.sizes().values()), self.most, self.of_disk)

    def evict(self, most: int) -> None:
        """Remove what was used longest ago, until so many bytes are left, and parts that nobody finishes any more."""
        sizes = self.sizes()
        for name in choose_victims(sizes, list(sizes), most):
            self.remove(self.path / name)
        for part in self.path.glob(f"*{_PART_SUFFIX}"):
            with contextlib.suppress(OSError):
                if time.time() - part.lstat().st_mtime > _ABANDONED_SECONDS:
                    part.unlink()

    def sizes(self) -> dict[str, int]:
        """Return the files' sizes by name, the one that was used longest ago first."""
        return {name: size for _, name, size in sorted(self._seen())}

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there and can be."""
        with contextlib.suppress(OSError):
            path.unlink()

    def clear(self) -> tuple[int, int]:
        """Remove all files; return how many, and how many bytes they took."""
        if not self.enter():
            return 0, 0
        sizes = self.sizes()
        for name in sizes:
            self.remove(self.path / name)
        left = self.sizes()
        return len(sizes) - len(left), sum(sizes.values()) - sum(left.values())

    def held(self) -> int:
        """Return how many bytes the files take."""
        return sum(self.sizes().values()) if self.enter() else 0

    def _seen(self) -> Iterator[tuple[int, str, int]]:
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.endswith(self.suffix):
                    with contextlib.suppress(OSError):  # another process removed it
                        found = entry.stat(follow_symlinks=False)
                        yield found.st_mtime_ns, entry.name, found.st_size
