"""What the Hub's client remembers of the files of a commit, in `trees/<commit>.json` of a cached repository.

Only of commits that were downloaded as a whole; the format is huggingface_hub's own (its `_tree_cache.py`, version 1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmrun.reading import read_within

_MAX_BYTES = 16 << 20  # of one listing: 100,000 files take this much, and no GGUF repository has 1,000
_VERSION = 1


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file of a commit as the Hub told it; bytes."""

    name: str
    size: int
    sha256: str


def read_tree(repo_folder: Path, commit: str) -> Mapping[str, TreeFile]:
    """Return the large files of a commit by their names; nothing where nothing is remembered, or not legibly."""
    content = read_within(repo_folder / "trees" / f"{commit}.json", _MAX_BYTES)
    return {file.name: file for file in parse_tree(content)} if content else {}


def parse_tree(content: bytes) -> tuple[TreeFile, ...]:
    """Return the large files of a listing; what is none, or not of a form that is known, is left out."""
    try:
        listing = json.loads(content)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(listing, dict) or listing.get("format_version") != _VERSION:
        return ()
    files = listing.get("files")
    found = (_parse_file(name, entry) for name, entry in files.items()) if isinstance(files, dict) else ()
    return tuple(filter(None, found))


def _parse_file(name: str, entry: object) -> TreeFile | None:
    if not isinstance(entry, dict):
        return None
    sha256, size = entry.get("lfs_sha256"), entry.get("lfs_size")
    if not isinstance(sha256, str) or not isinstance(size, int) or size < 0:
        return None
    return TreeFile(name, size, sha256)
