"""AMD's GPUs: memory from amdgpu's files in sysfs, the compile target from KFD, rocm-smi where those say nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from llmrun.hardware.gpu import Gpu, clean_name, parse_number
from llmrun.hardware.pci import PciDisplay
from llmrun.hardware.processes import ask_program, find_program

_UNNAMED = ("", "N/A", "Unknown")


def parse_amd(display: PciDisplay, targets: Mapping[str, str], name: str | None) -> Gpu:
    """Understand the files of an AMD GPU; targets are those of `parse_kfd`, name is that of its PCI number."""
    total, used, shared = (
        parse_number(display.files.get(f"mem_info_{key}")) for key in ("vram_total", "vram_used", "gtt_total")
    )
    # amdgpu_vram_mgr.c shows no maker of memory chips where there are none: the rest is a carve-out of the host's
    integrated = "mem_info_vram_vendor" not in display.files and total is not None and total < (shared or 0)
    own = None if integrated else total
    return Gpu(
        "amd",
        clean_name(display.files.get("product_name", "")) or name or f"AMD GPU {display.device:#06x}",
        display.address,
        own,
        None if own is None or used is None else max(0, own - used),
        integrated,
        display.driver,
        targets.get(display.address),
    )


def read_kfd(root: Path = Path("/")) -> tuple[str, ...]:
    """Return the properties of each node of AMD's compute driver, none where it is not there."""
    paths = sorted(root.glob("sys/class/kfd/kfd/topology/nodes/*/properties"))
    texts = []
    for path in paths:
        try:
            texts.append(path.read_text("utf-8", "replace"))
        except OSError:  # a container may see the file and not be let to it
            continue
    return tuple(texts)


def parse_kfd(nodes: Iterable[str]) -> dict[str, str]:
    """Return the compile target of each GPU by its PCI address: {"0000:03:00.0": "gfx1100"}."""
    targets = {}
    for text in nodes:
        rows = {key: parse_number(value) for key, _, value in (line.partition(" ") for line in text.splitlines())}
        version, place = rows.get("gfx_target_version") or 0, rows.get("location_id") or 0
        if version:
            # kfd_topology.c: bus << 8 | devfn, and the version as decimal major, minor and stepping
            address = f"{rows.get('domain') or 0:04x}:{place >> 8 & 0xFF:02x}:{place >> 3 & 0x1F:02x}.{place & 7}"
            targets[address] = f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"
    return targets


def read_rocm_smi() -> str:
    """Return what rocm-smi says as JSON, empty where it is not installed or does not answer."""
    program = find_program("rocm-smi", ("/opt/rocm/bin",))
    if program is None:
        return ""
    return ask_program([program, "--showproductname", "--showmeminfo", "vram", "--showbus", "--json"]).out


def parse_rocm_smi(text: str) -> dict[str, Gpu]:
    """Understand rocm-smi's JSON of names, memory and bus, by PCI address; nothing where it is no such JSON.

    The keys' capitals differ between versions: "Card series" was "Card Series" before.
    """
    try:
        cards = json.loads(text[text.index("{") :])
    except ValueError:
        return {}
    found = {}
    for key, card in cards.items():
        if not re.fullmatch(r"card\d+", key) or not isinstance(card, dict):
            continue
        rows = {str(name).lower(): str(value) for name, value in card.items()}
        total, used = (parse_number(rows.get(f"vram total {word}memory (b)")) for word in ("", "used "))
        names = [clean_name(rows.get(name, "")) for name in ("card series", "device name", "card model")]
        name = next((name for name in names if name not in _UNNAMED and not name.startswith("0x")), "AMD GPU")
        address = rows.get("pci bus", key).lower()
        target = rows.get("gfx version")
        free = None if total is None or used is None else max(0, total - used)
        found[address] = Gpu("amd", name, address, total, free, False, None, target)
    return found


def fill_from_rocm_smi(gpus: Iterable[Gpu], said: Mapping[str, Gpu]) -> tuple[Gpu, ...]:
    """Return the GPUs with what rocm-smi knows and sysfs did not say."""
    return tuple(
        replace(gpu, total=other.total, free=other.free, target=gpu.target or other.target)
        if (other := said.get(gpu.pci or "")) is not None and gpu.total is None and not gpu.unified
        else gpu
        for gpu in gpus
    )
