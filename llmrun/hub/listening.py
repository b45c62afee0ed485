"""Who is told how fetching goes. Light to import: it is there whether or not anything is fetched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmrun.variant import ModelFile


def _nothing(*_: object) -> None: ...


@dataclass(frozen=True, slots=True)
class FetchListener:
    """Who is told how it goes with each file.

    started: with the bytes that are here already. waiting: another process has it, and so many bytes. checking: bytes
    added up, of those that are here. progress: bytes that are here. retrying: what went wrong, seconds until the next
    try. restarting: why everything is fetched anew. slow: a host that takes long to answer. done: where the file is,
    and whether its bytes were added up to a checksum.
    Of a file that was here nothing is told.
    """

    started: Callable[[ModelFile, int], None] = _nothing
    waiting: Callable[[ModelFile, int], None] = _nothing
    checking: Callable[[ModelFile, int, int], None] = _nothing
    progress: Callable[[ModelFile, int], None] = _nothing
    retrying: Callable[[ModelFile, str, float], None] = _nothing
    restarting: Callable[[ModelFile, str], None] = _nothing
    slow: Callable[[str], None] = _nothing
    done: Callable[[ModelFile, Path, bool], None] = _nothing
