"""Files and folders that are one user's alone: made so, and looked at before they are believed.

Where the system knows no owners as POSIX does, the folder's place in the user's own profile has to do.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

_READING = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_MAKING = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def enter_private(folder: Path, *, make: bool = False) -> bool:
    """Return whether a folder is there and only its owner's, who is this user; it is made so where it can be."""
    try:
        if make:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or not is_ours(found):
            return False
        if os.name == "posix" and stat.S_IMODE(found.st_mode) != 0o700:
            folder.chmod(0o700)
    except OSError:
        return False
    return True


def open_private(path: Path) -> int | None:
    """Return a descriptor to read a private file by, the caller's to close; None for a link, or a file that is not."""
    try:
        descriptor = os.open(path, _READING)
    except OSError:
        return None
    if is_private_file(os.fstat(descriptor)):
        return descriptor
    os.close(descriptor)
    return None


def make_private(path: Path) -> int:
    """Return a descriptor to write a new private file by, the caller's to close; raises OSError where one is there."""
    return os.open(path, _MAKING, 0o600)


def read_private(path: Path, limit: int) -> bytes | None:
    """Return what is in a private file; None where it is none, or holds more than so many bytes."""
    descriptor = open_private(path)
    if descriptor is None:
        return None
    try:
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(limit + 1)
    except OSError:
        return None
    return data if len(data) <= limit else None


def write_private(path: Path, data: bytes) -> None:
    """Write a private file, whole or not at all, in the place of what is there; raises OSError."""
    part = path.with_name(f"{path.name}-{secrets.token_hex(8)}.part")
    try:
        with os.fdopen(make_private(part), "wb") as file:
            file.write(data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def is_private_file(found: os.stat_result) -> bool:
    """Whether a file is a regular one of this user's, with one name, that nobody else may open."""
    is_private = os.name != "posix" or (stat.S_IMODE(found.st_mode) & 0o077 == 0 and found.st_nlink == 1)
    return stat.S_ISREG(found.st_mode) and is_ours(found) and is_private


def is_ours(found: os.stat_result) -> bool:
    """Whether a file or folder is this user's."""
    return os.name != "posix" or found.st_uid == os.geteuid()
