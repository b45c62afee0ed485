"""A Mac's GPUs, as system_profiler tells them."""

from __future__ import annotations

import json

from llmrun.errors import UsageError
from llmrun.hardware.gpu import Gpu, Vendor, clean_name
from llmrun.hardware.processes import ask_program
from llmrun.units import parse_bytes

_VENDORS: dict[str, Vendor] = {"apple": "apple", "amd": "amd", "intel": "intel", "nvidia": "nvidia"}


def read_system_profiler() -> str:
    """Return the Mac's displays as JSON; some tenths of a second."""
    return ask_program(["/usr/sbin/system_profiler", "-json", "SPDisplaysDataType"]).out


def parse_system_profiler(text: str) -> tuple[Gpu, ...]:
    """Understand system_profiler's JSON; nothing where it is no such JSON."""
    try:
        entries = json.loads(text)["SPDisplaysDataType"]
    except (ValueError, KeyError, TypeError):
        return ()
    rows = [entry for entry in entries if isinstance(entry, dict)]
    return tuple(_gpu({key: value for key, value in row.items() if isinstance(value, str)}) for row in rows)


def _gpu(row: dict[str, str]) -> Gpu:
    made_by = row.get("spdisplays_vendor", "").lower()
    vendor: Vendor = next((name for word, name in _VENDORS.items() if word in made_by), "other")
    own = _size(row.get("spdisplays_vram") or row.get("_spdisplays_vram"))
    # one without memory of its own says how much it shares (Intel), or nothing at all (Apple)
    unified = vendor == "apple" or "spdisplays_vram_shared" in row or row.get("sppci_bus") == "spdisplays_builtin"
    name = clean_name(row.get("sppci_model") or row.get("_name", "")) or "GPU"
    return Gpu(vendor, name, None, None if unified else own, None, unified)


def _size(text: str | None) -> int | None:
    """Return Apple's sizes as bytes: its "4 GB" of memory are 4 GiB."""
    try:
        return None if text is None else parse_bytes(text.replace("GB", "GiB").replace("MB", "MiB"))
    except UsageError:
        return None
