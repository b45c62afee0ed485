"""A GPU of this machine, and the driver that runs it, as values: what the system knows, whatever the engine can use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Vendor = Literal["nvidia", "amd", "intel", "apple", "other"]

# PCI-SIG's numbers of those whose GPUs llama.cpp can compute on; any other is a server's or a virtual machine's screen.
VENDORS: dict[int, Vendor] = {0x10DE: "nvidia", 0x1002: "amd", 0x8086: "intel", 0x106B: "apple"}

# What hides a device from each backend; a list that may also be there for a good reason.
HIDING = {
    "CUDA": ("CUDA_VISIBLE_DEVICES",),
    "ROCm": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    "SYCL": ("ONEAPI_DEVICE_SELECTOR",),
    "Vulkan": ("GGML_VK_VISIBLE_DEVICES",),
    "MTL": (),
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as the system knows it.

    pci: its place on the bus ("0000:01:00.0"). total, free: bytes of memory of its own. unified: it has none, and uses
    the host's. driver: the kernel's for it ("nvidia", "nouveau", "amdgpu", "xe"); None where it has none or nobody
    could tell. target: what its programs are compiled for ("8.9" of NVIDIA, "gfx1100" of AMD).
    """

    vendor: Vendor
    name: str
    pci: str | None = None
    total: int | None = None
    free: int | None = None
    unified: bool = False
    driver: str | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True)
class NvidiaDriver:
    """NVIDIA's driver: its version ("550.54.14"), the newest CUDA it runs ("12.4"), and why it does not answer."""

    version: str | None = None
    cuda: str | None = None
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class GpuReport:
    """Every GPU that was found; nvidia is None where there is no such driver; notes: what could not be seen."""

    gpus: tuple[Gpu, ...] = ()
    nvidia: NvidiaDriver | None = None
    notes: tuple[str, ...] = ()


def is_minor(gpu: Gpu) -> bool:
    """Whether a GPU is a small one beside the processor's cores, which an engine may well leave alone.

    Apple's, and NVIDIA's GB10 and Orin, share the host's memory and are what their machine is for.
    """
    return gpu.unified and gpu.vendor in ("amd", "intel")


def clean_name(text: str) -> str:
    """Return a device's name without control characters and doubled spaces."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split())


def parse_number(text: str | None) -> int | None:
    """Return a file's only number, hexadecimal with 0x; None for anything else."""
    try:
        return int((text or "").strip(), 0)
    except ValueError:
        return None
