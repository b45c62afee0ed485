"""In which layouts the installed engine keeps weights on this processor, without importing it."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Literal

from llmrun.engine.build import library_folder
from llmrun.hardware.cpu import FLAGS_AMX, cpu_layouts, read_cpu
from llmrun.hardware.layout import Layouts

AmxCode = Literal["none", "whole", "unknown"]

_AMX_CODE = b"AMX is not ready to be used!"  # what ggml-cpu/amx/amx.cpp says where the system refuses it
_AMX_MENDED = b"AMX tiles are configured as a whole"  # scripts/setup/include/amxtileintrin.h


@cache
def read_layouts() -> Layouts:
    """Return the layouts that models may be run in here; none where the processor's features cannot be read.

    None, too, where the engine would die of them: compiled by GCC 12 as it is, llama.cpp's AMX code ends the process at
    the first quantized matrix, and that it was not cannot be seen (Clang's is whole, and says nothing of it).
    """
    flags = read_cpu().flags
    if flags >= FLAGS_AMX:
        code = amx_code(library_folder())
        if code == "unknown":
            return {}
        flags -= FLAGS_AMX if code == "none" else frozenset()
    return cpu_layouts(platform.machine(), flags)


def amx_code(folder: Path | None) -> AmxCode:
    """Return what the libraries in an engine's folder say of AMX: unknown where it may be broken, or none is read."""
    files = [] if folder is None else sorted(folder.glob("*ggml-cpu*"))
    try:
        texts = [file.read_bytes() for file in files]
    except OSError:
        return "unknown"
    compiled = [text for text in texts if _AMX_CODE in text]
    if texts and not compiled:
        return "none"
    return "whole" if texts and all(_AMX_MENDED in text for text in compiled) else "unknown"
