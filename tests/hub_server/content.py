"""What a file on the fake Hub has in it: bytes, a file of this machine, or a head with nothing but zeros behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PIECE = 1 << 18  # bytes


@dataclass(frozen=True)
class Content:
    """Bytes that are made when they are asked for: the pieces of `head`, or what is in `file`, and zeros behind.

    stand_in: a checksum for what is never fetched whole, so that 140 GB of zeros need not be added up.
    """

    head: tuple[bytes, ...]
    size: int
    file: Path | None = None
    stand_in: str | None = None

    @cached_property
    def sha256(self) -> str:
        """The checksum the Hub gives."""
        if self.stand_in is not None:
            return self.stand_in
        total = hashlib.sha256()
        for piece in self.pieces(0, self.size):
            total.update(piece)
        return total.hexdigest()

    @cached_property
    def git_oid(self) -> str:
        """What git calls a file with these bytes, which are few."""
        return hashlib.sha1(b"blob %d\0" % self.size + b"".join(self.pieces(0, self.size))).hexdigest()

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from start to before end."""
        if self.file is not None:
            yield from _read(self.file, start, end)
            return
        for part in self.head:
            yield from _cut(part, max(start, 0), min(end, len(part)))
            start, end = start - len(part), end - len(part)
        for begin in range(max(start, 0), end, PIECE):
            yield bytes(min(PIECE, end - begin))


def _cut(data: bytes, start: int, end: int) -> Iterator[bytes]:
    for begin in range(start, end, PIECE):
        yield data[begin : min(begin + PIECE, end)]


def _read(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as opened:
        opened.seek(start)
        for begin in range(start, end, PIECE):
            yield opened.read(min(PIECE, end - begin))


def as_content(given: bytes | Path | Content) -> Content:
    """Return what was given as content."""
    if isinstance(given, bytes):
        return of_bytes(given)
    return of_file(given) if isinstance(given, Path) else given


def of_bytes(data: bytes) -> Content:
    """These bytes."""
    return Content((data,), len(data))


def of_file(path: Path) -> Content:
    """What is in a file of this machine."""
    return Content((), path.stat().st_size, file=path)


def sparse(head: bytes | tuple[bytes, ...], size: int, *, stand_in: bool = False) -> Content:
    """A head, in one piece or several, with zeros behind it; `size` is of both.

    stand_in: give it a checksum that is wrong, and costs nothing.
    """
    parts = (head,) if isinstance(head, bytes) else head
    told = hashlib.sha256(parts[0] + parts[-1] + b"%d" % size).hexdigest() if stand_in else None
    return Content(parts, size, stand_in=told)
