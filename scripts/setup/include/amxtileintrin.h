// Stands before the compiler's header of this name, and mends it.
//
// GCC 12's tells the compiler that the instruction which configures AMX's tiles reads 8 of the configuration's 64
// bytes, so what is written into the others just before is left out, and llama.cpp dies at its first quantized matrix.
// Compilers without a header of this name, Clang among them, never see this one.
#pragma once
#include_next <amxtileintrin.h>

// llmrun looks for this text in the engine's library (llmrun.engine.layouts).
static const char llmrun_amx[] __attribute__((used)) = "AMX tiles are configured as a whole";

static inline __attribute__((always_inline)) void llmrun_written(const void *config) {
    __asm__ volatile("" : : "r"(config) : "memory");
}

#define _tile_loadconfig(config) (llmrun_written(config), _tile_loadconfig(config))
