"""What a Mac says of itself: sysctl and vm_stat, asked and read. What it means is for others to know."""

from __future__ import annotations

import re

from llmrun.hardware.processes import ask_program

# All that any module here wants to know, in one question; sysctl leaves out what a machine does not have.
SYSCTL_NAMES = (
    "hw.memsize",
    "vm.swapusage",
    "machdep.cpu.brand_string",
    "hw.logicalcpu",
    "hw.physicalcpu",
    "hw.perflevel0.physicalcpu",
    "hw.optional.arm64",
    "hw.optional.neon",
    "hw.optional.AdvSIMD",
    "hw.optional.arm.FEAT_DotProd",
    "hw.optional.arm.FEAT_I8MM",
    "hw.optional.arm.FEAT_BF16",
    "hw.optional.arm.FEAT_SME",
    "hw.optional.arm.FEAT_SME2",
    "machdep.cpu.features",
    "machdep.cpu.leaf7_features",
)


def read_sysctl() -> str:
    """Return sysctl's answer to all those names; empty where it does not answer."""
    return ask_program(["/usr/sbin/sysctl", *SYSCTL_NAMES]).out


def parse_sysctl(text: str) -> dict[str, str]:
    """Understand lines as "hw.memsize: 17179869184"."""
    pairs = (line.partition(": ") for line in text.splitlines())
    return {name: value.strip() for name, colon, value in pairs if colon}


def read_vm_stat() -> str:
    """Return what vm_stat says; empty where it does not answer."""
    return ask_program(["/usr/bin/vm_stat"]).out


def parse_vm_stat(text: str) -> dict[str, int]:
    """Understand vm_stat: bytes by its own names ("Pages free"); nothing where it tells no size of a page."""
    size = re.search(r"page size of (\d+) bytes", text)
    rows = re.findall(r'^"?([^":]+)"?:\s+(\d+)\.$', text, re.MULTILINE)
    return {name: int(count) * int(size[1]) for name, count in rows} if size else {}
