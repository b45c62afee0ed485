"""The headers that the engine is compiled with mend what they say they mend, whatever processor is here."""

from __future__ import annotations

import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.setup.machine import Machine
from scripts.setup.options import compiler_options


def options_for(*features: str) -> list[str]:
    return shlex.split(compiler_options(Machine("linux", "x86_64", None, None, frozenset(features))))


def test_a_tile_configuration_is_written_as_a_whole(tmp_path: Path) -> None:
    """What is written into it just before it is loaded must not be left out, which GCC 12's own header allows."""
    compiler = shutil.which("c++")
    if compiler is None or platform.machine() != "x86_64":
        pytest.skip("needs a C++ compiler for x86-64")
    source, made = tmp_path / "tiles.cpp", tmp_path / "tiles.s"
    source.write_text(_TILES)
    flags = [
        "-O3",
        "-mamx-tile",
        "-mavx512f",
        *options_for("amx_int8"),
    ]
    subprocess.run([compiler, *flags, "-S", str(source), "-o", str(made)], check=True)
    assert "$113" in made.read_text()  # the number that only the last of the 64 bytes is given


_TILES = """#include <cstdint>
#include <immintrin.h>
struct config { uint8_t palette, start, reserved[14]; uint16_t columns[16]; uint8_t rows[16]; };
void configure() {
    config one = {};
    one.palette = 1;
    one.rows[15] = 113;
    _tile_loadconfig(&one);
}
"""


def test_what_is_left_of_a_row_of_halves_is_taken_by_register(tmp_path: Path) -> None:
    """The header is compiled before a copy of llama.cpp's loops, with registers of 32 numbers that any machine has."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    for name, text in _HALVES.items():
        (tmp_path / name).write_text(text)
    flags = [f"-I{tmp_path}", "-D__AVX512FP16__", "-Wno-psabi", *options_for("avx512_fp16")]
    program = tmp_path / "program"
    subprocess.run([compiler, *flags, str(tmp_path / "program.cpp"), "-o", str(program)], check=True)
    rows = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    # of so many numbers so many one by one, before and now
    assert rows == ["1:1,1", "31:31,31", "32:32,0", "64:64,0", "80:80,16", "96:96,0", "128:0,0", "131:3,3", "448:64,0"]


_HALVES = {
    "simd-mappings.h": """#include <string.h>
typedef float ggml_fp16_t;
typedef float vec __attribute__((vector_size(128)));
#define GGML_F16_STEP 128
#define GGML_F16_EPR 32
#define GGML_F16_VEC vec
#define GGML_F16_VEC_SET1(v) (vec{} + (v))
static inline vec load(const float *p) { vec a; memcpy(&a, p, sizeof a); return a; }
#define GGML_F16_VEC_LOAD(p, i) load(p)
#define GGML_F16_VEC_STORE(p, r, i) memcpy(p, &r[i], sizeof(vec))
#define GGML_F16_VEC_FMA(a, b, c) ((a) + (b) * (c))
#define GGML_F16_VEC_MUL(a, b) ((a) * (b))
""",
    "vec.h": """#pragma once
#include "simd-mappings.h"
static int one_by_one = 0;
inline static void ggml_vec_mad_f16(const int n, float *y, const float *x, const float v) {
    for (int i = 0; i < n; i++) y[i] += x[i] * v;
    one_by_one += n % GGML_F16_STEP;
}
inline static void ggml_vec_scale_f16(const int n, float *y, const float v) {
    for (int i = 0; i < n; i++) y[i] *= v;
    one_by_one += n % GGML_F16_STEP;
}
""",
    "program.cpp": """#include "vec.h"
#include <initializer_list>
#include <stdio.h>
static int counted(int n, int *as_it_is) {
    float x[512], mended[512], plain[512];
    for (int i = 0; i < 512; i++) x[i] = i, mended[i] = plain[i] = 7 * i + 1;
    one_by_one = 0;
    llmrun_mad_by_128(n, plain, x, 3);
    *as_it_is = one_by_one;
    llmrun_scale_by_128(n, plain, 2);
    one_by_one = 0;
    ggml_vec_mad_f16(n, mended, x, 3);
    int left = one_by_one;
    ggml_vec_scale_f16(n, mended, 2);
    return memcmp(mended, plain, sizeof plain) || one_by_one != 2 * left ? -1 : left;
}
int main() {
    for (int n : {1, 31, 32, 64, 80, 96, 128, 131, 448}) {
        int as_it_is, left = counted(n, &as_it_is);
        printf("%d:%d,%d\\n", n, as_it_is, left);
    }
}
""",
}
