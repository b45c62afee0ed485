"""What loads really took of each pool beside what was planned, remembered in a file of this user's.

Knows where; must not know what follows. Lines that are none are left out: losing them costs a few MiB of caution.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmrun.folders import margins_file
from llmrun.hardware.device import Device
from llmrun.planning.margins import N_SEEN, Margin

HOST = "host"
_MAX_LINES = 400  # of about 90 bytes; the oldest go first


def pool_name(device: Device) -> str:
    """Return what a device is remembered by: a card by its name and size, wherever it is put."""
    return f"{device.backend} {device.name} {device.total}"


def read_margins(path: Path | None = None) -> dict[str, tuple[Margin, ...]]:
    """Return what was seen of each pool, the oldest first."""
    try:
        lines = (path or margins_file()).read_bytes().splitlines()
    except OSError:
        return {}
    found: dict[str, list[Margin]] = {}
    for name, margin in filter(None, map(_parse, lines)):
        found.setdefault(name, []).append(margin)
    return {name: tuple(margins[-N_SEEN:]) for name, margins in found.items()}


def _parse(line: bytes) -> tuple[str, Margin] | None:
    try:
        found = json.loads(line)
        name, planned, actual = found["pool"], found["planned"], found["actual"]
    except (ValueError, TypeError, KeyError):
        return None
    sizes_are_sizes = type(planned) is int and type(actual) is int and planned >= 0 and actual >= 0
    return (name, Margin(planned, actual)) if isinstance(name, str) and sizes_are_sizes else None


def remember_margins(seen: Mapping[str, Margin], path: Path | None = None) -> None:
    """Keep what a load took; what cannot be written is no failure."""
    file = path or margins_file()
    lines = [
        json.dumps({"pool": name, "planned": margin.planned, "actual": margin.actual}) for name, margin in seen.items()
    ]
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = _last_lines(file)
        part = file.with_suffix(".part")
        part.write_text("\n".join([*kept, *lines][-_MAX_LINES:]) + "\n", "utf-8")
        part.replace(file)


def _last_lines(file: Path) -> Sequence[str]:
    try:
        return file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
