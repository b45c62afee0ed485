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
    """Bytes that are made when they are asked for. file: where they are, in place of `head`.

    stand_in: a checksum for what is never fetched whole, so that 140 GB of zeros need not be added up.
    """

    head: bytes
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
            with self.file.open("rb") as opened:
                opened.seek(start)
                while start < end and (piece := opened.read(min(PIECE, end - start))):
                    start += len(piece)
                    yield piece
            return
        while start < end:
            stop = min(start + PIECE, end)
            piece = self.head[start:stop]
            yield piece + bytes(stop - start - len(piece))
            start = stop


def text(words: str) -> Content:
    """A small file."""
    data = words.encode()
    return Content(data, len(data))


def of_bytes(data: bytes) -> Content:
    """These bytes."""
    return Content(data, len(data))


def of_file(path: Path) -> Content:
    """What is in a file of this machine."""
    return Content(b"", path.stat().st_size, file=path)


def sparse(head: bytes, size: int, *, stand_in: bool = False) -> Content:
    """A head with zeros behind it. stand_in: give it a checksum that is wrong, and costs nothing."""
    told = hashlib.sha256(head + str(size).encode()).hexdigest() if stand_in else None
    return Content(head, size, stand_in=told)
