"""What llama.cpp's own reader (gguf.cpp) says to GGUF files: python -m scripts.fuzzing.llama FILE...

Prints a line of "yes" or "no" for each. Run it as a process of its own: an assertion in there ends the program.
"""

from __future__ import annotations

import ctypes
import os
import sys

from llama_cpp import llama_cpp


class _Parameters(ctypes.Structure):  # gguf.h, struct gguf_init_params
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def is_accepted(path: str) -> bool:
    """Whether gguf_init_from_file takes a file; it reads the header only."""
    library = llama_cpp._lib
    read, free = library["gguf_init_from_file"], library["gguf_free"]
    read.restype, read.argtypes = ctypes.c_void_p, [ctypes.c_char_p, _Parameters]
    free.restype, free.argtypes = None, [ctypes.c_void_p]
    context = read(os.fsencode(path), _Parameters(True, None))
    free(context)
    return context is not None


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print("yes" if is_accepted(name) else "no", flush=True)
