"""The key that a lender and those who may ask for its status share: a file on both machines, its owner's alone."""

from __future__ import annotations

from pathlib import Path

from llmrun.errors import UsageError
from llmrun.lending.status import SHORTEST_KEY
from llmrun.secret_file import read_secret

_HOW = "(umask 077; openssl rand -hex 32 > FILE) makes one; copy it to the other machine"


def read_key(path: Path) -> bytes:
    """Return the key in a file: what is in it, without blanks and line ends around it.

    Raises UsageError where there is no file, others may read or write it, or it holds too little to be a secret.
    """
    key = read_secret(path.expanduser(), "a key", _HOW).strip()
    if len(key) < SHORTEST_KEY:
        raise UsageError(f"the key in {path} has {len(key)} bytes: fewer than {SHORTEST_KEY} can be guessed", _HOW)
    return key
