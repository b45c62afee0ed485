"""The key that a lender and those who may ask for its status share: a file on both machines, its owner's alone."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from llmrun.errors import UsageError
from llmrun.lending.status import SHORTEST_KEY

_MOST_BYTES = 1 << 16
_HOW = "(umask 077; openssl rand -hex 32 > FILE) makes one; copy it to the other machine"


def read_key(path: Path) -> bytes:
    """Return the key in a file: what is in it, without blanks and line ends around it.

    Raises UsageError where there is no file, others may read or write it, or it holds too little to be a secret.
    """
    try:
        with path.expanduser().open("rb") as file:
            _check_private(os.fstat(file.fileno()), path)
            key = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"the key in {path} cannot be read: {error.strerror}", _HOW) from error
    if len(key) > _MOST_BYTES:
        raise UsageError(f"{path} is too large for a key", _HOW)
    key = key.strip()
    if len(key) < SHORTEST_KEY:
        raise UsageError(f"the key in {path} has {len(key)} bytes: fewer than {SHORTEST_KEY} can be guessed", _HOW)
    return key


def _check_private(status: os.stat_result, path: Path) -> None:
    """Refuse a file that others may read or write; on Windows modes say nothing of that."""
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} holds no key: it is not a regular file", _HOW)
    if sys.platform != "win32" and status.st_mode & 0o077:
        raise UsageError(
            f"{path} holds a key, and others can get at it (mode {status.st_mode & 0o777:o})", f"chmod 600 {path}"
        )
