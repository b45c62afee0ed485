"""What the engine's C and C++ are compiled with besides what CMake says, so that it runs, and runs faster."""

from __future__ import annotations

import shlex
from pathlib import Path

from .machine import Machine

INCLUDE = Path(__file__).resolve().parent / "include"


def needed_options(machine: Machine) -> list[str]:
    """Without these llama.cpp dies where the processor has AMX and the compiler is GCC 12 (include/amxtileintrin.h)."""
    return [f"-I{INCLUDE}"] if "amx_int8" in machine.features else []


def faster_options(machine: Machine) -> list[str]:
    """With these it runs faster than as its makers build it.

    For AVX-512's own half floats llama.cpp adds rows of V 128 numbers at a time, and what is left of a row one by one
    (ggml-cpu/vec.h, ggml_vec_mad_f16): all of it where heads have 64, as Llama 3.2's 1B, whose writing that slows by a
    fifth 512 tokens on. Undefined, rows are added 64 at a time in single precision.
    """
    return ["-U__AVX512FP16__"] if "avx512_fp16" in machine.features else []


def engine_options(machine: Machine) -> str:
    """All of them, as the environment's CFLAGS and CXXFLAGS want them."""
    return shlex.join([*needed_options(machine), *faster_options(machine)])
