"""The system's small text files, which may be missing, forbidden or odd."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str:
    """Return a file's text, empty where there is none to be had."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
