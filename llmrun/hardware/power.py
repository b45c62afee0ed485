"""Whether this machine runs on its battery."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

_FILES = ("type", "scope", "online", "status")


def read_on_battery(root: Path = Path("/")) -> bool | None:
    """Return whether the machine runs on battery; None where nobody can tell. root: where Linux begins."""
    if sys.platform == "linux":
        return parse_power_supplies(read_power_supplies(root))
    import psutil

    if not hasattr(psutil, "sensors_battery"):  # not on every system
        return None
    battery = psutil.sensors_battery()
    return None if battery is None or battery.power_plugged is None else not battery.power_plugged


def read_power_supplies(root: Path = Path("/")) -> tuple[Mapping[str, str], ...]:
    """Return the files of each of Linux's power supplies, by name."""
    supplies = []
    for folder in sorted(root.glob("sys/class/power_supply/*")):
        files = {}
        for name in _FILES:
            try:
                files[name] = (folder / name).read_text("utf-8", "replace").strip()
            except OSError:  # each driver has some of them; and a battery may be taken out
                continue
        supplies.append(files)
    return tuple(supplies)


def parse_power_supplies(supplies: Iterable[Mapping[str, str]]) -> bool | None:
    """Judge the power supplies: False where one feeds the machine, True where only a battery does.

    None where there is neither: a virtual machine, most desktops. A mouse has a battery too, and says so by its scope.
    """
    own = [supply for supply in supplies if supply.get("scope") != "Device"]
    feeds = [supply.get("online") for supply in own if supply.get("type") in ("Mains", "USB", "Wireless")]
    batteries = [supply.get("status") for supply in own if supply.get("type") == "Battery"]
    if any(online not in (None, "0") for online in feeds) or {"Charging", "Full", "Not charging"} & set(batteries):
        return False
    return True if "Discharging" in batteries else None
