"""Intel's GPUs, from sysfs: the one in the processor sits at a fixed place on the bus, any other is a card."""

from __future__ import annotations

from llmrun.hardware.gpu import Gpu, parse_number
from llmrun.hardware.pci import PciDisplay

_INTEGRATED = "0000:00:02.0"  # where every Intel processor with graphics has had them since 2010


def parse_intel(display: PciDisplay, name: str | None) -> Gpu:
    """Understand the files of an Intel GPU; name is that of its PCI number. Nobody tells how much is free."""
    unified = display.address == _INTEGRATED
    sizes = (parse_number(display.files.get(key)) for key in ("lmem_total_bytes", "prelim_lmem_total_bytes"))
    total = None if unified else next((size for size in sizes if size), None)
    return Gpu(
        "intel",
        name or f"Intel GPU {display.device:#06x}",
        display.address,
        total,
        None,
        unified,
        display.driver,
    )
