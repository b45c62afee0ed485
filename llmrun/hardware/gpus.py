"""Every GPU of this machine, whoever made it and whether or not the engine can use it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llmrun.hardware.amd import fill_from_rocm_smi, parse_amd, parse_kfd, parse_rocm_smi, read_kfd, read_rocm_smi
from llmrun.hardware.apple import parse_system_profiler, read_system_profiler
from llmrun.hardware.gpu import VENDORS, Gpu, GpuReport
from llmrun.hardware.intel import parse_intel
from llmrun.hardware.nvidia import NvidiaAnswer, read_nvidia
from llmrun.hardware.pci import PciDisplay, parse_pci, parse_pci_names, read_pci, read_pci_names
from llmrun.hardware.windows_gpus import parse_display_class, read_display_class


def read_gpus(
    root: Path = Path("/"), system: str = sys.platform, ask_nvidia: Callable[[Path], NvidiaAnswer] = read_nvidia
) -> GpuReport:
    """Look at the bus and ask the vendors' tools; never raises because something is not there.

    root: where Linux's file systems begin. system: as sys.platform calls it. ask_nvidia: asks NVIDIA's driver.
    """
    if system == "darwin":
        gpus = parse_system_profiler(read_system_profiler())
        return GpuReport(gpus, notes=() if gpus else ("system_profiler told of no GPU",))
    nvidia = ask_nvidia(root)
    if system == "win32":
        return merge_nvidia(parse_display_class(read_display_class()), nvidia)
    displays = parse_pci(read_pci(root))
    gpus = name_displays(displays, read_pci_names(root) if displays else "", parse_kfd(read_kfd(root)))
    if any(gpu.vendor == "amd" and gpu.total is None and not gpu.unified for gpu in gpus):
        gpus = fill_from_rocm_smi(gpus, parse_rocm_smi(read_rocm_smi()))
    report = merge_nvidia(gpus, nvidia)
    if displays or report.gpus:
        return report
    there = (root / "sys/bus/pci/devices").is_dir()
    return report if there else replace(report, notes=(*report.notes, "the PCI bus cannot be seen"))


def name_displays(displays: Sequence[PciDisplay], table: str, targets: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Make GPUs of what is on the bus; table is the text of pci.ids, targets those of AMD's compute driver."""
    names = parse_pci_names(table, {(display.vendor, display.device) for display in displays})
    return tuple(_gpu(display, names.get((display.vendor, display.device)), targets) for display in displays)


def _gpu(display: PciDisplay, name: str | None, targets: Mapping[str, str]) -> Gpu:
    vendor = VENDORS.get(display.vendor, "other")
    if vendor == "amd":
        return parse_amd(display, targets, name)
    if vendor == "intel":
        return parse_intel(display, name)
    known = {"nvidia": "NVIDIA GPU", "apple": "Apple GPU"}.get(vendor, "display adapter")
    numbers = f"{display.vendor:04x}:{display.device:04x}"
    return Gpu(vendor, name or f"{known} {numbers}", display.address, driver=display.driver)


def merge_nvidia(gpus: Sequence[Gpu], answer: NvidiaAnswer) -> GpuReport:
    """Put what NVIDIA's driver says in the place of what the bus says; by address, or all where that is not known."""
    told = {gpu.pci: gpu for gpu in answer.gpus}
    on_bus = {gpu.pci for gpu in gpus if gpu.pci}
    kept = [
        told.get(gpu.pci, gpu)
        for gpu in gpus
        # without addresses, as in Windows' registry, the driver's list stands for all of its own
        if gpu.pci or gpu.vendor != "nvidia" or not told
    ]
    others = [gpu for gpu in answer.gpus if gpu.pci not in on_bus]
    return GpuReport((*kept, *others), answer.driver)
