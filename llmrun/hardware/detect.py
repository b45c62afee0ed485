"""What this machine is: the host, what the engine sees, and what is there beside it. Sets nothing, prints nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llmrun.engine.protocol import DeviceInfo
from llmrun.hardware.device import UNIFIED_BACKENDS, Device
from llmrun.hardware.gpus import read_gpus
from llmrun.hardware.hardware import Hardware
from llmrun.hardware.host import detect_host


def detect(devices: Iterable[DeviceInfo], root: Path = Path("/")) -> Hardware:
    """Look at the machine; devices are what the engine told of (Engine.devices), root is where Linux begins."""
    host, report = detect_host(root), read_gpus(root)
    return Hardware(host, usable(devices), report.gpus, report.nvidia, (*host.notes, *report.notes))


def usable(devices: Iterable[DeviceInfo]) -> tuple[Device, ...]:
    """Return those of the engine's devices that layers can be given to, the CPU not among them."""
    return tuple(device_of(info) for info in devices if info.kind in ("GPU", "IGPU"))


def device_of(info: DeviceInfo) -> Device:
    """Return a device of the engine as the planner sees it."""
    unified = info.kind == "IGPU" or info.backend in UNIFIED_BACKENDS
    return Device(info.id, info.backend, info.description, info.total, info.free, unified)
