"""Paths of files in a repository, written by strangers: which of them may become a path on this machine. Pure."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# What Windows reads as another place, or cannot write: C:x, file:stream, \\server, and the devices of DOS
_FOREIGN = re.compile(r'[\\:<>"|?*]')
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


def why_unsafe(path: str) -> str | None:
    """Return why a path must not be written to on this machine, in words that follow its name; None where it may."""
    if _CONTROL.search(path):
        return "has control characters in its name"
    if path.startswith("/"):
        return "is an absolute path"
    parts = path.split("/")
    if ".." in parts:
        return "leads out of its repository"
    if _FOREIGN.search(path):
        return "has a character in its name that Windows takes for another place"
    if any(part in ("", ".") or part[-1] in ". " or _DEVICE.fullmatch(part) for part in parts):
        return "has a name that is none on some systems"
    return None
