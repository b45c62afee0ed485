"""What the engine's C and C++ are compiled with besides what CMake says."""

from __future__ import annotations

import shlex
from pathlib import Path

from .machine import Machine

INCLUDE = Path(__file__).resolve().parent / "include"


def compiler_options(machine: Machine) -> str:
    """Return them as the environment's CFLAGS and CXXFLAGS want them; what each header mends it says itself."""
    faster = ["-include", str(INCLUDE / "half_floats.h")] if "avx512_fp16" in machine.features else []
    return shlex.join([*shlex.split(needed_options(machine)), *faster])


def needed_options(machine: Machine) -> str:
    """Return those without which llama.cpp dies: where the processor has AMX and the compiler is GCC 12."""
    return shlex.join([f"-I{INCLUDE}"]) if "amx_int8" in machine.features else ""
