"""The disk that files are fetched onto: whether there is room, and what it says when it takes no more."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from llmrun.errors import DiskFullError, HubError
from llmrun.units import format_bytes

_ELSEWHERE = "set HF_HUB_CACHE to a folder on another disk"
_FULL = {errno.ENOSPC, errno.EDQUOT}


def check_room(needed: int, folder: Path) -> None:
    """Raise DiskFullError where so many bytes do not go into a folder, which need not be there yet."""
    there = _nearest(folder)
    free = shutil.disk_usage(there).free
    if needed > free:
        raise DiskFullError(
            f"{format_bytes(needed)} are to be fetched, and {format_bytes(free)} are free on the disk of {there}",
            f"make room (`llmrun list` shows what can go), or {_ELSEWHERE}",
        )


def is_same_disk(path: Path, other: Path) -> bool:
    """Return whether two files lie, or will lie, on one disk."""
    return _nearest(path).stat().st_dev == _nearest(other).stat().st_dev


def _nearest(path: Path) -> Path:
    """Return what is there of a path: itself, or the nearest folder above."""
    return next(found for found in (path, *path.absolute().parents) if found.exists())


@contextlib.contextmanager
def disk_errors(folder: Path, length: int = 0, size: int = 0) -> Iterator[None]:
    """Raise what the system says of files as errors of ours; length, size: bytes that are there, and that are to be."""
    try:
        yield
    except OSError as error:
        raise _explained(error, folder, length, size) from error


def _explained(error: OSError, folder: Path, length: int, size: int) -> HubError:
    lacking = format_bytes(size - length)
    if error.errno == errno.EFBIG:  # FAT has 4 GiB to a file
        message = f"no file in {folder} may be larger than {format_bytes(length)}: {lacking} are lacking"
        return DiskFullError(message, _ELSEWHERE)
    if error.errno in _FULL:
        kept = f"make room and type the same again: the {format_bytes(length)} that came are kept"
        return DiskFullError(f"the disk of {folder} is full: {lacking} are lacking of {format_bytes(size)}", kept)
    path = error.filename if error.filename is not None else folder
    return HubError(f"{path} cannot be used: {(error.strerror or str(error)).lower()}", _ELSEWHERE)
