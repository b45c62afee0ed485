"""Folders and small files that any program may have written, read within limits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_MAX_DEPTH = 32  # of folders; those of published models have two


def walk(folder: Path, within: str = "") -> Iterator[tuple[Path, str]]:
    """Yield all files and links under a folder with their names from there, in order; no link is followed.

    A folder that is not there, or may not be read, has nothing in it.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        name = within + entry.name
        if not entry.is_dir(follow_symlinks=False):
            yield Path(entry.path), name
        elif name.count("/") < _MAX_DEPTH:
            yield from walk(Path(entry.path), f"{name}/")


def read_within(path: Path, limit: int) -> bytes | None:
    """Return what a file holds; None where it is not there, may not be read or has more bytes than the limit."""
    try:
        if not path.is_file():  # a pipe would be waited on for ever
            return None
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError:
        return None
    return content if len(content) <= limit else None


def size_of(path: Path) -> int | None:
    """Return the bytes of a file, where links lead; None where it is not there or no file."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def used_at(paths: Iterable[Path]) -> float | None:
    """Return when one of some files was read or written last, seconds since 1970; None where none is there.

    As far as the file system keeps that: most tell reading to the day.
    """
    times = []
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat()
            times += [status.st_atime, status.st_mtime]
    return max(times, default=None)
