"""Windows' display adapters, from the registry."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping

from llmrun.hardware.gpu import VENDORS, Gpu, clean_name

# GUID_DEVCLASS_DISPLAY; each subkey of four digits is an adapter
_CLASS = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"


def read_display_class() -> list[dict[str, object]]:
    """Return the registry's values of each adapter; nothing on another system."""
    found: list[dict[str, object]] = []
    if sys.platform == "win32":
        import winreg

        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _CLASS) as folder:
            for index in range(winreg.QueryInfoKey(folder)[0]):
                name = winreg.EnumKey(folder, index)
                if name.isdigit():
                    with winreg.OpenKey(folder, name) as adapter:
                        count = winreg.QueryInfoKey(adapter)[1]
                        values = (winreg.EnumValue(adapter, number) for number in range(count))
                        found.append({key: value for key, value, _ in values})
    return found


def parse_display_class(adapters: Iterable[Mapping[str, object]]) -> tuple[Gpu, ...]:
    """Understand the registry's values; an adapter that is there twice under one device is one."""
    found: dict[str, Gpu] = {}
    for values in adapters:
        matching = str(values.get("MatchingDeviceId", ""))
        number = re.search(r"ven_([0-9a-f]{4})", matching, re.IGNORECASE)
        vendor = VENDORS.get(int(number[1], 16), "other") if number else "other"
        name = clean_name(str(values.get("DriverDesc", "")))
        size = values.get("HardwareInformation.qwMemorySize")
        # what Intel's graphics in the processor call their memory is a share of the host's
        unified = vendor == "intel" and "Arc" not in name
        total = size if isinstance(size, int) and size > 0 and not unified else None
        if name:
            found.setdefault(f"{matching} {name}", Gpu(vendor, name, None, total, None, unified))
    return tuple(found.values())
