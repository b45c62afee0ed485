"""A file in which the user keeps a secret: read only where nobody else can get at it."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from llmrun.errors import UsageError

_MOST_BYTES = 1 << 20  # a key has a few dozen


def read_secret(path: Path, what: str, how: str) -> bytes:
    """Return what is in a file; what: is said to be in it ("API keys"), how: such a file is made.

    Raises UsageError where there is no such file, it is none, others may read or write it, or it is too large.
    """
    try:
        with path.open("rb") as file:
            _check_private(os.fstat(file.fileno()), path, what, how)
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}, which should hold {what}, cannot be read: {error.strerror}", how) from error
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{path} is too large to hold {what}", how)
    return data


def _check_private(status: os.stat_result, path: Path, what: str, how: str) -> None:
    """Refuse a file that others may read or write; on Windows modes say nothing of that."""
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} cannot hold {what}: it is not a regular file", how)
    if sys.platform != "win32" and status.st_mode & 0o077:
        mode = f"{status.st_mode & 0o777:o}"
        raise UsageError(f"{path} holds {what}, and others can get at it (mode {mode})", f"chmod 600 {path}")
