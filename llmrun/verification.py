"""Whether the files of a model are as they should be: by their sha256 where somebody told it, else by their header.

Knows nothing of where files come from, and asks nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmrun.errors import LLMRunError
from llmrun.gguf.source import read_header
from llmrun.variant import ModelFile

# sound: the sum is the right one. plausible: none is known, but the header is one and the bytes it tells of are there
Outcome = Literal["sound", "plausible", "damaged"]
_PIECE = 4 << 20  # bytes read at a time: several times a second from the slowest disk


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one file; reason: what is wrong with it, None where nothing is."""

    file: ModelFile
    outcome: Outcome
    reason: str | None = None


def verify(file: ModelFile, on_read: Callable[[int], None]) -> Verdict:
    """Look at one file of this machine, all of it where its sha256 is known; on_read: gets the bytes read so far."""
    path = file.origin
    assert isinstance(path, Path), "it has to be fetched first"
    try:
        if file.sha256 is None:
            read_header(path)
            return Verdict(file, "plausible")
        found = _hash(path, on_read)
    except LLMRunError as error:
        return Verdict(file, "damaged", error.message)
    except OSError as error:
        return Verdict(file, "damaged", f"it cannot be read: {error.strerror}")
    if found == file.sha256:
        return Verdict(file, "sound")
    return Verdict(file, "damaged", f"its sha256 is {found}, and should be {file.sha256}")


def _hash(path: Path, on_read: Callable[[int], None]) -> str:
    """Return the sha256 of a file; while the next piece is asked for, nothing is copied."""
    digest = hashlib.sha256()
    piece = memoryview(bytearray(_PIECE))
    n_read = 0
    with path.open("rb", buffering=0) as file:
        while n := file.readinto(piece):
            digest.update(piece[:n])
            n_read += n
            on_read(n_read)
    return digest.hexdigest()
