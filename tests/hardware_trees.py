"""Machines as files: what /proc and /sys of one say, kept in one text each and planted where a test wants them.

hybrid.txt is as captured but for the names of groups, and so are vm_stat's and sysctl's outputs. The other trees are
written in the kernel's form, for the places that containers and managers of services put their groups.
"""

from __future__ import annotations

from pathlib import Path

GOLDEN = Path(__file__).parent / "golden" / "hardware" / "host"


def golden(name: str) -> str:
    return (GOLDEN / name).read_text("utf-8")


def plant(folder: Path, *names: str) -> Path:
    """Write the files of these machines below a folder, and return it: the root of a file system to read."""
    for name in names:
        for entry in golden(f"{name}.txt").split("==> ")[1:]:
            path, _, text = entry.partition("\n")
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, "utf-8")
    return folder
