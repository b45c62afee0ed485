"""The programs an engine is built with: where they are, and which version they say they are."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from llmrun.doctor.facts import Tool
from llmrun.hardware.processes import ask_program, find_program

# Where installers put them without telling PATH, and how each is asked for its version.
_PLACES: dict[str, tuple[str, ...]] = {
    "nvcc": ("$CUDA_HOME/bin", "$CUDA_PATH/bin", "/usr/local/cuda/bin", "/opt/cuda/bin"),
    "hipcc": ("$ROCM_PATH/bin", "$HIP_PATH/bin", "/opt/rocm/bin"),
    "glslc": ("$VULKAN_SDK/bin", "$VULKAN_SDK/Bin"),
    "icpx": ("/opt/intel/oneapi/compiler/latest/bin",),
    "c++": (),
    "xcode-select": (),
}
_ASK = {"xcode-select": ("-p",)}
_SYSTEMS = {"xcode-select": ("darwin",), "hipcc": ("linux", "win32"), "nvcc": ("linux", "win32")}
COMPILERS = ("c++", "g++", "clang++", "cl")
_STAND_INS = {"c++": COMPILERS}


def read_tools(variables: Mapping[str, str] = os.environ, system: str = sys.platform) -> dict[str, Tool]:
    """Look for each program that some backend is built with; those that are not there are left out."""
    found = {}
    for name, places in _PLACES.items():
        folders = [folder for place in places if (folder := _expand(place, variables))]
        names = _STAND_INS.get(name, (name,))
        path = next((path for one in names if (path := find_program(one, folders))), None)
        if path is None or system not in _SYSTEMS.get(name, (system,)):
            continue
        said = ask_program([path, *_ASK.get(name, ("--version",))])
        if name in _ASK and said.code != 0:  # xcode-select is always there, its tools need not be
            continue
        found[name] = Tool(path, parse_version(name, said.out))
    return found


def parse_version(tool: str, text: str) -> str | None:
    """Return the version a tool says it is: nvcc's "release 12.4", hipcc's "HIP version: 6.2"."""
    pattern = {
        "nvcc": r"release (\d+\.\d+)",
        "hipcc": r"HIP version: (\d+\.\d+)",
        "glslc": r"shaderc v?(\d+(?:\.\d+)*)",
        "icpx": r"Compiler (\d+\.\d+(?:\.\d+)?)",
    }.get(tool, r"(\d+\.\d+(?:\.\d+)?)")
    match = re.search(pattern, text)
    return match[1] if match else None


def read_distribution(root: Path = Path("/")) -> str | None:
    """Return which family of Linux this is; None elsewhere."""
    for name in ("etc/os-release", "usr/lib/os-release"):
        path = root / name
        if path.is_file():
            return parse_os_release(path.read_text("utf-8", "replace"))
    return None


def parse_os_release(text: str) -> str | None:
    """Return "debian", "fedora", "arch" or "suse" for that family's systems, any other by its own name."""
    rows = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', text, re.MULTILINE))
    names = [rows.get("ID", ""), *rows.get("ID_LIKE", "").split()]
    families = {"ubuntu": "debian", "debian": "debian", "rhel": "fedora", "fedora": "fedora", "arch": "arch"}
    families |= {"suse": "suse", "opensuse": "suse"}
    return next((families[name] for name in names if name in families), names[0] or None)


def _expand(place: str, variables: Mapping[str, str]) -> str | None:
    """Put a variable's value in the place of its name; None where it is not set."""
    if not place.startswith("$"):
        return place
    name, _, rest = place[1:].partition("/")
    value = variables.get(name)
    return f"{value}/{rest}" if value else None
