"""What tells one machine from another, as far as speed goes: what was measured on one holds as long as this is equal.

Reading and understanding apart. Detection observes: what cannot be seen is left out, and nothing is raised.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from dataclasses import astuple, dataclass
from importlib import metadata, util
from pathlib import Path

from llmrun.hardware.cpu import parse_cpu_flags
from llmrun.hardware.host_memory import read_host_memory
from llmrun.hardware.power import read_on_battery

# Features by which llama.cpp's CPU code chooses its kernels (ggml-cpu/ggml-cpu.c, ggml_cpu_has_*)
_FEATURES = """
    sse3 ssse3 avx avx2 avx_vnni fma f16c bmi2 avx512f avx512bw avx512_vbmi avx512_vnni avx512_bf16 amx_tile amx_int8
    asimddp asimdhp i8mm sve sve2 sme bf16 vsx v
"""
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A machine, its engine, and what feeds it.

    cores: processors this process may use. memory: GiB, rounded, because the kernel's own share varies. on_battery:
    None where that cannot be told. engine: its version and build.
    """

    cpu: str
    cores: int
    features: tuple[str, ...]
    memory: int
    on_battery: bool | None
    engine: tuple[str, ...]

    def key(self) -> str:
        """Return a short name for all of it."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:24]


def parse_cpu_name(cpuinfo: str) -> str | None:
    """Return the name of the first processor in the text of /proc/cpuinfo; ARM's has only numbers."""
    found = re.search(r"^(?:model name|Hardware|cpu model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if found:
        return found[1].strip()
    parts = re.findall(r"^CPU (implementer|part|variant)\s*:\s*(\S+)$", cpuinfo, re.MULTILINE)
    return " ".join(value for _, value in parts[:3]) or None


def read_fingerprint() -> Fingerprint:
    """Return this machine's fingerprint now."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        cpuinfo = ""
    known = hasattr(os, "sched_getaffinity")  # not on macOS and Windows
    return Fingerprint(
        cpu=parse_cpu_name(cpuinfo) or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1,
        features=tuple(sorted(parse_cpu_flags(cpuinfo) & frozenset(_FEATURES.split()))),
        memory=round(read_host_memory().total / _GIB),
        on_battery=read_on_battery(),
        engine=read_engine_build(),
    )


def read_engine_build() -> tuple[str, ...]:
    """Return the installed engine's version and its libraries, by size and time; nothing of it is loaded."""
    try:
        version = metadata.version("llama-cpp-python")
        found = util.find_spec("llama_cpp")  # a search, not an import
    except (metadata.PackageNotFoundError, ValueError, ImportError):
        return ()
    folder = Path(found.origin).parent / "lib" if found is not None and found.origin else Path()
    files = (f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in sorted(folder.glob("*")))
    return (version, platform.machine(), *files)
