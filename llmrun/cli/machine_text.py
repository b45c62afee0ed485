"""A machine in one line: its memory, its threads, and the GPUs that the engine sees."""

from __future__ import annotations

from llmrun.console import one_line
from llmrun.hardware.device import Device
from llmrun.site import Site
from llmrun.units import format_bytes


def machine_line(site: Site) -> str:
    """Return the memory that is free, the threads, and the GPUs that the engine sees."""
    memory = site.memory
    ram = f"{format_bytes(memory.total)} RAM, {format_bytes(memory.available)} of it free"
    threads = "1 thread" if site.threads.decode == 1 else f"{site.threads.decode} threads"
    return f"{ram}; {threads}; {', '.join(map(_device, site.devices)) or 'no GPU in use'}"


def _device(device: Device) -> str:
    name = f"{device.id} ({one_line(device.name)})"
    if device.unified:
        return f"{name} sharing the RAM"
    return name if device.free is None else f"{name} with {format_bytes(device.free)} free"
