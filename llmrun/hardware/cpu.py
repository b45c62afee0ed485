"""The processor: its name and what it can do, of that what changes how llama.cpp keeps weights."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from llmrun.hardware.cores import Core
from llmrun.hardware.files import read_text
from llmrun.hardware.layout import Layout, Layouts
from llmrun.hardware.macos import parse_sysctl, read_sysctl

# Types repacked, with what their number of rows must be a multiple of: llama.cpp 0c1e57098, ggml-cpu/repack.cpp,
# ggml_repack_get_optimal_repack_type. Of several layouts for a type the one with the weakest condition counts.
_AVX2 = {"Q4_0": 8, "Q4_K": 8, "IQ4_NL": 8, "MXFP4": 8}
_AVX512 = {"Q2_K": 8}
_NEON_DOTPROD = {"Q4_0": 4, "Q4_K": 8, "Q5_K": 8, "Q6_K": 8, "IQ4_NL": 4, "MXFP4": 4, "Q8_0": 4}
# What AMX's buffers take before those (ggml-cpu.cpp asks them first): what the number of columns must be a multiple of,
# and bytes more in each block (ggml-cpu/amx/amx.cpp, supports_op, and mmq.cpp, get_row_size).
_AMX = {
    "Q4_0": (32, 0),
    "Q4_1": (32, 0),
    "Q8_0": (32, 4),
    "Q4_K": (256, 4),
    "Q5_K": (256, 4),
    "Q6_K": (256, 0),
    "IQ4_XS": (256, 2),
    "F16": (16, 0),
}
_AMX_ROWS = 32
FLAGS_AMX = frozenset({"amx_tile", "amx_int8", "avx512_vnni"})

# ggml_cpu_has_avx512 asks only for the foundation; a build for this machine has it if the machine has it
_FLAG_AVX2, _FLAG_AVX512, _FLAG_DOTPROD = "avx2", "avx512f", "asimddp"

# The features llama.cpp has code for (ggml-cpu.cpp, get_features), by Linux's names, which stand for all systems here.
_X86 = ("pni", "ssse3", "avx", "avx_vnni", _FLAG_AVX2, "f16c", "fma", "bmi2")
_X86_512 = (_FLAG_AVX512, "avx512vbmi", "avx512_vbmi", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
_ARM = ("asimd", _FLAG_DOTPROD, "asimdhp", "i8mm", "bf16", "sve", "sve2", "sme", "sme2")
_FEATURES = frozenset((*_X86, *_X86_512, *_ARM))
_MAC_ARM = {
    "hw.optional.neon": "asimd",
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.arm.FEAT_DotProd": _FLAG_DOTPROD,
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
    "hw.optional.arm.FEAT_SME2": "sme2",
}
_MAC_INTEL = {"sse3": "pni", "avx1.0": "avx"}
# winnt.h, PF_*_INSTRUCTIONS_AVAILABLE
_WINDOWS = {
    13: "pni",
    19: "asimd",
    36: "ssse3",
    39: "avx",
    40: _FLAG_AVX2,
    41: _FLAG_AVX512,
    43: _FLAG_DOTPROD,
    46: "sve",
    47: "sve2",
    60: "bmi2",
    66: "i8mm",
    68: "bf16",
    70: "sme",
    71: "sme2",
}


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """A processor. name: None where it tells none. The cores are all there are, whether or not they may be used.

    performance_cores: None where all are alike. features: those that llama.cpp has code for, by Linux's names.
    """

    name: str | None
    physical_cores: int
    logical_cores: int
    performance_cores: int | None
    features: frozenset[str]


@dataclass(frozen=True, slots=True)
class CpuAnswer:
    """What the system says of its processor."""

    name: str | None
    flags: frozenset[str]


def read_cpu(root: Path = Path("/")) -> CpuAnswer:
    """Ask the system for the processor's name and features; root is where Linux's file systems begin."""
    if sys.platform == "linux":
        text = read_text(root / "proc/cpuinfo")
        board = read_text(root / "sys/firmware/devicetree/base/model")
        return CpuAnswer(parse_cpu_name(text) or board.strip("\0\n ") or None, parse_cpu_flags(text))
    if sys.platform == "darwin":
        values = parse_sysctl(read_sysctl())
        return CpuAnswer(values.get("machdep.cpu.brand_string"), mac_flags(values))
    if sys.platform == "win32":
        return CpuAnswer(_read_windows_name(), windows_flags(read_windows_features()))
    return CpuAnswer(platform.processor() or None, frozenset())


def describe(answer: CpuAnswer, cores: Iterable[Core]) -> CpuInfo:
    """Return the processor as a value."""
    known = tuple(cores)
    fast = sum(core.performance for core in known)
    return CpuInfo(
        answer.name,
        len(known),
        sum(len(core.cpus) for core in known),
        fast if 0 < fast < len(known) else None,
        answer.flags & _FEATURES,
    )


def parse_cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the features of the first processor in the text of /proc/cpuinfo."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def parse_cpu_name(cpuinfo: str) -> str | None:
    """Return the processor's name in the text of /proc/cpuinfo; most of Arm's tell none, but some name the board."""
    for key in ("model name", "Model", "Hardware", "cpu"):
        found = re.search(rf"^{key}\s*:\s*(\S.*)$", cpuinfo, re.MULTILINE)
        if found:
            return " ".join(found[1].split())
    return None


def mac_flags(values: Mapping[str, str]) -> frozenset[str]:
    """Return the features of parse_sysctl's values. All of Apple's chips have the dot product, whether they say so."""
    words = " ".join(values.get(f"machdep.cpu.{name}", "") for name in ("features", "leaf7_features")).lower().split()
    found = {_MAC_INTEL.get(word, word) for word in words}
    found |= {flag for name, flag in _MAC_ARM.items() if values.get(name) == "1"}
    return frozenset(found | ({"asimd", _FLAG_DOTPROD} if values.get("hw.optional.arm64") == "1" else set()))


def read_windows_features() -> frozenset[int]:
    """Return which of the numbers we know Windows says yes to; none on another system."""
    if sys.platform != "win32":
        return frozenset()
    present = ctypes.windll.kernel32.IsProcessorFeaturePresent
    return frozenset(number for number in _WINDOWS if present(number))


def windows_flags(features: Iterable[int]) -> frozenset[str]:
    """Return the features of Windows' numbers.

    It has none for FMA, F16C and, before Windows 11, BMI2: every processor with AVX2 that llama.cpp meets has the three
    (its own build for AVX2 takes them for granted). Parts of AVX-512 beyond the foundation cannot be seen at all.
    """
    found = {_WINDOWS[number] for number in features}
    return frozenset(found | ({"fma", "f16c", "bmi2"} if _FLAG_AVX2 in found else set()))


def _read_windows_name() -> str | None:
    if sys.platform == "win32":
        import winreg

        key = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as folder:
                return " ".join(str(winreg.QueryValueEx(folder, "ProcessorNameString")[0]).split())
        except OSError:
            return platform.processor() or None
    return None


def cpu_layouts(machine: str, flags: frozenset[str]) -> Layouts:
    """Return how a CPU repacks weights when it is told to, by type."""
    amx: dict[str, Layout] = {}
    if machine in ("x86_64", "AMD64", "amd64", "i686"):
        rows = {**(_AVX2 if _FLAG_AVX2 in flags else {}), **(_AVX512 if _FLAG_AVX512 in flags else {})}
        if flags >= FLAGS_AMX:
            amx = {name: _amx(columns, more) for name, (columns, more) in _AMX.items()}
    else:
        rows = dict(_NEON_DOTPROD) if _FLAG_DOTPROD in flags else {}
    found = {name: (amx[name],) for name in amx}
    return MappingProxyType(found | {name: (*found.get(name, ()), Layout(number)) for name, number in rows.items()})


def _amx(columns: int, more: int) -> Layout:
    return Layout(_AMX_ROWS, columns, more, "AMX")
