"""How fast a file's storage is read, past what memory holds of the file: what a model larger than RAM runs at."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

_MIB = 1 << 20
_PIECE = 4 * _MIB  # several requests of the kernel's at once, and a multiple of every disk's block
_STRETCHES = 4  # spread over the file, since a part of it may lie elsewhere
_PIECES = 4  # of each stretch: 64 MiB in all
_SECONDS = 0.5
_SMALLEST = 16 * _MIB  # a smaller file is read before the time it takes means something


def read_disk_speed(path: Path) -> int | None:
    """Return the bytes a second at which this file's storage is read in long pieces; takes some 0.5 s at most.

    None where it cannot be told: a file under 16 MiB, one that is not there, a system or file system where a program
    cannot read past the page cache. Holes of a sparse file count as read. What llama.cpp reaches through mmap depends
    on the system's read-ahead: touching each page gave 1.3 to 2 GB/s where this gives 1, with 8 MiB of read-ahead, and
    0.14 with none (2026-11, a virtual disk on ext4).
    """
    flag = getattr(os, "O_DIRECT", None)  # Linux and the BSDs; Windows and macOS have other ways, which we cannot test
    if flag is None:
        return None
    try:
        file = os.open(path, os.O_RDONLY | flag)
    except OSError:
        return None
    try:
        return _time_reading(file, os.fstat(file).st_size)
    except OSError:  # refused only when it comes to reading
        return None
    finally:
        os.close(file)


def plan_pieces(size: int) -> tuple[int, ...]:
    """Return where to read pieces of 4 MiB in a file of so many bytes, none twice; nothing where it is too small."""
    if size < _SMALLEST:
        return ()
    last_start = size // _PIECE - _PIECES
    starts = (last_start * stretch // (_STRETCHES - 1) for stretch in range(_STRETCHES))
    numbers = {start + n for start in starts for n in range(_PIECES)}
    return tuple(number * _PIECE for number in sorted(numbers))


def _time_reading(file: int, size: int) -> int | None:
    done, start = 0, time.perf_counter()
    elapsed = 0.0
    for count in _read_pieces(file, plan_pieces(size)):
        done, elapsed = done + count, time.perf_counter() - start
        if elapsed > _SECONDS:
            break
    return int(done / elapsed) if done and elapsed > 0 else None


def _read_pieces(file: int, offsets: tuple[int, ...]) -> Iterator[int]:
    """Read the pieces into memory that begins at a page, as direct reading asks for; yield how much each gave."""
    with mmap.mmap(-1, _PIECE) as room:
        for offset in offsets:
            yield os.preadv(file, [room], offset)
