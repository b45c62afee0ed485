"""What the bytes of a file must add up to, and the sum of those that came.

Knows nothing of files, or of where bytes come from.
"""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

_BATCH = 1 << 20  # bytes handed over at once: hashlib lets go of the interpreter while it adds them
_AHEAD = 4  # batches that may wait, so that a slow processor slows the transfer and memory stays small


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a file must add up to: sha256 for large files, git's sha1 of a blob for small ones; value in hexadecimal."""

    kind: Literal["sha256", "git"]
    value: str


def parse_checksum(text: str) -> Checksum | None:
    """Return what an entity tag of the Hub stands for, None where it is neither a sha256 nor the sha1 of a blob."""
    if re.fullmatch("[0-9a-f]{64}", text):
        return Checksum("sha256", text)
    return Checksum("git", text) if re.fullmatch("[0-9a-f]{40}", text) else None


class RunningSum:
    """The sum of bytes that come one after another, added in a thread of its own while the next ones come.

    checksum: what it is compared with; None is nothing, and then nothing is added. size: bytes of the whole file.
    """

    def __init__(self, checksum: Checksum | None, size: int) -> None:
        self._checksum = checksum
        # git puts a header of its own before what it adds up: gitformat-loose(5)
        self._sum = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if _is_git(checksum) else hashlib.sha256()
        self._adder = ThreadPoolExecutor(1, "checksum")
        self._ahead: list[Future[None]] = []
        self._batch = bytearray()

    def add(self, piece: bytes | memoryview) -> None:
        """Add bytes, soon; the piece may change afterwards."""
        if self._checksum is None:
            return
        self._batch += piece
        if len(self._batch) >= _BATCH:
            self._hand_over()

    def matches(self) -> bool:
        """Return whether the bytes are the file's, once all were added; true where nobody said what they should be."""
        if self._checksum is None:
            return True
        self._hand_over()
        for added in self._ahead:
            added.result()
        self._ahead.clear()
        return self._sum.hexdigest() == self._checksum.value

    def close(self) -> None:
        """End the thread."""
        self._adder.shutdown(cancel_futures=True)

    def _hand_over(self) -> None:
        if len(self._ahead) == _AHEAD:
            self._ahead.pop(0).result()
        self._ahead.append(self._adder.submit(self._sum.update, self._batch))
        self._batch = bytearray()


def _is_git(checksum: Checksum | None) -> bool:
    return checksum is not None and checksum.kind == "git"
