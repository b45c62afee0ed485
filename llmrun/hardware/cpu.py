"""What the CPU can do that changes how llama.cpp keeps weights. Reading and understanding apart."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

# Types repacked, with what their number of rows must be a multiple of: llama.cpp 0c1e57098, ggml-cpu/repack.cpp,
# ggml_repack_get_optimal_repack_type. Of several layouts for a type the one with the weakest condition counts.
_AVX2 = {"Q4_0": 8, "Q4_K": 8, "IQ4_NL": 8, "MXFP4": 8}
_AVX512 = {"Q2_K": 8}
_NEON_DOTPROD = {"Q4_0": 4, "Q4_K": 8, "Q5_K": 8, "Q6_K": 8, "IQ4_NL": 4, "MXFP4": 4, "Q8_0": 4}

# ggml_cpu_has_avx512 asks only for the foundation; a build for this machine has it if the machine has it
_FLAG_AVX2, _FLAG_AVX512, _FLAG_DOTPROD = "avx2", "avx512f", "asimddp"


def parse_cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the features of the first processor in the text of /proc/cpuinfo."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def repack_rows(machine: str, flags: frozenset[str]) -> Mapping[str, int]:
    """Return the types a CPU repacks when it is told to, each with what the rows must be a multiple of."""
    if machine in ("x86_64", "AMD64", "amd64", "i686"):
        rules = {**(_AVX2 if _FLAG_AVX2 in flags else {}), **(_AVX512 if _FLAG_AVX512 in flags else {})}
    else:
        rules = dict(_NEON_DOTPROD) if _FLAG_DOTPROD in flags else {}
    return MappingProxyType(rules)


def read_repack_rows() -> Mapping[str, int]:
    """Return what this machine's CPU repacks; nothing where its features cannot be read."""
    try:
        flags = parse_cpu_flags(Path("/proc/cpuinfo").read_text("utf-8", "replace"))
    except OSError:
        # Apple's chips all have the dot product, and there is no such file
        flags = frozenset({_FLAG_DOTPROD}) if platform.machine() == "arm64" else frozenset()
    return repack_rows(platform.machine(), flags)
