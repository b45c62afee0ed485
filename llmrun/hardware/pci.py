"""What sits on the PCI bus and could compute or show pictures, from Linux's sysfs. Knows no vendor's tools."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmrun.hardware.gpu import parse_number

_DISPLAY = 0x03  # PCI Code and ID Assignment, class 03h: display controller
_ACCELERATOR = 0x12  # class 12h: processing accelerator, as AMD's Instincts call themselves
_AMD = 0x1002

_FILES = (
    *("class", "vendor", "device", "product_name"),
    *("mem_info_vram_total", "mem_info_vram_used", "mem_info_vram_vendor", "mem_info_gtt_total", "mem_info_gtt_used"),
)
_CARD_FILES = ("lmem_total_bytes", "prelim_lmem_total_bytes")  # of Intel's i915
_TABLES = ("usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids", "var/lib/pciutils/pci.ids")


@dataclass(frozen=True, slots=True)
class PciDisplay:
    """A display controller or accelerator; driver is the kernel's, files what its driver writes of it."""

    address: str
    vendor: int
    device: int
    driver: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)


def read_pci(root: Path = Path("/")) -> dict[str, dict[str, str]]:
    """Return the files of each device on the bus that is a display or an accelerator, by its address.

    The key "driver" is the name of the kernel's driver. Nothing where there is no such bus.
    """
    found: dict[str, dict[str, str]] = {}
    folder = root / "sys/bus/pci/devices"
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        kind = parse_number(_text(place / "class"))
        if kind is None or kind >> 16 not in (_DISPLAY, _ACCELERATOR):
            continue
        paths = [place / name for name in _FILES]
        paths += [path for name in _CARD_FILES for path in sorted(place.glob(f"drm/card*/{name}"))]
        texts = {path.name: text for path in paths if (text := _text(path)) is not None}
        with contextlib.suppress(OSError):
            texts["driver"] = (place / "driver").readlink().name
        found[place.name] = texts
    return found


def parse_pci(found: Mapping[str, Mapping[str, str]]) -> tuple[PciDisplay, ...]:
    """Understand the files of `read_pci`; an accelerator that is not AMD's is left out, since it is no GPU."""
    displays = []
    for address, files in found.items():
        kind, vendor, device = (parse_number(files.get(name)) for name in ("class", "vendor", "device"))
        if kind is None or vendor is None or device is None or (kind >> 16 == _ACCELERATOR and vendor != _AMD):
            continue
        displays.append(PciDisplay(address, vendor, device, files.get("driver"), files))
    return tuple(displays)


def read_pci_names(root: Path = Path("/")) -> str:
    """Return the table of PCI names, empty where none is installed."""
    return next((text for name in _TABLES if (text := _text(root / name)) is not None), "")


def parse_pci_names(table: str, wanted: Collection[tuple[int, int]]) -> dict[tuple[int, int], str]:
    """Look up devices, each a vendor and a device, in the text of pci.ids: "GA102 [GeForce RTX 3090]"."""
    names: dict[tuple[int, int], str] = {}
    vendors = {vendor for vendor, _ in wanted}
    vendor = -1
    for line in table.splitlines():
        if line[:1] not in "\t#" and line:
            vendor = _leading(line)
        elif vendor in vendors and line[:1] == "\t":  # a subsystem has two of them, and so no number of its own
            key = (vendor, _leading(line[1:]))
            if key in wanted:
                names[key] = line[6:].strip()
    return names


def _leading(line: str) -> int:
    """The four hexadecimal digits a line begins with; -1 where it does not, as in the table of classes."""
    try:
        return int(line[:4], 16) if line[4:5].isspace() else -1
    except ValueError:
        return -1


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None
